"""What fits into which GPU, by the 7B's shapes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.errors import DeviceError
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.loader import memory_plan
from personaplex_cli.loader.memory_plan import MemoryPlan, Needs, needs, plan_memory
from personaplex_cli.loader.precision import Precision
from personaplex_cli.options import MAX_SLOTS

GB = 10**9
BF16, INT8, INT4 = (Precision(name, torch.bfloat16) for name in ("bf16", "int8", "int4"))
NEEDS = {precision: needs(PERSONAPLEX, precision) for precision in (BF16, INT8, INT4)}
WANTED = list(NEEDS.items())


def test_the_7b_needs_what_its_shapes_say() -> None:
    """In GB, without its embedding tables: weights, a whole context, Mimi and 0.7 to work in."""
    totals = {precision.name: need.total(3000) / GB for precision, need in NEEDS.items()}
    assert totals == pytest.approx({"bf16": 17.5, "int8": 10.3, "int4": 7.4}, abs=0.15)
    assert all(need.position == 524_288 and need.layers == 32 for need in NEEDS.values())


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (23.5, MemoryPlan(BF16, 3000)),
        (15.5, MemoryPlan(INT8, 3000)),
        (11.0, MemoryPlan(INT8, 3000)),
        (10.0, MemoryPlan(INT8, 2250)),
        (7.6, MemoryPlan(INT4, 3000)),
        (7.0, MemoryPlan(INT4, 2000)),
    ],
)
def test_auto_takes_the_best_that_fits(free: float, expected: MemoryPlan) -> None:
    chosen = plan_memory(int(free * GB), WANTED, 3000)
    assert (chosen.precision, chosen.streamed) == (expected.precision, 0)
    assert abs(chosen.context - expected.context) <= 250


@given(st.floats(0, 30), st.integers(1, 6000), st.booleans(), st.integers(0, 2))
def test_what_is_chosen_fits_and_is_never_more_than_asked(free: float, context: int, offload: bool, first: int) -> None:
    memory = int(free * GB)
    try:
        chosen = plan_memory(memory, WANTED[first:], context, offload)
    except DeviceError as error:
        assert "GB" in str(error) and error.hint
        return
    need = NEEDS[chosen.precision]
    assert need.total(chosen.context, chosen.streamed) <= memory
    assert min(1500, context) <= chosen.context <= context
    assert chosen.streamed == 0 or offload
    if chosen.streamed:
        assert need.total(chosen.context, chosen.streamed - 1) > memory


@given(st.floats(5, 30), st.floats(0, 5))
def test_more_memory_is_never_worse(free: float, more: float) -> None:
    order = [INT4, INT8, BF16]

    def rank(memory: float) -> tuple[int, int]:
        try:
            chosen = plan_memory(int(memory * GB), WANTED, 3000)
        except DeviceError:
            return (-1, 0)
        return order.index(chosen.precision), chosen.context

    assert rank(free + more) >= rank(free)


def test_a_precision_that_was_asked_for_is_not_changed() -> None:
    with pytest.raises(DeviceError, match=r"bf16 needs 16\.\d GB .* 12\.0 GB are free"):
        plan_memory(12 * GB, WANTED[:1], 3000)
    assert plan_memory(12 * GB, WANTED[:1], 3000, offload=True).streamed > 10


def test_streaming_needs_two_places_at_most() -> None:
    need = Needs(base=100, layer=10, layers=4, position=1)
    assert [need.total(0, streamed) for streamed in range(5)] == [140, 140, 140, 130, 120]


# The table in README: conversations at once, with nothing else on the GPU.
AT_ONCE = {
    12: {"int8": 2, "int4": 3},
    16: {"int8": 4, "int4": 6},
    24: {"bf16": 5, "int8": 9, "int4": 11},
    48: {"bf16": 19, "int8": 24, "int4": 26},
    80: {"bf16": 39, "int8": 44, "int4": 46},
    141: {"bf16": 64, "int8": 64, "int4": 64},
}


@pytest.mark.parametrize("size", AT_ONCE)
def test_so_many_conversations_have_room_beside_the_model(size: int) -> None:
    room = {precision.name: min(MAX_SLOTS, need.slots(size * GB, 3000)) for precision, need in NEEDS.items()}
    assert {name: slots for name, slots in room.items() if slots} == AT_ONCE[size]


@given(st.floats(5, 200), st.integers(1, 64), st.integers(0, 2))
def test_as_many_fit_as_there_is_room_for(free: float, slots: int, which: int) -> None:
    memory, (precision, need) = int(free * GB), WANTED[which]
    room = need.slots(memory, 3000)
    assert room == 0 or need.total(3000, slots=room) <= memory < need.total(3000, slots=room + 1)
    if slots <= room:
        assert plan_memory(memory, [(precision, need)], 3000, slots=slots) == MemoryPlan(precision, 3000, 0, slots)
    elif need.total(1500, slots=slots) > memory:
        with pytest.raises(DeviceError) as refused:
            plan_memory(memory, [(precision, need)], 3000, slots=slots)
        assert "--batch-size" in (refused.value.hint or "") or slots == 1


@pytest.mark.parametrize(("speed", "most"), [(300, 1), (1000, 10), (3350, 57), (8000, MAX_SLOTS)])
def test_auto_takes_no_more_than_are_answered_in_time(speed: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bf16 model on a GPU of any size: all rings full, a step takes at most 40 ms."""
    monkeypatch.setattr(memory_plan, "bandwidth", lambda device: speed * GB)
    assert memory_plan._slots_in_time(NEEDS[BF16], 3000, 1000 * GB, torch.device("cuda")) == most
