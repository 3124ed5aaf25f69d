"""Laws of the live card, with a card made of numbers: see fakecard.py. Nothing here sleeps or measures time."""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fakecard import FakeCard, Flags, PortAudioError, device, plug_in

from personaplex_cli.audio import soundcard
from personaplex_cli.audio.devices import CardChoice, devices
from personaplex_cli.audio.recording import Recording
from personaplex_cli.audio.soundcard import REOPENINGS, SoundCard, try_card
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.events import Event, Glitch, Note, State
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples, level

BLOCKS = [(64,), (100,), (256,), (480,), (512,), (1024,), (1920,), (2048,), (4096,), (64, 4096, 1, 777)]
RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]

Answer = Callable[[Samples], Samples | None]


def speech(seconds: float, rate: int = SAMPLE_RATE) -> Samples:
    """A tone that swells and fades, never quite silent."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * (1.1 + np.sin(2 * np.pi * time)) / 2.1 * np.sin(2 * np.pi * 300 * time)).astype(np.float32)


def repeat(heard: Samples) -> Samples:
    return heard


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCard]:
    return lambda **settings: plug_in(FakeCard(**settings), monkeypatch)


def talk(
    fake: FakeCard, answer: Answer = repeat, choice: CardChoice | None = None
) -> tuple[list[Samples], list[Event]]:
    """A whole conversation, until the microphone's sound has ended: the frames that were heard, what was told."""
    heard: list[Samples] = []
    told: list[Event] = []
    with SoundCard(choice or CardChoice(), told.append) as card:
        fake.at_end = card.close
        for frame in card.frames():
            heard.append(frame)
            reply = answer(frame)
            if reply is not None:
                card.play(reply)
    return heard, told


def glitches(told: list[Event], kind: str) -> int:
    return max((event.total for event in told if isinstance(event, Glitch) and event.kind == kind), default=0)


def notes(told: list[Event]) -> str:
    return "\n".join(event.text for event in told if isinstance(event, Note))


@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
def test_live_equals_offline_for_every_block_size(plug: Callable[..., FakeCard], blocks: tuple[int, ...]) -> None:
    sound = speech(4)
    heard, told = talk(plug(microphone=sound, blocks=blocks))
    offline = list(Recording(sound).frames())[: len(sound) // FRAME]
    assert len(heard) == len(offline)
    assert all(np.array_equal(live, recorded) for live, recorded in zip(heard, offline, strict=True))
    assert glitches(told, "dropped") == 0


@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
def test_the_answer_is_played_whole_and_in_time(plug: Callable[..., FakeCard], blocks: tuple[int, ...]) -> None:
    sound = speech(12)
    fake = plug(microphone=sound, blocks=blocks)
    _, told = talk(fake)
    played = np.concatenate(fake.played)
    assert len(played) == len(sound)
    # Large blocks run dry until the cushion fits them; then all is well.
    assert glitches(told, "underrun") <= (0 if max(blocks) <= 480 else 4)
    second_half = played[len(played) // 2 :]
    lags = range(FRAME, 4 * max(FRAME, *blocks))
    errors = [float(np.abs(second_half - sound[len(played) // 2 - lag : len(played) - lag]).max()) for lag in lags]
    assert min(errors) == 0.0  # it is the sound that was heard, some time ago, sample by sample
    if max(blocks) <= 480:
        assert lags[int(np.argmin(errors))] <= FRAME + 3 * 480  # a frame, the cushion of 40 ms and a block


@pytest.mark.parametrize("block", [64, 480, 1024, 4096])
@pytest.mark.parametrize("rate", RATES)
def test_a_card_that_refuses_24_khz_runs_at_its_own_rate(plug: Callable[..., FakeCard], rate: int, block: int) -> None:
    sound = speech(10, rate)
    fake = plug(microphone=sound, blocks=(block,), rates=(rate,), listed=[device("Odd", rate=rate)])
    heard, told = talk(fake)
    assert abs(len(heard) - 10 / 0.08) <= 1
    whole = np.concatenate(heard)
    assert level(whole) == pytest.approx(level(sound), abs=0.2)
    assert np.abs(np.fft.rfft(whole)).argmax() == pytest.approx(300 * len(whole) / SAMPLE_RATE, abs=2)
    played = np.concatenate(fake.played)
    assert len(played) == len(sound)
    assert level(played[len(played) // 2 :]) == pytest.approx(level(sound), abs=0.5)
    assert glitches(told, "dropped") == 0
    assert glitches(told, "underrun") <= 6
    assert f"{rate / 1000:g} kHz" in notes(told)


def test_the_rate_can_be_asked_for(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(1, 16_000), rates=(16_000, 24_000))
    talk(fake, choice=CardChoice(device_rate=16_000))
    assert [(each.settings["samplerate"], each.settings["blocksize"]) for each in fake.opened] == [(16_000, 320)]
    with pytest.raises(AudioError, match="Invalid sample rate"):
        talk(fake, choice=CardChoice(device_rate=12_345))


def test_any_number_of_channels(plug: Callable[..., FakeCard]) -> None:
    sound = speech(2)
    fake = plug(microphone=sound, mono=False, listed=[device("Wide", inputs=4, outputs=6)])
    heard, _ = talk(fake)
    assert fake.opened[-1].settings["channels"] == (4, 6)
    assert np.allclose(np.concatenate(heard), sound[: len(heard) * FRAME], atol=1e-6)


@pytest.mark.parametrize("speaker_rate", [24_000, 48_000])
def test_two_devices_get_two_streams(plug: Callable[..., FakeCard], speaker_rate: int) -> None:
    sound = speech(8)
    fake = plug(microphone=sound, listed=[device("Mic", 1, 0), device("Loud", 0, 2, speaker_rate)])
    fake.rates = (24_000, speaker_rate)
    heard, told = talk(fake)
    assert [stream.hears for stream in fake.opened] == [True, False]
    assert np.array_equal(np.concatenate(heard), sound[: len(heard) * FRAME])
    assert glitches(told, "underrun") == 0
    assert np.concatenate(fake.played).any()


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


# Choosing devices.


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
    talk(fake, choice=CardChoice(input_device=wanted, output_device=wanted))
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
            talk(fake, choice=CardChoice(input_device=wanted))
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


# What goes wrong while talking.


def test_an_answer_that_comes_late_leaves_silence_and_is_counted(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(6))
    count = iter(range(1000))
    _, told = talk(fake, answer=lambda heard: heard if next(count) not in range(20, 25) else None)
    assert glitches(told, "underrun") == 1
    blocks = [block.any() for block in fake.played]
    gap = blocks[blocks.index(True) :].index(False)
    assert not any(blocks[blocks.index(True) + gap :][:18])  # 5 frames of 4 blocks, less the cushion of 2
    assert blocks[-1]


def test_a_stall_is_bounded_counted_and_soon_forgotten(plug: Callable[..., FakeCard]) -> None:
    """The model stands still for 3 s while the card goes on."""
    rest = np.zeros(10 * SAMPLE_RATE, dtype=np.float32)
    fake = plug(microphone=np.concatenate([speech(6), rest]))
    depths: list[float] = []
    frames: list[int] = []
    told: list[Event] = []
    with SoundCard(CardChoice(), told.append) as card:
        fake.at_end = card.close
        for index, frame in enumerate(card.frames()):
            if index == 20:
                for _ in range(150):
                    fake.pass_time()
            card.play(frame)
            depths.append(card.latency().cushion)
            frames.append(card.latency().queue // 80)
    assert glitches(told, "underrun") == 1
    assert glitches(told, "dropped") >= 1
    assert any(isinstance(event, Glitch) and event.kind == "dropped" and event.detail for event in told)
    assert max(frames) <= 8
    assert max(depths) <= 960 + 80
    assert depths[-1] <= 60 + 20  # the cushion after one underrun, and a block
    assert glitches(told, "shed") >= 1


def test_play_never_waits_for_a_card_that_is_dead(plug: Callable[..., FakeCard]) -> None:
    plug(lifetimes=deque([0.0]))
    with SoundCard(CardChoice(), lambda event: None) as card:
        for _ in range(1000):
            card.play(speech(0.08))


def test_nobody_listening_costs_no_memory(plug: Callable[..., FakeCard], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundcard, "MAX_BLOCKS", 50)
    fake = plug(microphone=speech(8))
    told: list[Event] = []
    with SoundCard(CardChoice(), told.append) as card:
        fake.at_end = card.close
        frames = card.frames()
        next(frames)
        for _ in range(100):
            fake.pass_time()
        for _ in frames:
            pass
    assert glitches(told, "overflow") == 50


def test_muted_means_silence_on_the_same_clock(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(2))
    with SoundCard(CardChoice(), lambda event: None) as card:
        fake.at_end = card.close
        loud = []
        for index, frame in enumerate(card.frames()):
            loud.append(bool(frame.any()))
            card.muted = 5 <= index < 10
    assert loud == [not 6 <= index <= 10 for index in range(25)]


def test_frames_begin_with_now(plug: Callable[..., FakeCard]) -> None:
    """A second conversation on the same card does not hear the end of the first."""
    sound = speech(4)
    fake = plug(microphone=sound)
    with SoundCard(CardChoice(), lambda event: None) as card:
        fake.at_end = card.close
        next(card.frames())
        for _ in range(46):
            fake.pass_time()
        assert np.array_equal(next(card.frames()), sound[50 * 480 :][:FRAME])


def test_flags_are_counted_and_a_card_in_trouble_gets_larger_buffers(plug: Callable[..., FakeCard]) -> None:
    def flags(block: int) -> Flags:
        return Flags("output_underflow") if block in (1, 2, *range(100, 110), 450) else Flags()

    fake = plug(microphone=speech(12), flags=flags)
    _, told = talk(fake)
    assert [stream.settings["latency"] for stream in fake.opened] == ["low", "high"]
    assert glitches(told, "underrun") == 5  # not the first ones; 4 before the card is reopened, and a last one
    assert "larger buffers" in notes(told)
    assert not any(isinstance(event, State) for event in told)


def test_the_latency_is_the_cards_and_ours(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(3))
    with SoundCard(CardChoice(), lambda event: None) as card:
        fake.at_end = card.close
        for frame in card.frames():
            card.play(frame)
        latency = card.latency()
    assert (round(latency.device_in), round(latency.device_out)) == (20, 30)
    assert (latency.queue, latency.cushion) == (0, 40)


# A card that dies.


def test_closing_from_another_thread_ends_the_frames_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real queue, and a card that never calls back."""
    monkeypatch.setitem(sys.modules, "sounddevice", FakeCard())
    before = threading.active_count()
    with SoundCard(CardChoice(), lambda event: None) as card:
        ended = threading.Event()

        def listen() -> None:
            assert not list(card.frames())
            ended.set()

        listener = threading.Thread(target=listen)
        listener.start()
        card.close()
        assert ended.wait(60)
        listener.join()
    assert threading.active_count() == before


def test_closing_gives_the_devices_back(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(1), listed=[device("Mic", 1, 0), device("Loud", 0, 1)])
    with SoundCard(CardChoice(), lambda event: None) as card:
        assert [stream.running for stream in fake.opened] == [True, True]
        card.close()
        assert [stream.running for stream in fake.opened] == [False, False]
        card.close()


def test_a_failure_in_the_callback_surfaces(plug: Callable[..., FakeCard], monkeypatch: pytest.MonkeyPatch) -> None:
    fake = plug(microphone=speech(2))

    def broken(count: int) -> Samples:
        raise ZeroDivisionError

    with SoundCard(CardChoice(), lambda event: None) as card:
        frames = card.frames()
        next(frames)
        monkeypatch.setattr(card._cushion, "take", broken)
        with pytest.raises(AudioError, match="callback failed") as caught:
            list(frames)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert not fake.opened[0].running


@pytest.mark.parametrize("two", [False, True])
def test_a_card_that_stops_calling_is_opened_again(plug: Callable[..., FakeCard], two: bool) -> None:
    listed = [device("Mic", 1, 0), device("Loud", 0, 1)] if two else [device("Both")]
    heard, told = talk(plug(microphone=speech(16), listed=listed, lifetimes=deque([4.0] * (1 + two))))
    assert 12 / 0.08 < len(heard) <= 16 / 0.08
    assert [event.name for event in told if isinstance(event, State)] == ["reconnecting", "live"]
    assert glitches(told, "reopened") == 1


@pytest.mark.parametrize("dead", [0, 1])
def test_one_of_two_devices_stops(plug: Callable[..., FakeCard], dead: int) -> None:
    lives = [2.0, float("inf")] if dead == 0 else [float("inf"), 2.0]
    fake = plug(microphone=speech(12), listed=[device("Mic", 1, 0), device("Loud", 0, 1)], lifetimes=deque(lives))
    _, told = talk(fake)
    assert [event.name for event in told if isinstance(event, State)] == ["reconnecting", "live"]
    assert len(fake.opened) == 4


def test_a_card_that_does_not_come_back_ends_the_talk(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(9), lifetimes=deque([1.5] + [0.0] * 10))
    told: list[Event] = []
    with SoundCard(CardChoice(), told.append) as card, pytest.raises(AudioError, match="does not come back"):
        list(card.frames())
    assert len(fake.opened) == 1 + REOPENINGS
    assert [event.name for event in told if isinstance(event, State)] == ["reconnecting"]
    assert not any(stream.running for stream in fake.opened)


def test_a_card_that_cannot_even_be_closed_is_left_behind(
    plug: Callable[..., FakeCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PortAudio never returns from a stream whose sound server has died. The talk goes on with another one."""
    never = threading.Event()
    monkeypatch.setattr("personaplex_cli.audio.devices.CLOSING_SECONDS", 0.01)
    fake = plug(microphone=speech(9), lifetimes=deque([3.0]))
    fake.at_abort = lambda: never.wait() if len(fake.opened) == 1 else None
    heard, told = talk(fake)
    never.set()
    assert [event.name for event in told if isinstance(event, State)] == ["reconnecting", "live"]
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
    heard, told = talk(fake)
    assert [event.name for event in told if isinstance(event, State)] == ["reconnecting", "live"]
    assert len(heard) > 8 / 0.08


# What the user should know.


def test_a_microphone_in_perfect_silence_is_mentioned_once(plug: Callable[..., FakeCard]) -> None:
    _, told = talk(plug(microphone=np.zeros(10 * SAMPLE_RATE, dtype=np.float32)))
    assert notes(told).count("nothing but silence") == 1
    _, told = talk(plug(microphone=speech(10)))
    assert "silence" not in notes(told)


class Room:
    """Plays 120 ms later into the microphone what the speaker said."""

    def __init__(self, fake: FakeCard) -> None:
        self.fake = fake

    def __call__(self, heard: Samples) -> Samples:
        late = np.concatenate([np.zeros(2880, dtype=np.float32), *self.fake.played])
        now = sum(map(len, self.fake.played))
        return 0.3 * late[now : now + len(heard)]


def words(seconds: float) -> Iterator[Samples]:
    """The agent: loud and soft in turns that never repeat."""
    dice = np.random.default_rng(0)
    for _ in range(round(seconds / 0.08)):
        yield (dice.choice([0.0, 0.05, 0.2]) * dice.standard_normal(FRAME)).astype(np.float32)


@pytest.mark.parametrize("cancel", [False, True])
def test_on_loudspeakers_headphones_are_advised_or_the_echo_is_removed(
    plug: Callable[..., FakeCard], cancel: bool
) -> None:
    if cancel:
        pytest.importorskip("pywebrtc_audio")
    hiss = 0.001 * np.random.default_rng(1).standard_normal(30 * SAMPLE_RATE).astype(np.float32)
    fake = plug(microphone=hiss)
    fake.feedback = Room(fake)
    said = words(31)
    heard, told = talk(fake, answer=lambda frame: next(said), choice=CardChoice(echo_cancel=cancel))
    assert notes(told).count("--echo-cancel") == (0 if cancel else 1)
    echo = level(np.concatenate(heard)[10 * SAMPLE_RATE :])
    assert echo < -45 if cancel else echo > -35


def test_with_headphones_nothing_is_said(plug: Callable[..., FakeCard]) -> None:
    said = words(31)
    _, told = talk(plug(microphone=speech(30)), answer=lambda frame: next(said))
    assert "headphones" not in notes(told)


def test_a_card_can_be_tried(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(5))
    levels = list(try_card(CardChoice(), lambda event: None, seconds=2.0))
    assert len(levels) == 25 and all(-40 < each < 0 for each in levels)
    tone = np.concatenate(fake.played)
    assert np.abs(tone).max() == pytest.approx(0.1, rel=0.01)
    assert np.abs(np.fft.rfft(tone)).argmax() * SAMPLE_RATE / len(tone) == pytest.approx(440, abs=2)
    assert not fake.opened[0].running
