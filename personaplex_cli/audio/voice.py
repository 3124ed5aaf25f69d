"""The voice in a recording: which of its channels, and at which level.

A mean over channels would make a voice quieter for each channel that is silent, and mix the speakers of a call. So the
loudest channel is heard as it is; channels in which somebody else speaks are added; silent ones count for nothing.
"""

import math

import numpy as np

from personaplex_cli.errors import AudioError, either
from personaplex_cli.options import channel_index
from personaplex_cli.samples import Samples

SILENT_BELOW = 30.0  # dB under the loudest channel: crosstalk, or the noise of an open input
ALIKE = 3.0  # dB that channels of one voice may differ without a word
SAME_VOICE = 0.8  # cosine of two envelopes; of independent speakers it is about 0.5
ENVELOPE_SECONDS = 0.02
LOUDEST_FOR = 0.2  # seconds over which a live channel's loudness counts
CLEARLY_LOUDER = 4.0  # times the power, 6 dB: less is no reason to change
VERY_QUIET = -60.0  # dBFS of the loudest sample
HOT = 8.0  # times full scale: more is no sound that was recorded too loud, but another unit
CUT_OFF, CUT_OFF_RUN = 0.99, 3  # of the largest sample, and samples in a row: equal ones up there are cut off
CLIPPED_SHARE = 0.001, 0.5  # of all samples: a voice that was too loud, and no voice at all
INTEGER_SCALES = {bits: 2.0 ** (bits - 1) for bits in (8, 16, 24, 32)}


def at_full_scale(sound: Samples, name: str) -> tuple[Samples, list[str]]:
    """The sound [channels, n] within [-1, 1], and what had to be done. Raises AudioError for what cannot be sound."""
    peak = float(np.abs(sound).max(initial=0.0))
    if not math.isfinite(peak):
        raise AudioError(f"{name} holds values that are not numbers.", "Export it again.")
    if peak <= 1 and (sound == sound[:, :1]).all():  # zero, or the offset of an input that nothing is plugged into
        return sound, [f"{name} is silent: all samples are the same."]
    decibels = 20 * math.log10(peak)
    if decibels < VERY_QUIET:
        return sound, [f"{name} is very quiet: its loudest sample is at {decibels:.0f} dBFS."]
    if peak <= 1:
        return sound, []
    integers = peak >= 2 and bool((sound == np.round(sound)).all())
    if peak <= HOT and not integers:
        remarks = [f"{name} is {decibels:.0f} dB beyond full scale: made quieter."] if decibels >= 1 else []
        return sound / np.float32(peak), remarks
    for bits, scale in INTEGER_SCALES.items():
        if peak <= scale:
            remark = f"{name} has values up to {peak:.0f} where 1 is full scale: taken as numbers of {bits} bits."
            return sound / np.float32(scale), [remark]
    raise AudioError(
        f"{name} has values up to {peak:.0e}, where 1 is full scale: that is not sound.", "Export it again."
    )


def about_clipping(sound: Samples, name: str) -> list[str]:
    """Whether a voice [n], as it was recorded, has its peaks cut off; after a lossy codec nobody can tell."""
    magnitude = np.abs(sound)
    high = np.flatnonzero(magnitude[CUT_OFF_RUN - 1 :] >= CUT_OFF * magnitude.max(initial=0.0))
    flat = np.ones(len(high), dtype=bool)
    for later in range(1, CUT_OFF_RUN):
        flat &= sound[high] == sound[high + later]
    low, most = CLIPPED_SHARE
    if low <= flat.sum() / max(1, len(sound)) <= most:
        return [f"{name} is clipped: its peaks are cut off. Record it at a lower level, if you can."]
    return []


class OneChannel:
    """One channel of a live microphone: the chosen one (from 1), or the one that is the loudest for a while.

    A mean would make a voice quieter for each input of an interface that is open or unused.
    """

    def __init__(self, rate: int, channel: int | None = None) -> None:
        self._rate = rate
        self._chosen = channel
        self._current = 0 if channel is None else channel - 1
        self._powers = np.zeros(0)

    def __call__(self, block: Samples) -> Samples:
        """[n, channels] -> [n]. Another channel fades in within the block."""
        count = block.shape[1]
        if self._chosen is not None or count == 1 or not len(block):
            return block[:, min(self._current, count - 1)]
        if len(self._powers) != count:
            self._powers, self._current = np.zeros(count), 0
        fading = math.exp(-len(block) / (LOUDEST_FOR * self._rate))
        self._powers = fading * self._powers + len(block) * block.var(axis=0, dtype=np.float64)
        before, loudest = self._current, int(self._powers.argmax())
        if self._powers[loudest] <= CLEARLY_LOUDER * self._powers[before]:
            return block[:, before]
        self._current = loudest
        fade = np.linspace(0, 1, len(block), dtype=np.float32)
        return block[:, before] * (1 - fade) + block[:, loudest] * fade


def one_voice(
    sound: Samples, rate: int, name: str, channel: str | None = None, sides: bool = False, alone: bool = False
) -> tuple[Samples, list[str]]:
    """Channels [c, n] -> the voice [n] at its own level, and what was taken if there was a choice.

    `channel` as the user names it; `sides` for our own recordings, whose left channel is the user.
    Raises AudioError if there is no such channel, or if the voice is to be `alone` and there are several.
    """
    count = len(sound)
    if channel is not None:
        index = channel_index(channel)
        if index >= count:
            raise AudioError(f"{name} has no channel {channel}: it has {count}.", f"Give --channel 1 to {count}.")
        return sound[index], [f"{name}: using {_called([index], count)}."] if count > 1 else []
    if sides and count == 2:
        return sound[0], [f"{name} is a recording of a conversation: using its left channel, the user's."]
    if count == 1:
        return sound[0], []
    powers = np.var(sound, axis=1, dtype=np.float64)  # a constant offset is no sound
    loudest = int(powers.argmax())
    heard = [each for each in range(count) if powers[each] > powers[loudest] * 10 ** (-SILENT_BELOW / 10)]
    if not heard or all(np.array_equal(sound[0], each) for each in sound[1:]):
        return sound[loudest], []
    others = _other_voices(sound, rate, loudest, heard)
    if not others and powers.min() > powers[loudest] * 10 ** (-ALIKE / 10):
        return sound[loudest], []
    if not others:
        rest = "the other is" if count == 2 else "the others are"
        why = f"{rest} silent" if len(heard) == 1 else f"{rest} silent or the same voice"
        return sound[loudest], [f"{name}: using {_called([loudest], count)}; {why}."]
    taken = sorted([loudest, *others])
    if alone:
        choices = either(["left", "right"] if count == 2 else [str(each + 1) for each in taken])
        raise AudioError(f"{name} has different voices in {_called(taken, count)}.", f"Give --channel {choices}.")
    mixed = sound[taken].sum(axis=0, dtype=np.float32)
    mixed /= max(1.0, float(np.abs(mixed).max()))
    remark = f"{name} has different voices in {_called(taken, count)}: all are used. Choose one with --channel."
    return mixed, [remark]


def _other_voices(sound: Samples, rate: int, loudest: int, heard: list[int]) -> list[int]:
    """Those channels in which something else is loud at other times. Delays, reverb and polarity do not matter."""
    block = max(1, round(ENVELOPE_SECONDS * rate))
    blocks = max(1, sound.shape[1] // block)

    def envelope(index: int) -> Samples:
        cut = sound[index, : blocks * block].reshape(blocks, -1)
        loudness = np.sqrt(np.mean(np.square(cut, dtype=np.float64), axis=1))
        return np.asarray(loudness / (np.linalg.norm(loudness) or 1.0), dtype=np.float32)

    envelopes = [envelope(loudest)]
    others: list[int] = []
    for index in sorted(set(heard) - {loudest}):
        own = envelope(index)
        if all(float(own @ known) < SAME_VOICE for known in envelopes):
            envelopes.append(own)
            others.append(index)
    return others


def _called(channels: list[int], count: int) -> str:
    names = [("left", "right")[each] if count == 2 else str(each + 1) for each in channels]
    if count == 2:
        return "its left and right channel" if len(names) == 2 else f"its {names[0]} channel"
    return f"channel{'s' * (len(names) > 1)} {', '.join(names)} of {count}"
