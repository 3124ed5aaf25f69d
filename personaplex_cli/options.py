"""Every option, once: a field of a dataclass, its help beside it. Commands are given the built objects (`cli/binding`).

Knows no command line: any program or test may build these by hand.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_MODEL = "nvidia/personaplex-7b-v1"
DEMO = "demo"  # the name of the model that is made here and needs no download
DEFAULT_PERSONA = "teacher"
PORT = 8998  # of Moshi's servers


def chosen(default: Any, help: str, **more: Any) -> Any:
    """A field that is an option. `more` says what `cli/binding` must know beyond name, type, default and help."""
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True)
class ModelFilesOptions:
    """Which model."""

    model: str = chosen(DEFAULT_MODEL, "demo, a folder, or a Hugging Face ORG/REPO.")
    revision: str | None = chosen(None, "Branch, tag or commit of the repository.", default_shown="main")

    @property
    def model_name(self) -> str:
        """The model as strangers may see it: of a folder here, only the last part."""
        folder = Path(self.model).expanduser()
        return folder.resolve().name if folder.is_dir() else self.model


@dataclass(frozen=True)
class DeviceOptions(ModelFilesOptions):
    """Which model, where, in how many bits."""

    device: str = chosen("auto", "auto, cuda, cuda:N, mps or cpu.")
    precision: str = chosen("auto", "auto, bf16, fp16, fp32, int8, or int4 (experimental).")


@dataclass(frozen=True)
class ModelOptions(DeviceOptions):
    """How a model shall run."""

    cpu_offload: bool = chosen(
        False, "Keep layers that do not fit in main memory: for files; mostly too slow for talking."
    )

    @property
    def live(self) -> bool:
        """Whether what is bound to be slower than speech is refused, as far as that can be told before loading."""
        return False


@dataclass(frozen=True)
class LiveModelOptions(ModelOptions):
    """How a model shall run that someone talks with."""

    force: bool = chosen(False, "Talk even if this is bound to be too slow for it.", environment=False)

    @property
    def live(self) -> bool:
        return not self.force


@dataclass(frozen=True)
class CharacterOptions:
    """Who speaks, by names. `prompt` replaces the persona's text."""

    voice: str | None = chosen(None, "A name from `personaplex voices`, or a sample of speech.")
    persona: str = chosen(DEFAULT_PERSONA, "A name from `personaplex personas`.")
    prompt: str | None = chosen(None, "Text that replaces the persona's; @FILE reads it.")


@dataclass(frozen=True)
class SoundCardOptions:
    """Which devices (an index or a part of the name; None for the system's), which rate (None: 24 kHz if possible)."""

    input_device: int | str | None = chosen(None, "Microphone: an index or a part of its name.")
    output_device: int | str | None = chosen(None, "Speaker: an index or a part of its name.")
    device_rate: int | None = chosen(None, "Hertz of the sound card.")


@dataclass(frozen=True)
class LiveSoundCardOptions(SoundCardOptions):
    """The same, and whether the agent's voice is removed from the microphone."""

    echo_cancel: bool = chosen(False, "For loudspeakers: take the agent's voice out of the microphone.")


@dataclass(frozen=True)
class RemoteOptions:
    """A server elsewhere, and how to get in; `server` as people write it, None for a model here."""

    server: str | None = chosen(None, "Talk with a server: HOST, HOST:PORT, ws://... or wss://...")
    token: str | None = chosen(None, "What the server wants to see.")
    insecure: bool = chosen(False, "Trust any certificate, such as a self-signed one.")


@dataclass(frozen=True)
class OutputOptions:
    """What is written of each answer beside the agent's voice."""

    stereo: bool = chosen(False, "Write you on the left, the agent on the right.")
    transcript: bool = chosen(True, "Write the words with their times beside the wav (.json).")
    srt: bool = chosen(False, "Write subtitles beside the wav (.srt).")
    tail: float = chosen(0.0, "Seconds of silence to listen to after the recording.")


@dataclass(frozen=True)
class ScreenOptions:
    """How a conversation is shown."""

    theme: str = chosen("auto", "auto, light, dark or none.")
    verbose: bool = chosen(False, "Show more log lines.", environment=False)
    log_file: Path | None = chosen(None, "File that gets states, notes, losses and turns as lines.")
    json: bool = chosen(False, "One JSON line per event on stdout, no panel.", environment=False)


@dataclass(frozen=True)
class ServeOptions:
    """Who talks where a client asks for no one, how many may wait, how long one may talk, where talks are recorded."""

    voice: str | None = chosen(None, "A name from `personaplex voices`, or a sample of speech.")
    persona: str = chosen(DEFAULT_PERSONA, "A name from `personaplex personas`.")
    queue: int = chosen(0, "How many may wait while one talks.")
    max_minutes: float | None = chosen(None, "How long one may talk.")
    record: Path | None = chosen(None, "Folder in which to keep every conversation.")


@dataclass(frozen=True)
class AccessOptions:
    """How a server is reached, and by whom."""

    host: str = chosen("127.0.0.1", "The address to listen at; 0.0.0.0 for every network.")
    port: int = chosen(PORT, "0 takes any that is free.")
    token: str | None = chosen(None, "What clients must know to get in.")
    ssl_cert: Path | None = chosen(None, "Certificate, for https and wss.")
    ssl_key: Path | None = chosen(None, "The certificate's key.")
    origin: tuple[str, ...] = chosen((), "Another web page that may connect, as https://HOST; several times.")
    static: Path | None = chosen(None, "Folder of another web client.")


@dataclass(frozen=True)
class BenchOptions:
    """What is measured: `frames`, after so many positions of context."""

    frames: int = chosen(250, "Frames of 80 ms to measure.")
    context_fill: int = chosen(0, "Positions of context that are filled before measuring.")
    random_weights: bool = chosen(False, "The real sizes without any download: speed only.")
