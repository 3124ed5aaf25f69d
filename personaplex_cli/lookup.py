"""From names and options to who speaks: personas, voices and samples are found and read before any model is loaded."""

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from personaplex_cli.audio.recording import read_recording
from personaplex_cli.audio.voice_sample import read_voice_sample
from personaplex_cli.character import Character, OwnVoice, Sampling, Sound
from personaplex_cli.errors import UsageError
from personaplex_cli.files import read_small
from personaplex_cli.library.catalog import (
    Persona,
    SpoiledEntry,
    Voice,
    find_named_voice,
    find_persona,
    find_voice,
    personas,
)
from personaplex_cli.options import CharacterOptions

CUSTOM = "a custom persona"  # the name of one whose prompt the user has written


def find_character(options: CharacterOptions = CharacterOptions(), sampling: Sampling = Sampling()) -> Character:
    """Who speaks, by the names that the user gave. A prompt `@FILE` is read; without a voice it is the persona's own.

    Raises UsageError for unknown names, AudioError for a voice sample.
    """
    persona = find_persona(options.persona)
    text = None if options.prompt is None else read_prompt(options.prompt)
    return _character(persona, text, find_voice(options.voice or persona.voice), sampling)


def find_named_character(options: CharacterOptions, usual_voice: str | None, sampling: Sampling) -> Character:
    """The same for a client, which may not look around on this machine: names only, no paths, and text is text.

    Without a voice `usual_voice` is taken, a name or a path, and without that the persona's. Raises SpoiledEntry where
    the fault is the owner's.
    """
    persona = find_persona(options.persona)
    if options.voice:
        voice = find_named_voice(options.voice)
    else:
        try:
            voice = find_voice(usual_voice or persona.voice)
        except UsageError as error:  # it may name a path, which the client did not ask for
            raise SpoiledEntry("voice of", persona.name, error) from error
    return _character(persona, options.prompt, voice, sampling)


def find_recorded_character(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> Character:
    """Who spoke in a recording, by its settings, but for `changes`, by the names of options. A recording may be a
    stranger's: it can name a voice, but no path. Another persona speaks with its own voice, as ever. Raises UsageError,
    and AudioError for a voice sample.
    """
    if "persona" in changes:
        persona = find_persona(changes["persona"])
    else:
        name, prompt = (str(settings.get(each, "")) for each in ("persona", "prompt"))
        persona = Persona(name, prompt, str(settings.get("voice", "")), "", Path())
    text = read_prompt(changes["prompt"]) if "prompt" in changes else None
    try:
        voice = find_voice(changes["voice"]) if "voice" in changes else find_named_voice(persona.voice)
    except UsageError as error:
        raise UsageError(str(error), error.hint if "voice" in changes else "Name the voice: --voice.") from error
    return _character(persona, text, voice, _recorded_sampling(settings.get("sampling"), changes))


def _recorded_sampling(recorded: object, changes: Mapping[str, Any]) -> Sampling:
    values: dict[str, Any] = {}
    for each in fields(Sampling):
        value = recorded.get(each.name) if isinstance(recorded, dict) else None
        whole = each.name in ("seed", "audio_top_k", "text_top_k")
        if isinstance(value, int if whole else int | float):
            values[each.name] = value
        if each.name in changes:
            values[each.name] = changes[each.name]
    return Sampling(**values)


def _character(persona: Persona, text: str | None, voice: Voice, sampling: Sampling) -> Character:
    if text is not None and text.strip() != persona.prompt.strip():
        same = (each.name for each in personas(lambda error: None) if each.prompt.strip() == text.strip())
        persona = replace(persona, name=next(same, CUSTOM), prompt=text)  # clients may send a known one's prompt
    return Character(persona.name, persona.prompt, voice.name, _sound(voice), sampling)


def _sound(voice: Voice) -> Sound:
    if voice.path is None:
        return voice.file
    if voice.added:
        return OwnVoice(read_recording(voice.path), voice.path.parent)  # which is as the model wants it
    return voice.path if voice.path.suffix.lower() == ".pt" else read_voice_sample(voice.path)


def read_prompt(text: str) -> str:
    """A prompt as the user gave it; of `@FILE` what is in the file. Raises UsageError if it cannot be read."""
    if not text.startswith("@"):
        return text
    # A pipe is fine here: --prompt @<(command).
    try:
        return read_small(Path(os.path.expanduser(text[1:])), pipe=True).strip()
    except UsageError as error:
        raise UsageError(f"The prompt file {error}", error.hint) from error
