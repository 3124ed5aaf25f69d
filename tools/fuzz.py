"""What reads bytes that anyone may have made, each as a function of bytes: a value, or an error with words.

    python tools/fuzz.py                       # the names
    python tools/fuzz.py sound --seconds 600   # atheris, where it is installed; else mutations of what is known

What breaks a target is written to tests/data/fuzz/TARGET, whose files tests/fuzz tries every time.
"""

import argparse
import gzip
import hashlib
import io
import random
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402

from personaplex_cli.errors import AudioError, ModelError, UsageError  # noqa: E402
from personaplex_cli.protocols.adapter import Adapter, Upgrade  # noqa: E402
from personaplex_cli.protocols.interview import Interview  # noqa: E402
from personaplex_cli.protocols.moshi import Moshi  # noqa: E402
from personaplex_cli.protocols.openai_live import OpenAILive  # noqa: E402
from personaplex_cli.protocols.openai_realtime import OpenAIRealtime  # noqa: E402
from personaplex_cli.protocols.pcm import Pcm  # noqa: E402
from personaplex_cli.protocols.twilio import Twilio  # noqa: E402
from personaplex_cli.protocols.wire import WireError, unpack  # noqa: E402

CORPUS = ROOT / "tests/data/fuzz"
SOUNDS = ROOT / "tests/data/sounds"
MAX_SECONDS = 60.0  # of sound
BETWEEN = b"\n"  # two messages of a conversation
ADAPTERS: tuple[type[Adapter], ...] = (Moshi, Pcm, Interview, OpenAILive, OpenAIRealtime, Twilio)


@dataclass(frozen=True)
class Target:
    """`read` raises for a bug only; `seeds` are inputs that it understands. `needs_torch`, to be read at all."""

    read: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    needs_torch: bool = False


@contextmanager
def _file(content: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


# Sound.


def sound(content: bytes) -> None:
    """A recording of whatever kind, without ffmpeg."""
    from personaplex_cli.audio.decoding import decode

    with mock.patch("shutil.which", return_value=None), suppress(AudioError):
        for samples, rate, _ in decode(content, "x", MAX_SECONDS)[0]:
            assert samples.dtype == np.float32 and samples.shape[1] <= (MAX_SECONDS + 1) * rate


def opus(content: bytes) -> None:
    """A stream of Ogg-Opus, as clients and servers send it."""
    from personaplex_cli.audio.opus import OpusReader

    reader = OpusReader()
    for start in range(0, len(content), 400):
        with suppress(AudioError):
            reader.read(content[start : start + 400])


def sounds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(SOUNDS.iterdir())]


def opus_streams() -> list[bytes]:
    from personaplex_cli.audio.opus import OpusWriter

    writer, noise = OpusWriter(), np.random.default_rng(0).normal(0, 0.1, (5, 1920)).astype(np.float32)
    return [b"".join(map(writer.write, noise))]


# A model's files.


def voice(content: bytes) -> None:
    """A voice, as torch saves it."""
    from personaplex_cli.engine.prompting import load_saved_voice
    from personaplex_cli.library.spec import spec_with

    with _file(content, "voice.pt") as path, suppress(ModelError):
        spec = spec_with({"lm": {"text_card": 400, "dim": 8}})
        assert load_saved_voice(path, spec).is_possible(spec)


def voices() -> list[bytes]:
    import torch

    file = io.BytesIO()
    torch.save({"embeddings": torch.zeros(5, 1, 1, 8), "cache": torch.zeros(1, 17, 4, dtype=torch.long)}, file)
    return [file.getvalue()]


def weights(content: bytes) -> None:
    """Weights, as safetensors has them."""
    import torch

    from personaplex_cli.loader.checkpoint import read

    shapes = {"emb.weight": (4, 8), "norm.alpha": (8,)}
    with _file(content, "model.safetensors") as path, suppress(ModelError):
        for name, tensor in read(path, shapes, torch.float32, lambda name: torch.device("cpu")):
            assert tuple(tensor.shape) == shapes[name] and bool(tensor.isfinite().all())


def weight_files() -> list[bytes]:
    import torch
    from safetensors.torch import save

    made = {"emb.weight": torch.ones(4, 8), "norm.alpha": torch.ones(8)}
    return [save(made), save({name: each.bfloat16() for name, each in made.items()})]


def archive(content: bytes) -> None:
    """The model's voices in one file: no path out of the folder, no more bytes than voices have."""
    from personaplex_cli.library.weights import MAX_UNPACKED_BYTES, unpack_voices

    allowed = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, OSError)
    with _file(content, "voices.tgz") as path:
        folder = path.parent / "voices"
        folder.mkdir()
        with suppress(*allowed):
            unpack_voices(path, folder)
        assert sorted(path.parent.iterdir()) == sorted([path, folder])
        assert sum(each.stat().st_size for each in folder.iterdir()) <= MAX_UNPACKED_BYTES


def archives() -> list[bytes]:
    from fakemodel import archive as write

    with tempfile.TemporaryDirectory() as folder:
        packed = write(Path(folder) / "x.tgz", "voices/NATF2.pt", "voices/VARM0.pt", "../evil.pt").read_bytes()
    return [packed, gzip.compress(gzip.decompress(packed)[:900])]


def description(content: bytes) -> None:
    """The sizes of a model, in JSON."""
    from personaplex_cli.library.spec import SPEC_FILE, spec_of_folder

    with _file(content, SPEC_FILE) as path, suppress(ModelError):
        spec_of_folder(path.parent)


# What users write.


def persona(content: bytes) -> None:
    from personaplex_cli.library.catalog import _read_persona

    with _file(content, "kind.toml") as path, suppress(UsageError):
        assert _read_persona(path).name == path.stem


def personas() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "personas").glob("*.toml"))]


def config(content: bytes) -> None:
    from personaplex_cli.library.settings import default_map

    with _file(content, "config.toml") as path, suppress(UsageError):
        default_map(path, {"run": ["voice", "seed", "tail"], "chat": ["voice", "mute"]})


def recorded_talk(content: bytes) -> None:
    """`transcript.json` and `tokens.npy` of a recording, with four NULs between them."""
    from personaplex_cli.audio.recording import write_wav
    from personaplex_cli.recorded import read_talk
    from personaplex_cli.recorder import TOKENS

    transcript, _, tokens = content.partition(b"\0\0\0\0")
    with _file(transcript, "transcript.json") as path, suppress(AudioError, UsageError):
        (path.parent / TOKENS).write_bytes(tokens)
        silence = np.zeros(1920, dtype=np.float32)
        with (path.parent / "conversation.wav").open("wb") as file:
            write_wav(file, silence, silence)
        talk = read_talk(path.parent)
        assert talk.frames == 1 and talk.happened() and (talk.tokens is None or talk.tokens.shape[1] == 17)


def recorded_talks() -> list[bytes]:
    tokens = io.BytesIO()
    np.save(tokens, np.zeros((1, 17), dtype=np.int32))
    events = b'{"frame": 0, "event": "began", "persona": "kind", "settings": {}}, {"frame": 1, "event": "muted"}'
    words = b'{"word": "hello", "start": 0.0, "end": 0.08}, {"word": "you", "start": 0.1, "end": 1, "speaker": "user"}'
    return [b'{"events": [%b], "words": [%b], "restarts": [0.08]}\0\0\0\0%b' % (events, words, tokens.getvalue())]


# What comes over the network.


def wire(content: bytes) -> None:
    """A message of Moshi's, to a server or to a client."""
    with suppress(WireError):
        unpack(content)


def wires() -> list[bytes]:
    return [b"\0\0\0\0\0\0\0\0\0", b"\1OggS", b"\2 word", b"\3\0", b'\4{"queue": 2, "seed": 7}', b"\5no", b"\6"]


def conversation(adapter: type[Adapter], content: bytes) -> None:
    """The messages of a client, one after the other: bytes, or text where they are UTF-8."""
    spoken = adapter()
    list(spoken.open(Upgrade({})))
    for message in content.split(BETWEEN):
        for each in (message, message.decode("utf-8", "replace")):
            with suppress(WireError, UsageError, AudioError):
                list(spoken.decode(each))


def conversations(adapter: type[Adapter]) -> list[bytes]:
    messages: dict[type[Adapter], list[bytes]] = {
        Moshi: [b"\1OggS\0\2", b"\3\3", b'\4{"hush": true}', b"\6"],
        Pcm: [b"\0\0" * 8, b'{"type": "config", "sample_rate": 16000, "seed": 3}', b'{"type": "hush"}'],
        Interview: [b'{"type": "hello", "role": "x"}', b'{"type": "audio", "data": "AAAA"}', b'{"type": "reset"}'],
        OpenAILive: [
            b'{"type": "session.start", "session": {"instructions": "x", "audio": {"output": {"voice": "NATF2"}}}}',
            b'{"type": "session.input_audio.append", "audio": "AAAA"}',
        ],
        OpenAIRealtime: [
            b'{"type": "session.update", "session": {"type": "realtime", "instructions": "x"}}',
            b'{"type": "input_audio_buffer.append", "audio": "AAAA"}',
            b'{"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": []}}',
            b'{"type": "response.create"}',
        ],
        Twilio: [
            b'{"event": "start", "streamSid": "MZ1", "start": {"customParameters": {"voice": "x"}}}',
            b'{"event": "media", "media": {"payload": "////"}}',
            b'{"event": "mark", "mark": {"name": "1"}}',
        ],
    }
    return [*messages[adapter], BETWEEN.join(messages[adapter])]


TARGETS = {
    "sound": Target(sound, sounds),
    "opus": Target(opus, opus_streams),
    "voice": Target(voice, voices, needs_torch=True),
    "weights": Target(weights, weight_files, needs_torch=True),
    "archive": Target(archive, archives),
    "description": Target(description, lambda: [b'{"lm": {"context": 40, "dim": 64}, "spec": "moshi"}', b"{}"]),
    "persona": Target(persona, personas),
    "config": Target(config, lambda: [b'voice = "NATM1"\n[run]\nseed = 3\ntail = 1.5\n[chat]\nmute = true\n']),
    "recorded_talk": Target(recorded_talk, recorded_talks),
    "wire": Target(wire, wires),
    **{each.__name__.lower(): Target(partial(conversation, each), partial(conversations, each)) for each in ADAPTERS},
}


@cache
def known(name: str) -> list[bytes]:
    """The seeds of a target, and all that ever broke it."""
    return [*TARGETS[name].seeds(), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]


def mutated(content: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """Each change is what to do, where (counted around), and with which bytes."""
    for kind, place, piece in changes:
        at = place % (len(content) + 1)
        match kind:
            case "write":
                content = content[:at] + piece + content[at + len(piece) :]
            case "insert":
                content = content[:at] + piece + content[at:]
            case "cut":
                content = content[:at]
            case "repeat":
                content = content[:at] + content[max(0, at - len(piece) - 1) : at] * 3 + content[at:]
    return content


CHANGES = ("write", "write", "write", "insert", "cut", "repeat")
EDGES = (bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80", b"[" * 2000, b"1e999", b"\n")


def _mutations(name: str, seconds: float, seed: int) -> None:
    chance, end, count = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        changes = [
            (chance.choice(CHANGES), chance.randrange(1 << 20), chance.choice([chance.randbytes(3), *EDGES]))
            for _ in range(chance.randint(1, 5))
        ]
        _try(name, mutated(chance.choice(known(name)), changes))
        count += 1
    print(f"{name}: {count} inputs, none broke it.")


def _try(name: str, content: bytes) -> None:
    try:
        TARGETS[name].read(content)
    except BaseException:
        path = CORPUS / name / hashlib.sha256(content).hexdigest()[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        print(f"{name} broke: {path}")
        raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    given = parser.parse_args()
    if given.target is None:
        print(*TARGETS, sep="\n")
        return
    try:
        import atheris
    except ImportError:
        _mutations(given.target, given.seconds, given.seed)
        return
    with tempfile.TemporaryDirectory() as seeds:
        for number, content in enumerate(known(given.target)):
            (Path(seeds) / str(number)).write_bytes(content)
            _try(given.target, content)  # imports what it needs
        atheris.instrument_all()
        atheris.Setup([sys.argv[0], seeds, f"-max_total_time={given.seconds:.0f}"], partial(_try, given.target))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
