"""Choosing and opening devices, and cards that die, with a card made of numbers: see fakecard.py."""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakecard import FakeCard, PortAudioError, device, frames, glitches, speech, states, talk

from personaplex_cli.audio.devices import devices
from personaplex_cli.audio.soundcard import MAX_REOPENINGS, SoundCard, try_card, waited
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.events import Event, Phase
from personaplex_cli.options import SoundCardOptions
from personaplex_cli.samples import SAMPLE_RATE, Samples


def test_the_rate_can_be_asked_for(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(1, 16_000), rates=(16_000, 24_000))
    talk(fake, options=SoundCardOptions(device_rate=16_000))
    assert [(each.settings["samplerate"], each.settings["blocksize"]) for each in fake.opened] == [(16_000, 320)]
    with pytest.raises(AudioError, match="Invalid sample rate"):
        talk(fake, options=SoundCardOptions(device_rate=12_345))


def test_windows_is_asked_to_convert(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(1), host_api="Windows WASAPI")
    talk(fake)
    assert fake.opened[0].settings["extra_settings"] == ({"auto_convert": True}, {"auto_convert": True})


def test_small_blocks_and_low_latency_are_asked_for(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(1))
    talk(fake)
    settings = fake.opened[0].settings
    assert (settings["samplerate"], settings["blocksize"], settings["latency"]) == (24_000, 480, "low")
    assert settings["channels"] == (1, 1)


def test_devices_are_listed_with_their_defaults(plug: Callable[..., FakeCard]) -> None:
    plug(listed=[device("Mic", 1, 0), device("Both", 2, 2, 44_100), device("Loud", 0, 2)])
    listed = devices()
    assert [(each.index, each.name, each.inputs, each.outputs, each.default_rate) for each in listed] == [
        (0, "Mic", 1, 0, 48_000),
        (1, "Both", 2, 2, 44_100),
        (2, "Loud", 0, 2, 48_000),
    ]
    assert [(each.is_default_input, each.is_default_output) for each in listed] == [(1, 0), (0, 0), (0, 1)]
    plug(listed=[])
    assert devices() == []


@pytest.mark.parametrize("wanted", ["1", 1, "usb", "USB Head"])
def test_a_device_is_chosen_by_index_or_part_of_its_name(plug: Callable[..., FakeCard], wanted: int | str) -> None:
    fake = plug(microphone=speech(1), listed=[device("Built-in"), device("USB Headset")])
    talk(fake, options=SoundCardOptions(input_device=wanted, output_device=wanted))
    assert fake.opened[0].settings["device"] == (1, 1)


def test_a_device_that_does_not_exist_or_is_not_the_only_one(plug: Callable[..., FakeCard]) -> None:
    fake = plug(listed=[device("USB one"), device("USB two"), device("Loud", inputs=0)])
    for wanted, error, hint in (
        ("usb", "Several input devices match 'usb'", "[0] USB one; [1] USB two"),
        ("xyz", "There is no input device 'xyz'", "[0] USB one, Fake API; [1] USB two, Fake API"),
        ("7", "There is no input device 7", "[0] USB one"),
        ("2", "There is no input device 2", "[1] USB two"),
    ):
        with pytest.raises(UsageError, match=error) as caught:
            talk(fake, options=SoundCardOptions(input_device=wanted))
        assert hint in caught.value.hint and "Loud" not in caught.value.hint
    assert not fake.opened


def test_a_machine_without_devices_or_without_portaudio(
    plug: Callable[..., FakeCard], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(AudioError, match="There is no microphone"):
        talk(plug(listed=[]))
    with pytest.raises(AudioError, match="There is no speaker"):
        talk(plug(listed=[device("Mic", outputs=0)]))
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sounddevice")
    with pytest.raises(AudioError) as caught:
        devices()
    assert "libportaudio2" in caught.value.hint


def test_what_c_libraries_write_never_reaches_the_screen(
    plug: Callable[..., FakeCard], capfd: pytest.CaptureFixture[str]
) -> None:
    talk(plug(microphone=speech(4), rates=(48_000,), lifetimes=deque([0.5])))
    with pytest.raises(AudioError):
        talk(plug(rates=()))
    os.write(2, b"and stderr is there again")
    assert capfd.readouterr().err == "and stderr is there again"


def test_what_python_writes_does() -> None:
    code = (
        "import os, sys; from personaplex_cli.audio.devices import quiet_portaudio\n"
        "with quiet_portaudio(), quiet_portaudio():\n"
        "    os.write(2, b'ALSA '); print('one', file=sys.stderr)\n"
        "print('two', file=sys.stderr); os.write(2, b'three')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["one", "two", "three"]


def test_a_card_can_be_tried(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(5))
    levels = list(try_card(SoundCardOptions(), lambda event: None, seconds=2.0))
    assert len(levels) == 25 and all(-40 < each < 0 for each in levels)
    tone = np.concatenate(fake.played)
    assert np.abs(tone).max() == pytest.approx(0.1, rel=0.01)
    assert np.abs(np.fft.rfft(tone)).argmax() * SAMPLE_RATE / len(tone) == pytest.approx(440, abs=2)
    assert not fake.opened[0].running


# A card that dies.


def test_closing_from_another_thread_ends_the_frames_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real queue, and a card that never calls back."""
    monkeypatch.setitem(sys.modules, "sounddevice", FakeCard())
    before = threading.active_count()
    with SoundCard(SoundCardOptions(), lambda event: None) as card:
        ended = threading.Event()

        def listen() -> None:
            assert not list(waited(card))
            ended.set()

        listener = threading.Thread(target=listen)
        listener.start()
        card.close()
        assert ended.wait(60)
        listener.join()
    assert threading.active_count() == before


def test_closing_gives_the_devices_back(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(1), listed=[device("Mic", 1, 0), device("Loud", 0, 1)])
    with SoundCard(SoundCardOptions(), lambda event: None) as card:
        assert not fake.opened  # before anything is heard
        card.frames(lambda: None)
        assert [stream.running for stream in fake.opened] == [True, True]
        card.close()
        assert [stream.running for stream in fake.opened] == [False, False]
        card.close()


def test_a_failure_in_the_callback_surfaces(plug: Callable[..., FakeCard], monkeypatch: pytest.MonkeyPatch) -> None:
    fake = plug(microphone=speech(2))

    def broken(count: int) -> Samples:
        raise ZeroDivisionError

    with SoundCard(SoundCardOptions(), lambda event: None) as card:
        hearing = frames(card)
        next(hearing)
        monkeypatch.setattr(card._jitter_buffer, "take", broken)
        with pytest.raises(AudioError, match="callback failed") as caught:
            list(hearing)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert not fake.opened[0].running


@pytest.mark.parametrize("two", [False, True])
def test_a_card_that_stops_calling_is_opened_again(plug: Callable[..., FakeCard], two: bool) -> None:
    listed = [device("Mic", 1, 0), device("Loud", 0, 1)] if two else [device("Both")]
    heard, events = talk(plug(microphone=speech(16), listed=listed, lifetimes=deque([4.0] * (1 + two))))
    assert 12 / 0.08 < len(heard) <= 16 / 0.08
    assert states(events) == [Phase.RECONNECTING, Phase.LIVE]
    assert glitches(events, "reopened") == 1


@pytest.mark.parametrize("dead", [0, 1])
def test_one_of_two_devices_stops(plug: Callable[..., FakeCard], dead: int) -> None:
    lives = [2.0, float("inf")] if dead == 0 else [float("inf"), 2.0]
    fake = plug(microphone=speech(12), listed=[device("Mic", 1, 0), device("Loud", 0, 1)], lifetimes=deque(lives))
    _, events = talk(fake)
    assert states(events) == [Phase.RECONNECTING, Phase.LIVE]
    assert len(fake.opened) == 4


def test_a_card_that_does_not_come_back_ends_the_talk(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(9), lifetimes=deque([1.5] + [0.0] * 10))
    events: list[Event] = []
    with SoundCard(SoundCardOptions(), events.append) as card, pytest.raises(AudioError, match="could not be reopened"):
        list(frames(card))
    assert len(fake.opened) == 1 + MAX_REOPENINGS
    assert states(events) == [Phase.RECONNECTING]
    assert not any(stream.running for stream in fake.opened)


def test_a_card_that_cannot_even_be_closed_is_left_behind(
    plug: Callable[..., FakeCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PortAudio never returns from a stream whose sound server has died. The talk goes on with another one."""
    never = threading.Event()
    monkeypatch.setattr("personaplex_cli.audio.devices.CLOSE_TIMEOUT", 0.01)
    fake = plug(microphone=speech(9), lifetimes=deque([3.0]))
    fake.at_abort = lambda: never.wait() if len(fake.opened) == 1 else None
    heard, events = talk(fake)
    never.set()
    assert states(events) == [Phase.RECONNECTING, Phase.LIVE]
    assert len(heard) > 8 / 0.08


def test_a_card_that_is_unplugged_for_a_while(plug: Callable[..., FakeCard]) -> None:
    """The first attempt finds no device at all, the second finds it again."""
    fake = plug(microphone=speech(9), lifetimes=deque([3.0]))
    listed, attempts = fake.query_devices, iter([True, False])

    def query(*wanted: object) -> object:
        if fake.opened and next(attempts, False):
            raise PortAudioError("Error querying device -1")
        return listed(*wanted)

    fake.query_devices = query  # type: ignore[method-assign,assignment]
    heard, events = talk(fake)
    assert states(events) == [Phase.RECONNECTING, Phase.LIVE]
    assert len(heard) > 8 / 0.08


def test_a_conversation_can_begin_again_while_the_card_is_unplugged(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(9), lifetimes=deque([3.0]))
    listed = fake.query_devices

    def unplugged(*wanted: object) -> object:
        raise PortAudioError("Error querying device -1")

    events: list[Event] = []
    with SoundCard(SoundCardOptions(), events.append) as card:
        fake.at_end = card.close
        before = card.frames(lambda: None)
        next(before)
        fake.query_devices = unplugged  # type: ignore[method-assign,assignment]
        while not states(events):
            next(before)
        after = card.frames(lambda: None)
        assert next(after) is None
        fake.query_devices = listed  # type: ignore[method-assign]
        assert sum(frame is not None for frame in after) > 5 / 0.08
    assert states(events) == [Phase.RECONNECTING, Phase.LIVE]


def test_a_channel_of_the_microphone_can_be_chosen(plug: Callable[..., FakeCard]) -> None:
    """Then the card is not asked for one channel: it would mix them."""
    fake = plug(microphone=speech(1), listed=[device("Wide", inputs=4, outputs=2)])
    talk(fake, options=SoundCardOptions(input_channel=3))
    assert fake.opened[-1].settings["channels"] == (4, 2)
    with pytest.raises(UsageError, match=r"Wide has no channel 5\."):
        talk(fake, options=SoundCardOptions(input_channel=5))
