"""Why sessions close, for a client as the code with which its WebSocket closes:

1000  the client has left                 1001  the server shuts down
1007  messages that make no sense         1009  a message beyond 1 MiB
1008  too many messages, too many conversations for so little sound, or a token that came too late or was wrong
1011  the server's own fault              1013  no place is left (where that can no longer be an HTTP status)
4400  no such voice, persona or number    4408  silent or waiting for too long, or talked as allowed

What is closed for passing a limit stands beside the limits, in `session`.
"""

import logging

from personaplex_cli.errors import AudioError, PersonaplexError, UsageError
from personaplex_cli.protocols.adapter import Closing
from personaplex_cli.protocols.wire import WireError

LEFT = Closing("left")
TOO_BIG = Closing("too big", 1009)
STUCK = Closing("stuck", 1008)
GOODBYE = Closing("shutdown", 1001, PersonaplexError("The server shuts down.", "Come back later."))


def closing_after(error: BaseException) -> Closing:
    """How a session closes after an error in one of its parts."""
    match error:
        case ConnectionError():
            return LEFT
        case TimeoutError():
            return STUCK
        case UsageError():
            return Closing("refused", 4400, error)
        case AudioError() | WireError():
            return Closing("nonsense", 1007, error)
        case PersonaplexError() if type(error) is PersonaplexError:
            return Closing("failed", 1011, error)
    logging.getLogger(__name__).debug("A session failed", exc_info=error)
    failure = PersonaplexError("The server failed.", "Try again.")
    failure.__cause__ = error
    return Closing("failed", 1011, failure)
