"""Before 17 GB are downloaded the machine is looked at: what cannot work is refused, what will happen is said."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from fakehub import FakeHub
from huggingface_hub.utils import reset_sessions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personaplex_cli.errors import DeviceError, PersonaplexError
from personaplex_cli.events import Downloading, Event, Note
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.loader import memory_plan
from personaplex_cli.loader.load import load_cold
from personaplex_cli.loader.memory_plan import choose_plan
from personaplex_cli.options import LiveModelOptions, ModelOptions

GB = 10**9
CPU, MPS = torch.device("cpu"), torch.device("mps")


def machine(monkeypatch: pytest.MonkeyPatch, free: float | None, speed: float, total: float | None = None) -> None:
    """So many GB of memory, and GB that are read in a second."""
    sizes = tuple(None if each is None else int(each * GB) for each in (free, total if total else free))
    monkeypatch.setattr(memory_plan, "main_memory", lambda: sizes)
    monkeypatch.setattr(memory_plan, "bandwidth", lambda device: speed * GB)


@pytest.fixture
def hub(tmp_path, random_folder, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with FakeHub(random_folder) as hub:
        yield hub
    reset_sessions()


def notes(events: list[Event]) -> str:
    return " ".join(each.text for each in events if isinstance(each, Note))


@pytest.mark.parametrize(
    ("options", "free", "words"),
    [
        (LiveModelOptions(device="cpu"), 20, "needs 33.9 GB of main memory, and 20.0 GB are free"),
        (LiveModelOptions(device="cpu"), 64, "too slow to talk"),
        (ModelOptions(device="cpu"), 20, "needs 33.9 GB"),
    ],
)
def test_what_cannot_work_is_refused_before_the_hub_is_asked(
    options: ModelOptions, free: float, words: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, free, 30)
    with pytest.raises(DeviceError, match=words) as caught:
        load_cold(options)
    assert not hub.asked
    helps = ["--server", "--model demo", "--force" if isinstance(options, LiveModelOptions) else "--precision bf16"]
    assert all(each in caught.value.hint for each in helps)


@pytest.mark.parametrize(
    "options", [ModelOptions(device="cpu"), LiveModelOptions(device="cpu", force=True)], ids=["recordings", "force"]
)
def test_where_it_may_be_slow_it_goes_on_with_a_warning(
    options: ModelOptions, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    machine(monkeypatch, 64, 30)
    events: list[Event] = []
    hub.mode = "unaccepted"  # so that it ends here
    with pytest.raises(PersonaplexError, match="no access"):
        load_cold(options, events.append)
    told = notes(events)
    assert "Running on cpu" in told and "14 times as long" in told
    assert f"about 17 GB will be downloaded to {tmp_path / 'hub'}" in told and "GB are free" in told
    assert not any(isinstance(each, Downloading) for each in events), "licence and token are looked at before"


def test_a_model_of_unknown_sizes_is_only_looked_at_once_it_is_here(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 1, 1)
    hub.repo = "somebody/tiny"
    engine = load_cold(LiveModelOptions(model="somebody/tiny", device="cpu"))
    engine.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(
    free=st.none() | st.floats(1, 200),
    total=st.none() | st.floats(1, 200),
    speed=st.floats(1, 1000),
    live=st.booleans(),
    force=st.booleans(),
    device=st.sampled_from([CPU, MPS]),
)
def test_chat_goes_on_only_where_it_could_be_fast_enough(
    free: float | None,
    total: float | None,
    speed: float,
    live: bool,
    force: bool,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, free, speed, total)
    options = LiveModelOptions(precision="bf16", force=force) if live else ModelOptions(precision="bf16")
    needed = 17.45
    room = free if free is not None else None if total is None else 0.75 * total
    events: list[Event] = []
    try:
        choose_plan(options, device, PERSONAPLEX, events.append)
    except DeviceError as error:
        assert (room is not None and room < needed + 0.1) or (live and speed * 0.08 < needed + 0.1)
        assert not (live and force) and error.hint
    else:
        assert (live and force) or room is None or room > needed - 0.1
        assert not live or force or speed * 0.08 > needed - 0.1
        assert bool(events) == (speed * 0.08 < needed) or abs(speed * 0.08 - needed) < 0.1


def test_a_gpu_that_is_too_small_is_noticed_before_too(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    about = SimpleNamespace(major=8, minor=6, name="NVIDIA Test")
    answers = {"is_available": True, "get_arch_list": [], "get_device_name": about.name, "device_count": 1}
    answers |= {"get_device_capability": (8, 6), "mem_get_info": (3 * GB, 8 * GB), "set_device": None}
    answers |= {"get_device_properties": about}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    with pytest.raises(DeviceError, match=r"3\.0 GB are free"):
        load_cold(ModelOptions())
    assert not hub.asked
