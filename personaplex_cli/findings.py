"""What a check of this machine found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OK, WARNING, WRONG = "ok", "warning", "wrong"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked. `kind` is ok, warning (a talk is possible) or wrong; `found` and `advice` are texts.

    `figures` is what was found, for programs; `exit_code` is that of what is wrong, as errors have it.
    """

    kind: str
    name: str
    found: str
    advice: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0


def warn_if(bad: bool, name: str, found: str, advice: str, figures: Mapping[str, Any]) -> Finding:
    """A warning with the advice if what was found is `bad`, else all is well and the advice is left out."""
    return Finding(WARNING if bad else OK, name, found, advice if bad else "", figures)
