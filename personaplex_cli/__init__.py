"""Full-duplex voice conversation with NVIDIA's PersonaPlex-7B: the names that other programs may use.

    engine = load(ModelOptions("demo"))
    audio = Recording.read("question.wav")
    for step in converse(engine, audio, find_character()):
        print(step.text, end="")

Nothing is imported before it is used: torch comes with `load`. Of Python's own modules nothing is, either: a program
that begins here cannot take care of Ctrl-C before this file is through.
"""

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is, to type checkers as well
__version__ = "0.1.0"

if TYPE_CHECKING:
    from personaplex_cli.audio.recording import Recording as Recording
    from personaplex_cli.audio.soundcard import SoundCard as SoundCard
    from personaplex_cli.character import Character as Character
    from personaplex_cli.character import Sampling as Sampling
    from personaplex_cli.client.engine import connect as connect
    from personaplex_cli.conversation import Conversation as Conversation
    from personaplex_cli.conversation import converse as converse
    from personaplex_cli.conversation import converse_all as converse_all
    from personaplex_cli.errors import PersonaplexError as PersonaplexError
    from personaplex_cli.loader.load import load as load
    from personaplex_cli.lookup import find_character as find_character
    from personaplex_cli.options import CharacterOptions as CharacterOptions
    from personaplex_cli.options import ModelOptions as ModelOptions
    from personaplex_cli.options import RemoteOptions as RemoteOptions
    from personaplex_cli.options import SoundCardOptions as SoundCardOptions

_PLACES = {
    "Character": "character",
    "CharacterOptions": "options",
    "Conversation": "conversation",
    "ModelOptions": "options",
    "PersonaplexError": "errors",
    "Recording": "audio.recording",
    "RemoteOptions": "options",
    "Sampling": "character",
    "SoundCard": "audio.soundcard",
    "SoundCardOptions": "options",
    "connect": "client.engine",
    "converse": "conversation",
    "converse_all": "conversation",
    "find_character": "lookup",
    "load": "loader.load",
}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    return value
