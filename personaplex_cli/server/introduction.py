"""For clients that cannot show the token in their request, such as telephones: their first messages do.

Until then they hold no place, and the model does not know of them.
"""

import asyncio

from aiohttp import WSMsgType, web

from personaplex_cli.errors import PersonaplexError
from personaplex_cli.options import AccessOptions
from personaplex_cli.protocols.adapter import Adapter, Closing, Credentials, Out
from personaplex_cli.server.access import is_token
from personaplex_cli.server.closings import LEFT, closing_after
from personaplex_cli.server.connections import Connection

INTRODUCTION_SECONDS = 8.0  # less than a connection may ask for
MAX_FIRST_MESSAGES = 10  # pings included

STRANGER = Closing("token", 1008, PersonaplexError("The token is missing or wrong."))
SILENT = Closing("silent", 1008, PersonaplexError("Nobody has said who calls."))


async def introduction(
    socket: web.WebSocketResponse, adapter: Adapter, connection: Connection, access: AccessOptions
) -> list[Out] | Closing:
    """What the client wants once it has shown the token, or why it is not let in."""
    try:
        async with asyncio.timeout(INTRODUCTION_SECONDS):
            for _ in range(MAX_FIRST_MESSAGES):
                message = await connection.receive(socket)
                if message.type in (WSMsgType.PING, WSMsgType.PONG):
                    continue
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    return LEFT
                outs = [out async for out in connection.share.fairly(adapter.decode(message.data))]
                for out in outs:
                    if isinstance(out, Closing):
                        return LEFT
                    if isinstance(out, Credentials):
                        return outs if is_token(access, out.token) else STRANGER
    except TimeoutError:
        pass
    except PersonaplexError as error:
        return closing_after(error)
    return SILENT
