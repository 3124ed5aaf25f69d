"""Who named the server, and whether what is secret was meant for it.

A token must not follow the address in a file of a stranger: it goes only to a server that is named
by the same source, and so does the wish to trust any certificate.
"""

import os
from dataclasses import replace
from urllib.parse import urlsplit

import typer

from personaplex_cli.client.address import server_url
from personaplex_cli.library.settings import Dotenv, config_path
from personaplex_cli.options import RemoteOptions

FLAG, ENVIRONMENT = "the command line", "the environment"
BOUND = ("token", "insecure")


def bound_to_source(context: typer.Context, remote: RemoteOptions) -> tuple[RemoteOptions, list[str]]:
    """The options without a token, or a trust, that was meant for another server; and what the user should know.

    Raises UsageError for what is no address.
    """
    if not remote.server:
        return remote, []
    name, place = urlsplit(server_url(remote.server)).netloc, source(context, "server")
    notes = [] if place == FLAG else [f"The server is {name}, as {place} says."]
    for option in BOUND:
        origin = source(context, option)
        if getattr(remote, option) and origin not in (FLAG, place):
            remote = replace(remote, token=None) if option == "token" else replace(remote, insecure=False)
            why = f"{place} names the server, but the setting is from {origin}"
            notes.append(
                f"The setting {option} is not used for {name}: {why}. Set both in one place, or give --{option}."
            )
    return remote, notes


def source(context: typer.Context, option: str) -> str:
    """Where the value of an option comes from: FLAG, ENVIRONMENT, or the path of a settings file."""
    kind = context.get_parameter_source(option)
    if kind is None or kind.name not in ("ENVIRONMENT", "DEFAULT_MAP"):
        return FLAG  # or the default, which is no word of a stranger
    if kind.name == "DEFAULT_MAP":
        return str(config_path())
    dotenv = context.find_root().obj or Dotenv()
    names = next(each.envvar for each in context.command.params if each.name == option)
    used = next(name for name in names or () if os.environ.get(name))
    return str(dotenv.path) if used in dotenv.taken else ENVIRONMENT
