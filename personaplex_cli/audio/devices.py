"""The sound devices of this machine, as PortAudio sees them: listing, choosing, opening.

The only importer of sounddevice, and only when a sound card is needed: without the PortAudio library the import itself
fails, and files can be answered without it.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

from personaplex_cli.audio.echo import echo_canceller
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.findings import OK, Finding, warn_if
from personaplex_cli.options import SoundCardOptions
from personaplex_cli.samples import SAMPLE_RATE

BLOCK_SECONDS = 0.02
USUAL_RATES = (48_000, 44_100)  # a device's own rate, as reported, is not always true
TELEPHONE_RATE = 16_000  # hertz, the most that a Bluetooth headset has while its microphone is on
CLOSE_TIMEOUT = 2.0  # seconds; closing takes some milliseconds, unless it never ends

# PortAudio's callback: input [n, channels] or None, output [n, channels] or None, n, times, flags.
CallBack = Callable[[Any, Any, int, Any, Any], None]


@dataclass(frozen=True)
class DeviceInfo:
    """A sound device; `inputs` and `outputs` are channels, `default_rate` is in hertz."""

    index: int
    name: str
    host_api: str
    inputs: int
    outputs: int
    default_rate: int
    is_default_input: bool
    is_default_output: bool

    def __str__(self) -> str:
        return f"[{self.index}] {self.name}, {self.host_api}"


@dataclass(frozen=True)
class Side:
    """The microphone or the speaker, as it was opened; rates in hertz."""

    name: str
    rate: int
    channels: int
    own_rate: int

    def __str__(self) -> str:
        channels = "mono" if self.channels == 1 else f"{self.channels} channels"
        return f"{self.name} ({self.rate / 1000:g} kHz, {channels})"


@dataclass(frozen=True)
class OpenCard:
    """PortAudio's streams: one for both directions, or one for each."""

    streams: list[Any]
    microphone: Side
    speaker: Side

    def start(self) -> None:
        """Let the callback be called. Raises AudioError."""
        try:
            for stream in self.streams:
                stream.start()
        except portaudio().PortAudioError as error:
            raise _refused([self.microphone.name, self.speaker.name], error) from error

    def close(self) -> bool:
        """Stop at once and give the devices back; False if PortAudio never returns from that.

        That happens when the sound server has died. Then a thread of PortAudio's hangs, and so would this program at
        its end, when sounddevice tidies up: that is unregistered.
        """
        closing = threading.Thread(target=self._close, name="closing the sound card", daemon=True)
        closing.start()
        closing.join(CLOSE_TIMEOUT)
        if closing.is_alive():
            atexit.unregister(portaudio()._exit_handler)
        return not closing.is_alive()

    def _close(self) -> None:
        for stream in self.streams:
            stream.abort()  # never stop(): it waits for the last sound, which a dead device never plays
            stream.close()


def devices() -> list[DeviceInfo]:
    """All sound devices, in PortAudio's order; empty if there is none. Raises AudioError without PortAudio."""
    sound = portaudio()
    default_input, default_output = sound.default.device
    return [
        DeviceInfo(
            index=index,
            name=found["name"],
            host_api=sound.query_hostapis(found["hostapi"])["name"],
            inputs=found["max_input_channels"],
            outputs=found["max_output_channels"],
            default_rate=round(found["default_samplerate"]),
            is_default_input=index == default_input,
            is_default_output=index == default_output,
        )
        for index, found in enumerate(sound.query_devices())
    ]


def check_devices(options: SoundCardOptions) -> None:
    """See that the devices and the echo canceller exist, before a model is loaded; opens nothing.

    Raises UsageError or AudioError as `open_card` does.
    """
    with quiet_portaudio():
        _find(options.input_device, "input")
        _find(options.output_device, "output")
    echo_canceller(options)


def check(options: SoundCardOptions) -> Iterator[Finding]:
    """PortAudio, and the devices that a conversation would use: opened and closed again, without any sound.

    Raises UsageError or AudioError as `open_card` does.
    """
    with quiet_portaudio():
        listed = devices()
        number, text = portaudio().get_portaudio_version()
        figures = {"version": number, "devices": [asdict(each) for each in listed]}
        systems = ", ".join(dict.fromkeys(each.host_api for each in listed))
        found = f"{text.split(',')[0].removeprefix('PortAudio ')}; {len(listed)} device{'s' * (len(listed) != 1)}"
        yield Finding(OK, "PortAudio", f"{found} ({systems})" if systems else found, figures=figures)
        card = open_card(options, "low", lambda *_: None)
        card.close()
    for kind, side in (("microphone", card.microphone), ("speaker", card.speaker)):
        found = str(side) + ("" if side.rate == SAMPLE_RATE else ", resampled to 24 kHz")
        advice = f"{side.own_rate / 1000:g} kHz sounds like a telephone: with Bluetooth, use another microphone."
        yield warn_if(min(side.own_rate, side.rate) <= TELEPHONE_RATE, kind, found, advice, asdict(side))


def open_card(options: SoundCardOptions, latency: str, call_back: CallBack) -> OpenCard:
    """Find the devices and open them; `latency` is PortAudio's "low" or "high".

    Two devices have two clocks: each gets a stream of its own, and `call_back` gets None for the other side.
    Raises UsageError for a device that does not exist, AudioError for one that cannot be opened.
    """
    microphone, speaker = _find(options.input_device, "input"), _find(options.output_device, "output")
    if (options.input_channel or 1) > max(1, microphone.inputs):
        what = f"{microphone.name} has no channel {options.input_channel}."
        raise UsageError(what, f"Give --input-channel 1 to {microphone.inputs}.")
    sound, opened = portaudio(), partial(_open, options, latency)
    if microphone.index == speaker.index:
        streams = [opened(sound.Stream, microphone, (microphone.inputs, microphone.outputs), call_back)]
        inputs, outputs = streams[0].channels
    else:
        heard = opened(
            sound.InputStream, microphone, microphone.inputs, lambda data, *rest: call_back(data, None, *rest)
        )
        try:
            played = opened(sound.OutputStream, speaker, speaker.outputs, partial(call_back, None))
        except AudioError:
            heard.close()
            raise
        streams, inputs, outputs = [heard, played], heard.channels, played.channels
    return OpenCard(
        streams,
        Side(microphone.name, round(streams[0].samplerate), inputs, microphone.default_rate),
        Side(speaker.name, round(streams[-1].samplerate), outputs, speaker.default_rate),
    )


def open_speaker(options: SoundCardOptions, call_back: CallBack) -> OpenCard:
    """The speaker alone, for who only listens: `call_back` gets None for the microphone.

    Raises UsageError and AudioError as `open_card` does.
    """
    speaker = _find(options.output_device, "output")
    stream = _open(options, "high", portaudio().OutputStream, speaker, speaker.outputs, partial(call_back, None))
    side = Side(speaker.name, round(stream.samplerate), stream.channels, speaker.default_rate)
    return OpenCard([stream], side, side)


def rescan() -> None:
    """Look for devices anew: PortAudio only ever looks once. No stream may be open."""
    sound = portaudio()
    for step in (sound._terminate, sound._initialize):
        with suppress(sound.PortAudioError):
            step()


def portaudio() -> Any:
    """The sounddevice module. Raises AudioError if the PortAudio library is missing."""
    try:
        with quiet_portaudio():
            import sounddevice
    except OSError as error:
        raise AudioError(
            "The sound library PortAudio is not installed.",
            "Install it: `sudo apt install libportaudio2` (Debian, Ubuntu), `sudo dnf install portaudio` (Fedora).",
        ) from error
    return sounddevice


@contextmanager
def quiet_portaudio() -> Iterator[None]:
    """Drop what C libraries write to stderr; what Python writes to `sys.stderr` still gets there.

    ALSA and PortAudio log across whatever is on the screen: a few lines when a device is opened, and some hundred
    thousand a second when it is gone.
    """
    try:
        stderr = os.fdopen(os.dup(2), "w", 1, getattr(sys.stderr, "encoding", None), "replace")
    except OSError:  # there is none
        yield
        return
    is_pythons = False
    with suppress(AttributeError, OSError, ValueError):  # a test or a notebook may have replaced it
        sys.stderr.flush()
        is_pythons = sys.stderr.fileno() == 2
    with stderr, open(os.devnull, "wb") as nowhere, redirect_stderr(stderr if is_pythons else sys.stderr):
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr.fileno(), 2)


def _find(wanted: int | str | None, kind: str) -> DeviceInfo:
    """The device that is meant; `kind` is input or output."""
    sound = portaudio()
    if isinstance(wanted, str) and wanted.strip().isdecimal():
        wanted = int(wanted)
    try:
        index: int = sound.query_devices(wanted, kind)["index"]
        return devices()[index]
    except (ValueError, sound.PortAudioError) as error:
        if wanted is None:
            raise AudioError(
                f"There is no {'microphone' if kind == 'input' else 'speaker'}.",
                "Plug one in (`personaplex devices` lists them all), or use recordings with `personaplex run`.",
            ) from error
        if matches := [line.strip() for line in str(error).splitlines()[1:]]:
            raise UsageError(f"Several {kind} devices match {wanted!r}.", f"Which one? {'; '.join(matches)}") from error
        usable = "; ".join(str(each) for each in devices() if getattr(each, f"{kind}s"))
        raise UsageError(f"There is no {kind} device {wanted!r}.", f"There are: {usable or 'none'}") from error


def _open(
    options: SoundCardOptions, latency: str, stream: Any, device: DeviceInfo, channels: Any, call_back: Any
) -> Any:
    """PortAudio's `stream` of this device, with the rate and the channels nearest to what the model wants.

    `channels` is how many it has, a pair for both directions.
    """
    sound = portaudio()
    likely = dict.fromkeys([SAMPLE_RATE, device.default_rate, *USUAL_RATES])
    # Windows' WASAPI refuses every rate but its own unless it is asked to convert.
    extra = sound.WasapiSettings(auto_convert=True) if "WASAPI" in device.host_api else None
    # Where a channel is chosen a card must not mix them for us.
    counts = [channels] if options.input_channel and stream is not sound.OutputStream else [1, channels]
    for rate, count in product([options.device_rate] if options.device_rate else likely, counts):
        try:
            return stream(
                samplerate=rate,
                blocksize=round(rate * BLOCK_SECONDS),
                device=device.index,
                channels=count,
                dtype="float32",
                latency=latency,
                extra_settings=extra,
                callback=call_back,
            )
        except sound.PortAudioError as error:
            refusal = error
    raise _refused([device.name], refusal) from refusal


def _refused(names: list[str], error: Exception) -> AudioError:
    return AudioError(
        f"{' and '.join(dict.fromkeys(names))} cannot be opened: {error.args[0]}.",
        "Close other programs that use it, allow microphone access in the system's privacy settings, or choose another "
        "device or --device-rate (see `personaplex devices`).",
    )
