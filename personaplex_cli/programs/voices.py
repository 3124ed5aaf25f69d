"""The program behind `personaplex voices`: voices of the user's own, out of recordings."""

import hashlib
import io
import shlex
from datetime import UTC, datetime
from pathlib import Path

from personaplex_cli.audio.player import play as play_sound
from personaplex_cli.audio.recording import STDIN, read_recording, shown, write_wav
from personaplex_cli.audio.voice_sample import Chosen
from personaplex_cli.errors import UsageError
from personaplex_cli.library import own_voices
from personaplex_cli.library.catalog import VOICES, find_voice, folded
from personaplex_cli.library.own_voices import Provenance
from personaplex_cli.options import SpeakerOptions
from personaplex_cli.samples import SOUND_SUFFIXES


def check_new(name: str, sample: str) -> None:
    """Raise UsageError for what cannot be the name of a new voice, such as that of the recording `sample`."""
    if Path(name).suffix.lower() in SOUND_SUFFIXES and not Path(sample).exists():
        raise UsageError("The name comes first.", f"`personaplex voices add {shlex.join([sample, name])}`")
    own_voices.check_name(name)
    taken = VOICES.files().get(folded(name))
    if taken is None:
        return
    if own_voices.is_own(taken):
        hint = f"Choose another name, or remove it: `personaplex voices remove {taken.name}`."
        raise UsageError(f"There is a voice named {taken.name} already.", hint)
    if taken.parent == own_voices.folder():
        raise UsageError(f"There is a voice named {taken.stem} already ({taken}).", "Choose another name.")
    raise UsageError(f"{taken.stem} is one of the model's own voices.", "Choose another name.")


def add(name: str, chosen: Chosen, source: str, consent: str) -> Path:
    """Keep a part of the recording `source` as a voice, and how it came about; returns its folder.

    `consent` says how it is known that the speaker agrees. Raises UsageError.
    """
    wav = io.BytesIO()
    write_wav(wav, chosen.sound)
    about = Provenance(
        source=shown(source) if source == STDIN else str(Path(source).resolve()),
        added=datetime.now(UTC).isoformat(timespec="seconds"),
        kept=part(chosen),
        consent=consent,
        warnings=" ".join(chosen.warnings),
        source_digest=_digest(source),
        sample_digest=hashlib.sha256(wav.getvalue()).hexdigest(),
    )
    return own_voices.keep(name, wav.getvalue(), about)


def part(chosen: Chosen) -> str:
    """Which part of the recording it is, in words."""
    seconds = chosen.end - chosen.start
    left_out = seconds - chosen.seconds
    shortened = f", less {left_out:.1f} s of pauses" if left_out > 0.1 else ""
    return f"{chosen.start:.1f} to {chosen.end:.1f} of {chosen.whole:.1f} s{shortened}"


def added_folder(name: str) -> Path:
    """The folder of a voice that was added, damaged or not. Raises UsageError for any other voice."""
    path = VOICES.path(name)
    if own_voices.is_own(path):
        return path
    raise UsageError(f"{path.stem} was not added by `personaplex voices add`.", f"It comes from {path}.")


def play(name: str, options: SpeakerOptions) -> None:
    """Play a voice's sample. Raises UsageError for a voice that has none here, AudioError for a device that fails."""
    voice = find_voice(name)
    if voice.path is None or voice.path.suffix.lower() == ".pt":
        raise UsageError(
            f"There is no sample of {voice.name} here: only the model can speak with that voice.",
            f"Hear it in a conversation: `personaplex chat --voice {voice.name}`.",
        )
    play_sound(read_recording(voice.path), options)


def _digest(source: str) -> str:
    """Of the whole recording; empty for a pipe, which gives what it has once."""
    if not Path(source).is_file():
        return ""
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
