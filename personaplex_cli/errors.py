"""Everything that can go wrong and that a user can mend.

Each error says in one sentence what happened and in another what to do; `exit_code` is what the program ends with.

    PersonaplexError              1   something unexpected
    ├── UsageError                2   an option, a name or a settings file is wrong
    ├── ModelError                3   the model is missing, gated or damaged
    ├── AudioError                4   a recording or a sound device
    ├── OutputError               4   standard output
    ├── DeviceError               5   the GPU is missing, unfit or out of memory
    └── NetworkError              6   the network or a server

This module knows nothing of terminals: `cli/main.py` turns errors into text and exit codes.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

CLOSE = 0.7  # of two names, as difflib measures it: a letter that is wrong, missing or too much; chef is no techer


class PersonaplexError(Exception):
    """What happened (`str(error)`) and what to do about it (`hint`, may be empty)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class UsageError(PersonaplexError):
    exit_code = 2


class ModelError(PersonaplexError):
    exit_code = 3


class AudioError(PersonaplexError):
    exit_code = 4


class OutputError(PersonaplexError):
    exit_code = 4


class DeviceError(PersonaplexError):
    exit_code = 5


class NetworkError(PersonaplexError):
    exit_code = 6


def unknown_name(kind: str, name: str, known: Iterable[str], where: str) -> UsageError:
    """The error for an unknown name: it suggests the nearest ones, else says where to look (`where`)."""
    names = {each.lower(): each for each in known}
    near = [names[each] for each in get_close_matches(name.lower(), names, n=3, cutoff=CLOSE)]
    hint = f"Did you mean {either(near)}? {where}" if near else where
    return UsageError(f"There is no {kind} named {name!r}.", hint)


def either(choices: Iterable[str]) -> str:
    """`auto, light or dark`"""
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last
