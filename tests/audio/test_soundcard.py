"""Laws of the live card, with a card made of numbers: see fakecard.py. Nothing here sleeps or measures time."""

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from fakecard import FakeCard, Flags, device, frames, glitches, notes, speech, states, talk

from personaplex_cli.audio import soundcard
from personaplex_cli.audio.recording import Recording
from personaplex_cli.audio.soundcard import SoundCard
from personaplex_cli.events import Devices, Event, Glitch, Notice
from personaplex_cli.options import LiveSoundCardOptions, SoundCardOptions
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples, level

BLOCKS = [(64,), (100,), (256,), (480,), (512,), (1024,), (1920,), (2048,), (4096,), (64, 4096, 1, 777)]
RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]


@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
def test_live_equals_offline_for_every_block_size(plug: Callable[..., FakeCard], blocks: tuple[int, ...]) -> None:
    sound = speech(4)
    heard, events = talk(plug(microphone=sound, blocks=blocks))
    offline = list(Recording(sound).frames(lambda: None))[: len(sound) // FRAME]
    assert len(heard) == len(offline)
    assert all(np.array_equal(live, recorded) for live, recorded in zip(heard, offline, strict=True))
    assert glitches(events, "dropped") == 0


@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
def test_the_answer_is_played_whole_and_in_time(plug: Callable[..., FakeCard], blocks: tuple[int, ...]) -> None:
    sound = speech(12)
    fake = plug(microphone=sound, blocks=blocks)
    _, events = talk(fake)
    played = np.concatenate(fake.played)
    assert len(played) == len(sound)
    # Large blocks run dry until the cushion fits them; then all is well.
    assert glitches(events, "underrun") <= (0 if max(blocks) <= 480 else 4)
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
    heard, events = talk(fake)
    assert abs(len(heard) - 10 / 0.08) <= 1
    whole = np.concatenate(heard)
    assert level(whole) == pytest.approx(level(sound), abs=0.2)
    assert np.abs(np.fft.rfft(whole)).argmax() == pytest.approx(300 * len(whole) / SAMPLE_RATE, abs=2)
    played = np.concatenate(fake.played)
    assert len(played) == len(sound)
    assert level(played[len(played) // 2 :]) == pytest.approx(level(sound), abs=0.5)
    assert glitches(events, "dropped") == 0
    assert glitches(events, "underrun") <= 6
    opened = next(event for event in events if isinstance(event, Devices))
    assert all(f"{rate / 1000:g} kHz" in side for side in (opened.microphone, opened.speaker))


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
    heard, events = talk(fake)
    assert [stream.hears for stream in fake.opened] == [True, False]
    assert np.array_equal(np.concatenate(heard), sound[: len(heard) * FRAME])
    assert glitches(events, "underrun") == 0
    assert np.concatenate(fake.played).any()


def test_frames_never_wait_and_wake_is_called_when_the_next_may_be_there(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(1))
    rung: list[int] = []
    with SoundCard() as card:
        card.clock = lambda: 0.0  # type: ignore[method-assign]
        hearing = card.frames(lambda: rung.append(fake.calls))
        for block in range(1, 9):
            assert next(hearing) is None and next(hearing) is None
            fake.pass_time()
            assert rung == list(range(1, block + 1))
            if block % 4 == 0:
                assert next(hearing) is not None


# What goes wrong while talking.


def test_an_answer_that_comes_late_leaves_silence_and_is_counted(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(6))
    count = iter(range(1000))
    _, events = talk(fake, answer=lambda heard: heard if next(count) not in range(20, 25) else None)
    assert glitches(events, "underrun") == 1
    blocks = [block.any() for block in fake.played]
    gap = blocks[blocks.index(True) :].index(False)
    assert not any(blocks[blocks.index(True) + gap :][:18])  # 5 frames of 4 blocks, less the cushion of 2
    assert blocks[-1]


def test_a_stall_is_bounded_counted_and_soon_forgotten(plug: Callable[..., FakeCard]) -> None:
    """The model stands still for 3 s while the card goes on."""
    rest = np.zeros(10 * SAMPLE_RATE, dtype=np.float32)
    fake = plug(microphone=np.concatenate([speech(6), rest]))
    depths: list[float] = []
    queued: list[int] = []
    events: list[Event] = []
    with SoundCard(SoundCardOptions(), events.append) as card:
        fake.at_end = card.close
        for index, frame in enumerate(frames(card)):
            if index == 20:
                for _ in range(150):
                    fake.pass_time()
            card.play(frame)
            depths.append(card.latency().cushion)
            queued.append(card.latency().queue // 80)
    assert glitches(events, "underrun") == 1
    assert glitches(events, "dropped") >= 1
    assert any(isinstance(event, Glitch) and event.kind == "dropped" and event.detail for event in events)
    assert max(queued) <= 8
    assert max(depths) <= 960 + 80
    assert depths[-1] <= 60 + 20  # the cushion after one underrun, and a block
    assert glitches(events, "shed") >= 1


def test_play_never_waits_for_a_card_that_is_dead(plug: Callable[..., FakeCard]) -> None:
    plug(lifetimes=deque([0.0]))
    with SoundCard(SoundCardOptions(), lambda event: None) as card:
        card.frames(lambda: None)
        for _ in range(1000):
            card.play(speech(0.08))


def test_frames_not_taken_cost_no_memory(plug: Callable[..., FakeCard], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundcard, "MAX_BLOCKS", 50)
    fake = plug(microphone=speech(8))
    events: list[Event] = []
    with SoundCard(SoundCardOptions(), events.append) as card:
        fake.at_end = card.close
        hearing = frames(card)
        next(hearing)
        for _ in range(100):
            fake.pass_time()
        for _ in hearing:
            pass
    assert glitches(events, "overflow") == 50


def test_muted_means_silence_on_the_same_clock(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(2))
    with SoundCard(SoundCardOptions(), lambda event: None) as card:
        fake.at_end = card.close
        loud = []
        for index, frame in enumerate(frames(card)):
            loud.append(bool(frame.any()))
            card.muted = 5 <= index < 10
    assert loud == [not 6 <= index <= 10 for index in range(25)]


def test_frames_begin_with_now(plug: Callable[..., FakeCard]) -> None:
    """A second conversation on the same card does not hear the end of the first."""
    sound = speech(4)
    fake = plug(microphone=sound)
    with SoundCard(SoundCardOptions(), lambda event: None) as card:
        fake.at_end = card.close
        next(frames(card))
        for _ in range(46):
            fake.pass_time()
        assert np.array_equal(next(frames(card)), sound[50 * 480 :][:FRAME])


def test_flags_are_counted_and_a_card_in_trouble_gets_larger_buffers(plug: Callable[..., FakeCard]) -> None:
    def flags(block: int) -> Flags:
        return Flags("output_underflow") if block in (1, 2, *range(100, 110), 450) else Flags()

    fake = plug(microphone=speech(12), flags=flags)
    _, events = talk(fake)
    assert [stream.settings["latency"] for stream in fake.opened] == ["low", "high"]
    assert glitches(events, "underrun") == 5  # not the first ones; 4 before the card is reopened, and a last one
    assert "buffers were enlarged" in notes(events)
    assert not states(events)


def test_the_latency_is_the_cards_and_ours(plug: Callable[..., FakeCard]) -> None:
    fake = plug(microphone=speech(3))
    with SoundCard(SoundCardOptions(), lambda event: None) as card:
        fake.at_end = card.close
        for frame in frames(card):
            card.play(frame)
        latency = card.latency()
    assert (round(latency.device_in), round(latency.device_out)) == (20, 30)
    assert (latency.queue, latency.cushion) == (0, 40)


# What the user should know.


def test_a_microphone_in_perfect_silence_is_mentioned_until_it_delivers(plug: Callable[..., FakeCard]) -> None:
    silence = np.zeros(10 * SAMPLE_RATE, dtype=np.float32)
    for microphone, said in (
        (silence, [True]),
        (speech(10), []),
        (np.concatenate([silence, speech(1)]), [True, False]),
    ):
        _, events = talk(plug(microphone=microphone))
        notices = [event for event in events if isinstance(event, Notice)]
        assert [notice.on for notice in notices] == said
        assert all("nothing but silence" in notice.text for notice in notices)


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
    heard, events = talk(fake, answer=lambda frame: next(said), options=LiveSoundCardOptions(echo_cancel=cancel))
    assert notes(events).count("--echo-cancel") == (0 if cancel else 1)
    echo = level(np.concatenate(heard)[10 * SAMPLE_RATE :])
    assert echo < -45 if cancel else echo > -35


def test_with_headphones_nothing_is_said(plug: Callable[..., FakeCard]) -> None:
    said = words(31)
    _, events = talk(plug(microphone=speech(30)), answer=lambda frame: next(said))
    assert "headphones" not in notes(events)
