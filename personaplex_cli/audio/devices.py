"""The sound devices of this machine, as PortAudio sees them: listing, choosing, opening.

The only importer of sounddevice, and only when a sound card is needed: without the PortAudio library the import itself
fails, and files can be answered without it.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from personaplex_cli.audio.echo import EchoCanceller
from personaplex_cli.errors import AudioError, UsageError
from personaplex_cli.findings import OK, Finding, warn_if
from personaplex_cli.options import LiveSoundCardOptions, SoundCardOptions
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


@dataclass(frozen=True)
class Side:
    """The microphone or the speaker, as it was opened."""

    name: str
    rate: int
    channels: int

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.rate / 1000:g} kHz, {'mono' if self.channels == 1 else f'{self.channels} channels'})"
        )


@dataclass(frozen=True)
class OpenCard:
    """PortAudio's streams: one for both directions, or one for each."""

    streams: list[Any]
    microphone: Side
    speaker: Side

    @property
    def description(self) -> str:
        """A sentence about what was opened."""
        return f"Microphone: {self.microphone}. Speaker: {self.speaker}."

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


def check_choice(options: SoundCardOptions) -> None:
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
        own_rate = next((each.default_rate for each in listed if each.name == side.name), side.rate)
        figures = asdict(side) | {"own_rate": own_rate}
        found = str(side) + ("" if side.rate == SAMPLE_RATE else ", resampled to 24 kHz")
        advice = f"{own_rate / 1000:g} kHz sounds like a telephone: with Bluetooth, use another microphone."
        yield warn_if(min(own_rate, side.rate) <= TELEPHONE_RATE, kind, found, advice, figures)


def echo_canceller(options: SoundCardOptions) -> EchoCanceller | None:
    """The echo canceller if the options ask for one. Raises UsageError if its package is not installed."""
    return EchoCanceller() if isinstance(options, LiveSoundCardOptions) and options.echo_cancel else None


def open_card(options: SoundCardOptions, latency: str, call_back: CallBack) -> OpenCard:
    """Find the devices and open them; `latency` is PortAudio's "low" or "high".

    Two devices have two clocks: each gets a stream of its own, and `call_back` gets None for the other side.
    Raises UsageError for a device that does not exist, AudioError for one that cannot be opened.
    """
    microphone, speaker = _find(options.input_device, "input"), _find(options.output_device, "output")
    sound = portaudio()
    if microphone["index"] == speaker["index"]:
        streams = [_open(sound.Stream, {"input": microphone, "output": speaker}, options, latency, call_back)]
    else:
        streams = [_open(sound.InputStream, {"input": microphone}, options, latency, _input_only(call_back))]
        try:
            streams.append(_open(sound.OutputStream, {"output": speaker}, options, latency, _output_only(call_back)))
        except AudioError:
            streams[0].close()
            raise
    return OpenCard(streams, _side(microphone, streams[0], 0), _side(speaker, streams[-1], -1))


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
        descriptor, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # there is no stderr
        yield
        return
    with suppress(AttributeError, OSError, ValueError):  # a test or a notebook may have replaced it
        sys.stderr.flush()
    pythons = sys.stderr
    if _is_descriptor_2(pythons):
        sys.stderr = os.fdopen(os.dup(descriptor), "w", encoding=pythons.encoding, errors="replace", buffering=1)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(descriptor, 2)
        os.close(descriptor)
        os.close(nowhere)
        if sys.stderr is not pythons:
            sys.stderr.close()
            sys.stderr = pythons


def _is_descriptor_2(stream: Any) -> bool:
    try:
        return bool(stream.fileno() == 2)
    except (AttributeError, OSError, ValueError):
        return False


def _find(wanted: int | str | None, kind: str) -> Any:
    """PortAudio's description of a device; `kind` is input or output."""
    sound = portaudio()
    if isinstance(wanted, str) and wanted.strip().isdecimal():
        wanted = int(wanted)
    try:
        return sound.query_devices(wanted, kind)
    except (ValueError, sound.PortAudioError) as error:
        if wanted is None:
            raise AudioError(
                f"There is no {_SIDES[kind]}.",
                "Plug one in (`personaplex devices` lists them all), or use recordings with `personaplex run`.",
            ) from error
        matches = [line.strip() for line in str(error).splitlines()[1:]]
        if matches:
            raise UsageError(f"Several {kind} devices match {wanted!r}.", f"Which one? {'; '.join(matches)}") from error
        raise _no_such_device(wanted, kind) from error


def _no_such_device(wanted: int | str | None, kind: str) -> UsageError:
    usable = [d for d in devices() if (d.inputs if kind == "input" else d.outputs)]
    names = "; ".join(f"[{d.index}] {d.name}, {d.host_api}" for d in usable) or "none"
    return UsageError(f"There is no {kind} device {wanted!r}.", f"There are: {names}")


def _open(stream: Any, sides: dict[str, Any], options: SoundCardOptions, latency: str, call_back: Any) -> Any:
    """PortAudio's `stream` for these devices, with the rate and the channels nearest to what the model wants."""
    sound = portaudio()
    own_rates = [round(device["default_samplerate"]) for device in sides.values()]
    rates = [options.device_rate] if options.device_rate else dict.fromkeys([SAMPLE_RATE, *own_rates, *USUAL_RATES])
    mono = [1] * len(sides)
    every = [device[f"max_{side}_channels"] for side, device in sides.items()]
    for rate, channels in product(rates, [mono, every]):
        try:
            return stream(
                samplerate=rate,
                blocksize=round(rate * BLOCK_SECONDS),
                device=_one_or_pair([device["index"] for device in sides.values()]),
                channels=_one_or_pair(channels),
                dtype="float32",
                latency=latency,
                extra_settings=_one_or_pair([_settings(device) for device in sides.values()]),
                callback=call_back,
            )
        except sound.PortAudioError as error:
            refusal = error
    raise _refused([device["name"] for device in sides.values()], refusal) from refusal


def _refused(names: list[str], error: Exception) -> AudioError:
    return AudioError(
        f"{' and '.join(dict.fromkeys(names))} cannot be opened: {error.args[0]}.",
        "Close other programs that use it, allow microphone access in the system's privacy settings, or choose another "
        "device or --device-rate (see `personaplex devices`).",
    )


def _settings(device: Any) -> Any:
    """Windows' WASAPI refuses every rate but its own unless it is asked to convert."""
    sound = portaudio()
    wasapi = "WASAPI" in sound.query_hostapis(device["hostapi"])["name"]
    return sound.WasapiSettings(auto_convert=True) if wasapi else None


def _input_only(call_back: CallBack) -> Any:
    return lambda indata, count, time, flags: call_back(indata, None, count, time, flags)


def _output_only(call_back: CallBack) -> Any:
    return lambda outdata, count, time, flags: call_back(None, outdata, count, time, flags)


def _one_or_pair(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


def _side(device: Any, stream: Any, which: int) -> Side:
    channels = stream.channels if isinstance(stream.channels, int) else stream.channels[which]
    return Side(device["name"], round(stream.samplerate), channels)


_SIDES = {"input": "microphone", "output": "speaker"}
