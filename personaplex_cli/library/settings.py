"""Where settings come from when no flag gives them: the environment, a `.env` file, `config.toml`.

A flag wins over the environment, that over `.env`, that over `config.toml`, and that over the default. Typer keeps
the order; this module fills its sources. It knows no options but those with an established variable of another name.
"""

import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values, find_dotenv
from platformdirs import user_config_path

from personaplex_cli.errors import UsageError, unknown_name

ESTABLISHED = {
    "model": "PERSONAPLEX_MODEL_PATH",
    "voice": "DEFAULT_VOICE",
    "persona": "DEFAULT_PERSONA",
    "cpu_offload": "CPU_OFFLOAD",
    "server_url": "MOSHI_WS_URL",
}


def variable(name: str) -> list[str]:
    """The environment variables of the option `name`, strongest first, as Typer's `envvar` takes them."""
    ours = f"PERSONAPLEX_{name.upper()}"
    return [ours, ESTABLISHED[name]] if name in ESTABLISHED else [ours]


def load_dotenv_file() -> None:
    """Adds the nearest `.env`, from the working directory upwards, to the environment, which wins over it.

    Call it before huggingface_hub is imported, which reads HF_HOME and HF_TOKEN only then. A variable that is set but
    empty counts as unset on both sides: an empty HF_HOME would send the cache into the working directory.
    Raises UsageError for a file that cannot be read.
    """
    path = ".env"
    try:
        path = find_dotenv(usecwd=True)
        found = dotenv_values(path, encoding="utf-8-sig") if path else {}
        families = {name: variable(option) for option in ESTABLISHED for name in variable(option)}
        # A family counts as one: DEFAULT_VOICE in the environment wins over PERSONAPLEX_VOICE in the file.
        taken = {name for name in found if any(os.environ.get(each) for each in families.get(name, [name]))}
        os.environ.update({name: value for name, value in found.items() if value and name not in taken})
        # MOSHI_HOST and MOSHI_PORT are another way to write MOSHI_WS_URL, which wins over them.
        host, port = os.environ.get("MOSHI_HOST"), os.environ.get("MOSHI_PORT")
        if host and not os.environ.get("MOSHI_WS_URL"):
            os.environ["MOSHI_WS_URL"] = f"{host}:{port}" if port else host
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not plain text: {error}.", "Save it as UTF-8.") from error


def config_folder() -> Path:
    """The user's own folder, with `config.toml`, `voices` and `personas`. It may not exist."""
    return user_config_path("personaplex", appauthor=False)


def config_path() -> Path:
    """The user's `config.toml`, or the file that PERSONAPLEX_CONFIG names. It may not exist."""
    named = os.environ.get("PERSONAPLEX_CONFIG")
    return Path(os.path.expanduser(named)) if named else config_folder() / "config.toml"


def read_toml(path: Path, missing_ok: bool = False) -> dict[str, Any]:
    """The contents of a TOML file; empty for a missing one if `missing_ok`.

    Raises UsageError, with the line, for a file that cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError):
            return {}
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.", 'Write lines such as: name = "text"') from error


def default_map(path: Path, options: Mapping[str, Collection[str]]) -> dict[str, dict[str, object]]:
    """What `config.toml` sets, for each command, in the form of Typer's `ctx.default_map`.

    `options` gives the option names of each command, with underscores. A setting at the top of the file counts for
    every command with that option, one in a table such as [run] for that command alone, and wins there. Numbers
    become text, as in the environment: some versions of Typer silently cut `seed = 1.5` to 1.

    Raises UsageError for an unknown command or setting, a value of a wrong kind, a file that cannot be read.
    """
    contents = read_toml(path, missing_ok=True)
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
        if not isinstance(value, str | int | float):  # a bool is an int
            raise UsageError(f"{place}: {key} is not a single value.", "Give a text, a number, true or false.")
        if name in settings:
            raise UsageError(f"{place}: {key} is set twice, with a dash and with an underscore.", "Keep one of them.")
        settings[name] = value if isinstance(value, bool) else str(value)
    return settings
