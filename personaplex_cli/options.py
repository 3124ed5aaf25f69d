"""Every option, once: a field of a dataclass, its help beside it. Commands are given the built objects (`cli/binding`).

Knows no command line: any program or test may build these by hand.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from personaplex_cli.errors import UsageError

DEFAULT_MODEL = "nvidia/personaplex-7b-v1"
DEMO = "demo"  # the name of the model that comes with the program
DEMO_NOTE = "The demo says set sentences; it hears that you speak, not what you say."
DEFAULT_PERSONA = "teacher"
PORT = 8998  # of Moshi's servers
MAX_CHANNEL = 1000
MAX_TAIL = 600  # seconds; more is a mistake
MAX_SLOTS = 64
MAX_MEMORY = 110  # seconds: what is read again lies in the model's context beside the talk that goes on
WORDS = ("tokens", "asr")  # where the words of an evaluation come from


def chosen(default: Any, help: str, shown: str | None = None, **more: Any) -> Any:
    """A field that is an option. `shown` is what help gives as the default, instead of None. `more` may have:

    `min` and `max`; `paired`, for a flag that also has a --no-; `panel`, the part of the help, else that of the class;
    `variable`, which names the environment variable if the field does not; None if there is none; `short`, such as -v.
    """
    return field(default=default, metadata={"help": help, "shown": shown, **more})


def channel_index(channel: str) -> int:
    """The index of `left`, `right` or a number from 1. Raises UsageError."""
    names = {"left": 0, "right": 1}
    if channel.lower() in names:
        return names[channel.lower()]
    if not (channel.isdecimal() and 1 <= int(channel) <= MAX_CHANNEL):
        raise UsageError(f"There is no channel {channel!r}.", "Give left, right or a number from 1.")
    return int(channel) - 1


def check_slots(number: str, alternative: str = "") -> None:
    """Raise UsageError for what is no number of conversations at once."""
    if not (number.isdecimal() and 1 <= int(number) <= MAX_SLOTS):
        raise UsageError(f"{number!r} is no batch size.", f"Give a number from 1 to {MAX_SLOTS}{alternative}.")


@dataclass(frozen=True)
class ModelFilesOptions:
    panel = "Machine"
    model: str = chosen(DEFAULT_MODEL, "demo, a folder, or a Hugging Face ORG/REPO.", short="-m")
    revision: str | None = chosen(None, "Branch, tag or commit of the repository.", "main")

    @property
    def model_name(self) -> str:
        """The model as strangers may see it: of a folder here, only the last part."""
        folder = Path(os.path.expanduser(self.model))  # unlike Path.expanduser, silent about unknown users
        return folder.resolve().name if folder.is_dir() else self.model

    @property
    def note(self) -> str:
        """What those who talk with the model should know of it."""
        return DEMO_NOTE if self.model == DEMO else ""


@dataclass(frozen=True)
class DeviceOptions(ModelFilesOptions):
    device: str = chosen("auto", "auto, cuda, cuda:N, mps or cpu.")
    precision: str = chosen("auto", "auto, bf16, fp16, fp32, int8, or int4 (experimental).")


@dataclass(frozen=True)
class ModelOptions(DeviceOptions):
    cpu_offload: bool = chosen(
        False, "Keep layers that do not fit on the GPU in main memory: for files; mostly too slow to talk.", paired=True
    )
    # No options here: recordings may be answered slower than they were spoken, and as the model was trained.
    force, renew, memory = True, False, 0.0


@dataclass(frozen=True)
class LiveModelOptions(ModelOptions):
    force: bool = chosen(False, "Talk even if this machine will be too slow.", variable=None)
    renew: bool = chosen(True, "Renew the model's memory before it forgets who it is.", paired=True)
    memory: float = chosen(90.0, "Seconds of the talk to keep at each renewal, at least.", min=10, max=MAX_MEMORY)


@dataclass(frozen=True)
class BatchOptions:
    """How many conversations the model holds at once. Raises UsageError for what is no number of them."""

    panel = "Machine"
    batch_size: str = chosen("1", f"Conversations at once: 1 to {MAX_SLOTS}, or auto for what fits.")

    def __post_init__(self) -> None:
        if self.batch_size != "auto":
            check_slots(self.batch_size, ", or auto")

    @property
    def slots(self) -> int | None:
        """None if the program is to find out how many."""
        return None if self.batch_size == "auto" else int(self.batch_size)


@dataclass(frozen=True)
class ClusterOptions:
    panel = "Machine"
    ray: str | None = chosen(
        None, "Answer on every GPU of a Ray cluster: local, auto or HOST:PORT.", "one GPU here", variable=None
    )


@dataclass(frozen=True)
class VoiceOptions:
    voice: str | None = chosen(
        None, "A name from `personaplex voices`, or a sample of speech.", "the persona's", short="-v"
    )
    persona: str = chosen(DEFAULT_PERSONA, "A name from `personaplex personas`.", short="-p")


@dataclass(frozen=True)
class CharacterOptions(VoiceOptions):
    prompt: str | None = chosen(None, "Text that replaces the persona's; @FILE reads it.", "the persona's")


@dataclass(frozen=True)
class SoundCardOptions:
    panel = "Sound"
    input_device: int | str | None = chosen(None, "Microphone: an index or a part of its name.", "system's")
    output_device: int | str | None = chosen(None, "Speaker: an index or a part of its name.", "system's")
    input_channel: int | None = chosen(
        None, "Which channel of the microphone to hear, from 1.", "the loudest", min=1, max=MAX_CHANNEL
    )
    device_rate: int | None = chosen(None, "Sample rate of the sound card in hertz.", "24000 if it can")


@dataclass(frozen=True)
class SpeakerOptions:
    """For who only listens."""

    panel = "Sound"
    output_device: int | str | None = chosen(None, "Speaker: an index or a part of its name.", "system's")


@dataclass(frozen=True)
class LiveSoundCardOptions(SoundCardOptions):
    echo_cancel: bool = chosen(False, "For loudspeakers: remove the agent's voice from the microphone.", paired=True)


@dataclass(frozen=True)
class RemoteOptions:
    """A server elsewhere, and how to get in; `server` as people write it, None for a model here."""

    panel = "A GPU elsewhere"
    server: str | None = chosen(
        None, "Talk with a server: HOST, HOST:PORT, ws://... or wss://...", "the model runs here", variable="server_url"
    )
    token: str | None = chosen(None, "The server's access token.", "none")
    insecure: bool = chosen(False, "Trust any certificate, such as a self-signed one.")


@dataclass(frozen=True)
class AsrOptions:
    """Whether the user's words are written down too, and by which model."""

    asr: str | None = chosen(
        None, "Write down your words, too: a Whisper model, such as base.en.", "only the agent's words", panel=None
    )


@dataclass(frozen=True)
class OutputOptions(AsrOptions):
    """What is written of each answer beside the agent's voice."""

    stereo: bool = chosen(False, "Write you on the left, the agent on the right.", variable=None)
    transcript: bool = chosen(
        True, "Write the words with their times beside the wav (.json).", paired=True, variable=None
    )
    srt: bool = chosen(False, "Write subtitles beside the wav (.srt).", variable=None)
    md: bool = chosen(False, "Write the words for reading beside the wav (.md).", variable=None)
    tail: float = chosen(0.0, "Seconds of silence after the recording, for an answer to its last word.")
    channel: str | None = chosen(
        None, "Which channel to hear: left, right or a number.", "where the voice is", variable=None
    )
    skip_existing: bool = chosen(False, "Skip recordings that have an answer.", variable=None)
    overwrite: bool = chosen(False, "Replace existing answers.", variable=None)
    strict: bool = chosen(False, "Stop at the first recording that fails.", variable=None)
    chunks = False  # no option here: the words in the JSON once more, as Full-Duplex-Bench reads them

    def __post_init__(self) -> None:
        if not 0 <= self.tail <= MAX_TAIL:
            raise UsageError(f"The tail is {self.tail} s.", f"Give a number of seconds from 0 to {MAX_TAIL}.")
        if self.skip_existing and self.overwrite:
            raise UsageError("--skip-existing and --overwrite contradict each other.", "Give one of them.")
        if self.channel is not None:
            channel_index(self.channel)

    @property
    def settings(self) -> dict[str, Any]:
        """What is needed to write the same again."""
        return {name: getattr(self, name) for name in ("stereo", "transcript", "srt", "md", "tail", "channel", "asr")}


@dataclass(frozen=True)
class EvalOptions:
    words: str = chosen("tokens", "tokens: as output.json has them; asr: as they are heard.", variable=None)
    run: bool = chosen(True, "Answer what has no output.wav yet.", paired=True, variable=None)
    plot: Path | None = chosen(None, "Draw a picture: FILE.png, .svg or .pdf.", "none", variable=None)


@dataclass(frozen=True)
class TaskCharacterOptions:
    """Who is evaluated: as the benchmark's task has it, whatever the user's settings are for talks."""

    voice: str | None = chosen(
        None, "A name from `personaplex voices`, or a sample of speech.", "the persona's", short="-v", variable=None
    )
    persona: str | None = chosen(
        None, "A name from `personaplex personas`.", "the task's prompt", short="-p", variable=None
    )
    prompt: str | None = chosen(
        None, "Text that replaces the task's; @FILE reads it.", "the task's prompt", variable=None
    )

    def for_task(self, prompt: str) -> CharacterOptions:
        """The same for a talk, with the prompt of a task unless the user has given another one."""
        own = self.persona or self.prompt is not None
        return CharacterOptions(self.voice, self.persona or DEFAULT_PERSONA, self.prompt if own else prompt)


@dataclass(frozen=True)
class ScreenOptions:
    """How a conversation is shown."""

    panel = "Screen"
    theme: str = chosen("auto", "auto, light, dark or none.")
    json: bool = chosen(False, "One JSON line per event on stdout, no panel.", variable=None)


@dataclass(frozen=True)
class ChatOptions(ScreenOptions, AsrOptions):
    """The same, and what is kept of it."""

    record: Path | None = chosen(
        None, "Folder in which to keep both voices and the words.", "nothing is kept", panel=None
    )
    favourites: str | None = chosen(
        None, "Who keys 1 to 9 switch to: personas, or PERSONA:VOICE, with commas.", "all personas"
    )
    verbose: bool = chosen(False, "Show more log lines.", variable=None)
    log_file: Path | None = chosen(None, "File for states, notes, losses and turns, one per line.", "none")


@dataclass(frozen=True)
class DuetOptions:
    minutes: float | None = chosen(None, "How long they talk.", "until you quit", min=0.01, variable=None)
    fast: bool = chosen(False, "As fast as the model goes, without sound.", variable=None)
    record: Path | None = chosen(None, "Folder in which to keep both voices and the words.", "nothing is kept")


@dataclass(frozen=True)
class ServeOptions(VoiceOptions, AsrOptions):
    queue: int = chosen(0, "How many clients may wait while all places are taken.", min=0, max=1000)
    max_minutes: float | None = chosen(None, "How long a client may talk.", "no limit", min=0.01)
    drain: float = chosen(0.0, "Seconds that conversations may go on after SIGTERM; nobody new is let in.", min=0)
    record: Path | None = chosen(None, "Folder in which to keep every conversation.", "nothing is kept")
    record_max_gb: float | None = chosen(
        None, "Gigabytes of recordings; the oldest are deleted then.", "none is deleted", min=0.001
    )
    record_max_days: float | None = chosen(
        None, "Days after which a recording is deleted.", "none is deleted", min=0.001
    )

    def terms(self, slots: int) -> str:
        """What clients find, as sentences."""
        waiting = f"{self.queue} more may wait" if self.queue else "nobody can wait"
        kept = f" What is said is kept in {self.record}." if self.record else ""
        return f"{f'{slots} may talk at once' if slots > 1 else 'One may talk'}, {waiting}.{kept}"


@dataclass(frozen=True)
class AccessOptions:
    """How a server is reached, and by whom. Raises UsageError for what cannot be."""

    panel = "Who gets in"
    host: str = chosen("127.0.0.1", "The address to listen on; 0.0.0.0 for every network.", panel=None)
    port: int = chosen(PORT, "0 takes any free port.", panel=None, min=0, max=65535)
    token: str | None = chosen(None, "The token that clients must send.", "none")
    ssl_cert: Path | None = chosen(None, "Certificate, for https and wss.", "none")
    ssl_key: Path | None = chosen(None, "The certificate's key.", "none")
    origin: tuple[str, ...] = chosen(
        (), "Another web page that may connect, as https://HOST; may be repeated.", "only our own", variable=None
    )
    static: Path | None = chosen(None, "Folder of another web client.", "our own page")

    def __post_init__(self) -> None:
        for origin in self.origin:
            if not re.fullmatch(r"https?://[^/\s]+/?", origin, re.IGNORECASE):  # what a browser sends, and no more
                raise UsageError(
                    f"{origin!r} is not the origin of a web page.", "Give it as https://HOST or https://HOST:PORT."
                )
        if self.token == "":
            raise UsageError("The token is empty.", "Give a long one that is hard to guess, or none.")
        if (self.ssl_cert is None) != (self.ssl_key is None):
            raise UsageError("A certificate and its key belong together.", "Give both --ssl-cert and --ssl-key.")
        if self.static is not None and not (self.static / "index.html").is_file():
            raise UsageError(f"{self.static} has no index.html.", "Give the folder of a built web client to --static.")


@dataclass(frozen=True)
class BenchOptions:
    frames: int = chosen(250, "Frames of 80 ms to measure.", variable=None, min=1, max=100_000)
    context_fill: int = chosen(0, "Positions of context to fill before measuring.", variable=None, min=0, max=100_000)
    random_weights: bool = chosen(False, "Random weights of the real sizes: no download, speed only.", variable=None)
    batch_size: str = chosen(
        "1", f"Conversations at once to measure, 1 to {MAX_SLOTS}, such as 1,2,4,8.", variable=None
    )

    def __post_init__(self) -> None:
        for each in self.batch_size.split(","):
            check_slots(each)

    @property
    def sizes(self) -> list[int]:
        return [int(each) for each in self.batch_size.split(",")]
