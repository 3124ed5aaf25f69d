"""Where settings come from when no flag gives them: the environment, a `.env` file, `config.toml`.

A flag wins over the environment, that over `.env`, that over `config.toml`, and that over the default. Typer keeps
the order; this module fills its sources. It knows no options but those with an established variable of another name.

A `.env` comes with a folder, which may be a stranger's: only that of the working folder is read, and only variables
that are listed here. None of them says where a secret goes, but for the server; who names that is shown (`cli/trust`).
"""

import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from dotenv.parser import Original, parse_stream
from platformdirs import user_cache_path, user_config_path

from personaplex_cli.errors import UsageError, unknown_name
from personaplex_cli.files import read_small

ESTABLISHED = {
    "model": "PERSONAPLEX_MODEL_PATH",
    "voice": "DEFAULT_VOICE",
    "persona": "DEFAULT_PERSONA",
    "cpu_offload": "CPU_OFFLOAD",
    "server_url": "MOSHI_WS_URL",
}
MOSHI_ADDRESS = ("MOSHI_HOST", "MOSHI_PORT")
CONFIG_VARIABLE = "PERSONAPLEX_CONFIG"
# The token goes to Hugging Face wherever it comes from; what says where that is must come from the user's environment.
ALLOWED = {
    *ESTABLISHED.values(),
    *MOSHI_ADDRESS,
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE"),
}
# Variables that would change what this program does, if they were taken: to leave them out deserves a word.
MEANT_FOR_US = re.compile(
    r"PERSONAPLEX_.*|HF_.*|HUGGING_?FACE_.*|.*_PROXY|SSL.*|(REQUESTS|CURL)_CA_BUNDLE|LD_.*|DYLD_.*|PYTHON.*", re.I
)
MAX_INTEGER = 2**64  # of any setting; text of more than 4,300 digits could not even be made


def variable(name: str) -> list[str]:
    """The environment variables of the option `name`, strongest first, as Typer's `envvar` takes them."""
    ours = f"PERSONAPLEX_{name.upper()}"
    return [ours, ESTABLISHED[name]] if name in ESTABLISHED else [ours]


@dataclass(frozen=True)
class Dotenv:
    """What the `.env` of the working folder gave: the variables `taken` from it, and those that it may not set."""

    path: Path | None = None  # None: there is none
    taken: frozenset[str] = frozenset()
    refused: tuple[str, ...] = ()
    unclear: tuple[int, ...] = ()  # lines that set nothing


def working_folder() -> Path:
    """Raises UsageError if it was removed: without one the model's libraries end the process."""
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError("The folder that you are in does not exist any more.", "Go to another one: cd") from error


def check_home() -> None:
    """Raises UsageError where settings and caches have no place: no HOME, and a user whom the system does not know."""
    try:
        user_config_path()
        user_cache_path()
    except RuntimeError as error:
        raise UsageError("This user has no home folder.", "Set HOME to a folder, such as HOME=/tmp.") from error


def load_dotenv_file() -> Dotenv:
    """Adds the `.env` of the working folder to the environment, which wins over it. Values are taken literally.

    Call it before huggingface_hub is imported, which reads HF_HOME and HF_TOKEN only then. A variable that is set but
    empty counts as unset on both sides: an empty HF_HOME would send the cache into the working directory.
    Raises UsageError for a file that cannot be read.
    """
    _join_moshis_address()
    path = working_folder() / ".env"
    if not os.path.lexists(path):
        return Dotenv()
    # Not interpolated: ${SECRET} in the address of a server would send it there.
    bindings = list(parse_stream(StringIO(read_small(path))))
    found = {each.key: each.value for each in bindings if each.key is not None}
    unclear = tuple(_line(each.original) for each in bindings if each.error)
    families = {name: variable(option) for option in ESTABLISHED for name in variable(option)}
    families |= {name: [name, *variable("server_url")] for name in MOSHI_ADDRESS}
    # A family counts as one: DEFAULT_VOICE in the environment wins over PERSONAPLEX_VOICE in the file.
    free = {name for name in found if not any(os.environ.get(each) for each in families.get(name, [name]))}
    new = {name: value for name, value in found.items() if value and name in free and may_be_in_dotenv(name)}
    os.environ.update(new)
    taken = {*new, "MOSHI_WS_URL"} if _join_moshis_address() else {*new}
    refused = [name for name in found if MEANT_FOR_US.fullmatch(name) and not may_be_in_dotenv(name)]
    return Dotenv(path, frozenset(taken), tuple(refused), unclear)


def _line(original: Original) -> int:
    """The number of a line; empty ones before it count among it."""
    text = original.string
    return original.line + text[: len(text) - len(text.lstrip())].count("\n")


def may_be_in_dotenv(name: str) -> bool:
    """Whether a `.env` may set this variable."""
    return name in ALLOWED or (name.startswith("PERSONAPLEX_") and name != CONFIG_VARIABLE)


def _join_moshis_address() -> bool:
    """MOSHI_HOST and MOSHI_PORT are another way to write MOSHI_WS_URL, which wins over them. Whether they were used."""
    host, port = map(os.environ.get, MOSHI_ADDRESS)
    if not host or os.environ.get("MOSHI_WS_URL"):
        return False
    os.environ["MOSHI_WS_URL"] = f"{host}:{port}" if port else host
    return True


def config_folder() -> Path:
    """The user's own folder, with `config.toml`, `voices` and `personas`. It may not exist."""
    return user_config_path("personaplex", appauthor=False)


def config_path() -> Path:
    """The user's `config.toml`, or the file that PERSONAPLEX_CONFIG names. It may not exist."""
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(os.path.expanduser(named)) if named else config_folder() / "config.toml"


def read_config(path: Path) -> dict[str, Any]:
    """The contents of the `config.toml` at `path`; empty if there is none, but for one that PERSONAPLEX_CONFIG names.

    Raises UsageError.
    """
    if os.path.lexists(path):
        return read_toml(path)
    if os.environ.get(CONFIG_VARIABLE):
        raise UsageError(
            f"There is no file {path}, which {CONFIG_VARIABLE} names.", "Correct the variable or unset it."
        )
    return {}


def read_toml(path: Path) -> dict[str, Any]:
    """The contents of a TOML file. Raises UsageError, with the line, for one that cannot be read or is not TOML."""
    try:
        return tomllib.loads(read_small(path))
    except RecursionError as error:
        raise UsageError(f"{path} is not valid TOML: it is nested too deeply.", "Correct it.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.", 'Write lines such as: name = "text"') from error


def default_map(path: Path, options: Mapping[str, Collection[str]]) -> dict[str, dict[str, object]]:
    """What `config.toml` sets, for each command, in the form of Typer's `ctx.default_map`.

    `options` gives the option names of each command, with underscores. A setting at the top of the file counts for
    every command with that option, one in a table such as [run] for that command alone, and wins there. Numbers
    become text, as in the environment: some versions of Typer silently cut `seed = 1.5` to 1.

    Raises UsageError for an unknown command or setting, a value of a wrong kind, a file that cannot be read.
    """
    contents = read_config(path)
    tables = {name: value for name, value in contents.items() if name in options and isinstance(value, dict)}
    anywhere = {name: value for name, value in contents.items() if name not in tables}
    shared = _settings(str(path), anywhere, {name for names in options.values() for name in names}, options)
    merged = {}
    for command, names in options.items():
        own = _settings(f"{path} [{command}]", tables.get(command, {}), names)
        merged[command] = {name: value for name, value in shared.items() if name in names} | own
    return {command: settings for command, settings in merged.items() if settings}


def _settings(
    place: str, table: Mapping[str, object], names: Collection[str], commands: Collection[str] = ()
) -> dict[str, object]:
    settings: dict[str, object] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in names:
            if key in commands:
                raise UsageError(f"{place}: {key} is a command, not a setting.", f"Write its settings below [{key}].")
            kind, known = ("command", commands) if isinstance(value, dict) and commands else ("setting", names)
            raise unknown_name(kind, key, known, f"See {place}.")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise UsageError(f"{place}: {key} is too large a number.", "Correct it.")
        if not isinstance(value, str | int | float):  # a bool is an int
            raise UsageError(f"{place}: {key} is not a single value.", "Give a text, a number, true or false.")
        if isinstance(value, str) and "\0" in value:
            raise UsageError(f"{place}: {key} has a character that no setting can have (NUL).", "Correct it.")
        if name in settings:
            raise UsageError(f"{place}: {key} is set twice, with a dash and with an underscore.", "Keep one of them.")
        settings[name] = value if isinstance(value, bool) else str(value)
    return settings
