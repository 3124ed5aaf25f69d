"""The simulation behind docs/scaling.md keeps the books, and agrees with what is known of queues."""

import sys
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from simulate_scale import DAY, HOUR, PLACEMENTS, Fleet, Outcome, Plan, erlang_b, load_for, main, table

plans = some.builds(
    Plan,
    gpus=some.integers(1, 6),
    peak=some.floats(1, 40),
    slots=some.integers(1, 6),
    queue=some.integers(0, 2),
    placement=some.sampled_from(sorted(PLACEMENTS)),
    scales=some.booleans(),
    between_failures=some.sampled_from([HOUR, inf]),
    duration=some.just(3 * HOUR),
    seed=some.integers(0, 1000),
)


def run(plan: Plan) -> Outcome:
    return Fleet(plan).run()


@settings(max_examples=50, deadline=None)
@given(plans)
def test_every_talk_has_one_end(plan: Plan) -> None:
    out = run(plan)
    assert out.arrived == out.finished + out.refused + sum(out.losses) + out.held
    assert max(out.losses, default=0) <= plan.slots + plan.queue
    assert out.talked <= out.powered * plan.slots
    assert out.powered <= plan.gpus * plan.duration * (1 + 1e-9)
    assert plan.between_failures < inf or not out.losses


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("load", [16.0, 20.0, 28.0])
def test_without_queue_and_failures_it_refuses_as_erlang_says(placement: str, load: float) -> None:
    """Also with lengths that are far from exponential, as Erlang's formula promises."""
    out = run(Plan(4, load, 5, 0, placement, wave=0.0, between_failures=inf, duration=8 * DAY))
    assert out.refused / out.arrived == pytest.approx(erlang_b(load, 20), abs=0.015)
    assert not any(out.waits)


def test_erlang_b_and_its_inverse() -> None:
    assert erlang_b(2.0, 2) == pytest.approx(0.4)  # 2 / (1 + 2 + 2)
    for slots in (1, 16, 160, 1600):
        assert erlang_b(load_for(slots), slots) <= 0.01 < erlang_b(load_for(slots) + 0.1, slots)
    assert load_for(1600) / 1600 > load_for(16) / 16  # many together need less room each


@pytest.mark.parametrize("queue", [0, 1])
@pytest.mark.parametrize("scales", [False, True])
def test_more_gpus_never_refuse_more(queue: int, scales: bool) -> None:
    """On the mean of several days."""
    refused = [
        np.mean([run(Plan(gpus, 24.0, 8, queue, scales=scales, seed=seed)).refused for seed in range(4)])
        for gpus in (1, 2, 3, 4, 6)
    ]
    assert refused == sorted(refused, reverse=True)
    assert refused[0] > 0


def test_a_failure_costs_the_same_on_average_but_at_most_less_where_talks_are_spread() -> None:
    plan = Plan(8, 40.0, between_failures=8 * HOUR, wave=0.0, duration=4 * DAY)
    losses = {
        placement: [loss for seed in range(4) for loss in run(replace(plan, placement=placement, seed=seed)).losses]
        for placement in ("least connections", "fullest first")
    }
    spread, filled = losses.values()
    assert np.mean(spread) == pytest.approx(np.mean(filled), rel=0.25)
    assert np.std(spread) < np.std(filled)
    assert np.percentile(spread, 95) < np.percentile(filled, 95)


def test_a_fleet_that_scales_runs_for_fewer_hours() -> None:
    fixed = Plan(8, load_for(128))
    assert run(replace(fixed, scales=True)).powered < 0.9 * run(fixed).powered == pytest.approx(0.9 * 8 * DAY)


def test_the_same_seed_gives_the_same_table() -> None:
    def lines(seed: int) -> str:
        return table(Plan(2, 8.0, 4, placement=name, between_failures=HOUR, seed=seed) for name in PLACEMENTS)

    assert lines(1) == lines(1) != lines(2)
    assert len({line.count("|") for line in lines(1).splitlines()}) == 1
    assert len(lines(1).splitlines()) == 2 + len(PLACEMENTS)


@pytest.mark.parametrize("option", ["gpus", "slots", "queue", "seed"])
@pytest.mark.parametrize("value", [-1, 0, 1])
def test_any_number_is_a_fleet_or_refused(
    option: str, value: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["simulate_scale.py", "--gpus", "1", "--slots", "2", f"--{option}", str(value)])
    if value == 1 or (value == 0 and option in ("queue", "seed")):
        main()
        assert capsys.readouterr().out.count("|\n") == 8
    else:
        with pytest.raises(SystemExit, match="2"):
            main()
        assert f"argument --{option}: {value} is less than" in capsys.readouterr().err
