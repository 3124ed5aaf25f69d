"""Who the keys 1 to 9 of a conversation switch to."""

import time
from collections.abc import Callable, Mapping

from personaplex_cli.audio.queue import NOTHING
from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Character, Sampling
from personaplex_cli.conversation import Engine, converse
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Favourites, Listener, Note
from personaplex_cli.library.catalog import personas
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions

KEYS = "123456789"
READ_AHEAD_SECONDS = 2.0  # for prompts that nobody may ask for; what is not read by then is read when it is asked for


def find_favourites(
    named: str | None,
    sampling: Sampling,
    listen: Listener,
    check: Callable[[Character], object] = lambda character: None,
) -> dict[str, Character]:
    """Who each key switches to: `named` has personas, or PERSONA:VOICE, with commas; None: all personas, as listed.

    `check` raises UsageError for a character that the engine will refuse. Of those who cannot speak, and of names too
    many for the keys, `listen` gets a note each; the keys of the others stay as they were counted.
    """
    if named is None:
        wanted = [each.name for each in personas(lambda error: None)][: len(KEYS)]
    else:
        wanted = [each.strip() for each in named.split(",")]
    if len(wanted) > len(KEYS):
        listen(Note(f"There are keys for {len(KEYS)} favourites: {', '.join(wanted[len(KEYS) :])} have none."))
    found, refused = dict[str, Character](), dict[str, PersonaplexError]()
    for key, name in zip(KEYS, wanted, strict=False):
        persona, _, voice = (part.strip() for part in name.partition(":"))
        try:
            character = find_character(CharacterOptions(voice or None, persona), sampling)
            check(character)
        except PersonaplexError as error:
            refused[key] = error
        else:
            found[key] = character
    _report(refused, listen)
    listen(_event(found))
    return found


def read_ahead(
    engine: Engine, favourites: dict[str, Character], listen: Listener, seconds: float = READ_AHEAD_SECONDS
) -> None:
    """Let a model here read the prompts, which it keeps: then a switch takes no time. Who cannot speak is left out.

    A conversation with nobody is its prompt. No new one begins after so many seconds.
    """
    until = time.monotonic() + seconds
    refused: dict[str, PersonaplexError] = {}
    for key, character in favourites.items():
        if time.monotonic() > until:
            break
        try:
            list(converse(engine, Recording(NOTHING), character))
        except PersonaplexError as error:
            refused[key] = error
    _report(refused, listen)
    for key in refused:
        del favourites[key]
    if refused:
        listen(_event(favourites))


def _event(favourites: Mapping[str, Character]) -> Favourites:
    return Favourites({key: f"{each.persona}, {each.voice}" for key, each in favourites.items()})


def _report(refused: Mapping[str, PersonaplexError], listen: Listener) -> None:
    """One note for all keys that switch to nobody, with each remedy once."""
    if refused:
        found = [f"Nobody is on key {key}. {error}" for key, error in refused.items()]
        remedies = dict.fromkeys(error.hint for error in refused.values() if error.hint)
        listen(Note(" ".join([*found, *remedies])))
