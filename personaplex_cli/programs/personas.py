"""The program behind `personaplex personas`: personas of the user's own, written, copied and checked."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import normalize

from personaplex_cli.character import Character
from personaplex_cli.errors import PersonaplexError, UsageError
from personaplex_cli.files import atomic_path
from personaplex_cli.findings import OK, WARNING, WRONG, Finding
from personaplex_cli.library.catalog import DEFAULT_VOICE, PERSONAS, find_voice, folded
from personaplex_cli.library.own_voices import NAME
from personaplex_cli.library.settings import config_folder
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions
from personaplex_cli.samples import FRAME_SECONDS
from personaplex_cli.transcript import clock

if TYPE_CHECKING:  # it brings torch along
    from personaplex_cli.loader.prompt_size import PromptScale, PromptSize

RESERVED = {"check", "edit", "new", "remove", "show", "try"}  # words of the command `personas`
MAX_TOKENS = 300  # of a prompt; the texts that the model was trained with are shorter
# The forms of prompt that the model was trained on: how each begins, from NVIDIA's prompting guide.
ASSISTANT = "You are a wise and friendly teacher. Answer questions or provide advice in a clear and engaging way."
SERVICE = "You work for NAME which is a KIND and your name is NAME. Information:"
CHAT = "You enjoy having a good conversation."
FORMS = re.compile(
    rf"{re.escape(ASSISTANT)}|You work for .+ which is an? .+ and your name is .+\. Information: .|{re.escape(CHAT)}"
)
TEMPLATE = f"""\
# Keep to one of the three forms that the model was trained on, and put facts at the end:
#   {ASSISTANT}
#   {SERVICE} ...
#   {CHAT} Have a casual conversation about ... You are ...
# Every word takes some of the model's four minutes of memory. The voices: personaplex voices
description = {{description}}
voice = {{voice}}
prompt = \"""
{CHAT} Have a casual conversation about ... You are ...
\"""
"""


def folder() -> Path:
    """Where the user's personas lie."""
    return config_folder() / "personas"


def own() -> list[Path]:
    """The files of the user's own personas, whatever is in them."""
    return sorted(path for path in PERSONAS.files().values() if path.parent == folder())


def new_path(name: str) -> Path:
    """Where a new persona is written. Raises UsageError for what cannot be its name, or is that of an own one."""
    name = normalize("NFC", name)
    if not NAME.fullmatch(name):
        what = f"{name!r} cannot be the name of a persona."
        raise UsageError(what, "Use up to 40 letters, digits, - or _.")
    if name.lower() in RESERVED:
        raise UsageError(f"{name} is a subcommand, so it cannot be a name.", "Choose another name.")
    taken = PERSONAS.files().get(folded(name))
    if taken and taken.parent == folder():
        hint = f"Change it: `personaplex personas edit {taken.stem}`."
        raise UsageError(f"There is a persona named {taken.stem} already.", hint)
    return folder() / f"{name}.toml"


def voice_for(name_or_path: str | None) -> str:
    """A voice as a persona's file names it: a path from the root. Raises UsageError for one that is not there."""
    voice = find_voice(name_or_path or DEFAULT_VOICE)
    is_file = voice.path is not None and voice.path.name == voice.name
    return str(voice.path.resolve()) if voice.path and is_file else voice.name


def template(voice: str, description: str) -> str:
    """What a persona's file is written from, in an editor."""
    return TEMPLATE.format(voice=_quoted(voice), description=_quoted(description))


def described(prompt: str, voice: str, description: str = "") -> str:
    """The contents of a persona's file."""
    text = "\n".join(_quoted(line)[1:-1] for line in prompt.strip().split("\n"))
    return f'description = {_quoted(description)}\nvoice = {_quoted(voice)}\nprompt = """\n{text}"""\n'


def write(path: Path, contents: str) -> None:
    """Write a persona's file, whole or not at all. Raises UsageError if it cannot be written."""
    try:
        with atomic_path(path) as partial:
            partial.write_text(contents, encoding="utf-8", newline="\n")
    except UnicodeEncodeError as error:
        raise UsageError("The persona has characters that cannot be written as UTF-8.", "Remove them.") from error
    except OSError as error:
        raise _unwritable(path, error) from error


def own_copy(name: str) -> tuple[Path, bool]:
    """The user's own file of a persona, and whether it was copied just now, from the one that ships."""
    path = PERSONAS.path(name)
    if path.parent == folder():
        return path, False
    copy = folder() / path.name
    try:
        with atomic_path(copy) as partial:
            shutil.copyfile(path, partial)
    except OSError as error:
        raise _unwritable(copy, error) from error
    return copy, True


def remove(path: Path) -> None:
    """Delete the file of an own persona. Raises UsageError if that is not possible."""
    try:
        path.unlink()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be removed ({error.strerror}).", "Change the owner or mode of its folder."
        ) from error


def own_path(name: str) -> Path:
    """The file of a persona that can be removed. Raises UsageError for one that ships."""
    path = PERSONAS.path(name)
    if path.parent != folder():
        raise UsageError(f"{path.stem} comes with the program and cannot be removed.", f"Its file is {path}.")
    return path


def check(names: Iterable[str], scale: "PromptScale") -> list[Finding]:
    """What there is to say of these personas: how much of the model's memory each takes, and what is wrong with it.

    Raises UsageError for one that does not exist.
    """
    names = [PERSONAS.path(name).stem for name in names]
    return [finding for name in names for finding in _check(name, scale)]


def exit_code(findings: Iterable[Finding]) -> int:
    """That of the first persona with which no conversation can be held, else 0."""
    return next((each.exit_code for each in findings if each.kind == WRONG), 0)


def _check(name: str, scale: "PromptScale") -> Iterator[Finding]:
    try:
        character = find_character(CharacterOptions(persona=name))
        size = scale.size(character)
    except PersonaplexError as error:
        yield Finding(WRONG, name, str(error), error.hint, exit_code=error.exit_code)
        return
    name = character.persona
    if size.frames >= size.context:
        found = f"The prompt takes {size.frames} frames, and the model remembers {size.context}."
        advice = "Shorten its text, or take a shorter sample as its voice."
        yield Finding(WRONG, name, found, advice, vars(size), UsageError.exit_code)
        return
    yield Finding(OK, name, _words(size), figures=vars(size))
    yield from _warnings(character, size)


def _words(size: "PromptSize") -> str:
    left = (size.context - size.frames) * FRAME_SECONDS
    return (
        f"{clock(left)} left to talk: the prompt takes {size.frames} of {size.context} frames "
        f"({size.voice_frames} of them the voice, {size.tokens} the text)."
    )


def _warnings(character: Character, size: "PromptSize") -> Iterator[Finding]:
    prompt = " ".join(character.prompt.removeprefix("<system>").removesuffix("<system>").split())
    if not prompt:
        yield Finding(WARNING, character.persona, "It has no prompt.", "Say who it is, in one of the three forms.")
    elif not FORMS.match(prompt):
        found = "The prompt has none of the three forms that the model was trained on: it may ignore it."
        yield Finding(WARNING, character.persona, found, f"Begin with {ASSISTANT!r}, {SERVICE!r} or {CHAT!r}")
    if character.blanks:
        found = f"The prompt still has what a template leaves open: {character.blanks}"
        yield Finding(WARNING, character.persona, found, "Write what belongs there.")
    if size.tokens > MAX_TOKENS:
        found = f"The prompt has {size.tokens} tokens, more than {MAX_TOKENS}."
        yield Finding(WARNING, character.persona, found, "Shorten it: long ones are followed badly, and cost memory.")


def _quoted(text: str) -> str:
    """As a basic string of TOML, which is one of JSON but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _unwritable(path: Path, error: OSError) -> UsageError:
    what = f"{path} cannot be written ({error.strerror})."
    return UsageError(what, "Make room there, or change the owner or mode of that folder.")
