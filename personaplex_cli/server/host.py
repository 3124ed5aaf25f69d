"""What all sessions of a server share, and what a client may have of it."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace

from personaplex_cli.character import Character, Sampling
from personaplex_cli.conversation import Audio, Conversation
from personaplex_cli.errors import AudioError, PersonaplexError, UsageError
from personaplex_cli.events import Listener
from personaplex_cli.library.catalog import SpoiledEntry
from personaplex_cli.lookup import find_named_character
from personaplex_cli.options import CharacterOptions, ServeOptions
from personaplex_cli.protocols.wire import Request
from personaplex_cli.server.metrics import Metrics
from personaplex_cli.transcriber import Transcriber

_COMMAND = re.compile("`personaplex [a-z]+`")


@dataclass(frozen=True)
class Host:
    """What all sessions of a server share."""

    options: ServeOptions
    metrics: Metrics
    listen: Listener
    hold: Callable[[Conversation], None]  # on the model; it ends with the event `Ended`
    note_once: Callable[[str], None] = lambda text: None  # for the owner's eyes
    transcriber: Callable[[Audio, Listener], Transcriber | None] = lambda audio, listen: None
    guest: str = "A client"  # of one session: where it comes from

    def character(self, request: Request, any_voice: bool = False) -> Character:
        """What a client asks for. Raises UsageError for names that do not exist and numbers out of range.

        With `any_voice` the usual voice stands in for one that cannot be had. What is wrong with the owner's own files
        is shown to the owner; the client learns which name cannot be used.
        """
        if any_voice and request.voice:
            with suppress(UsageError):
                return self.character(request)
            return self.character(replace(request, voice=None))
        names = CharacterOptions(request.voice, request.persona or self.options.persona, request.prompt)
        asked = {field.name: getattr(request, field.name, None) for field in fields(Sampling)}
        sampling = Sampling(**{name: value for name, value in asked.items() if value is not None})
        try:
            return find_named_character(names, self.options.voice, sampling).seeded()
        except SpoiledEntry as error:
            raise self.private(f"The {error.kind} {error.name}", error) from None
        except AudioError as error:
            raise self.private(f"The voice {names.voice or 'of this persona'}", error) from None
        except UsageError as error:  # the client is on another machine, with other names or without our commands
            raise UsageError(str(error), _COMMAND.sub("`/api/info`", error.hint)) from None

    def private(self, what: str, error: PersonaplexError) -> UsageError:
        """Show the owner why something cannot be used, which may name files; the error for the client does not."""
        self.note_once(f"{what} cannot be used: {error}")
        return UsageError(f"{what} cannot be used here.", "Take another one.")
