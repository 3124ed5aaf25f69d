"""The lines of all steps as Markdown: what became of each, then its facts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

ABOUT_THE_LINE = ("step", "took", "failed", "skipped", "log")


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Tables for docs/performance.md: a fact that is a list of rows is a table, all others of a step are one."""
    steps = ({"step": each["step"], "seconds": each.get("took", ""), "outcome": outcome(each)} for each in lines)
    parts = ["## On a GPU", "", *_table(steps)]
    for line in lines:
        facts = {name: value for name, value in line.items() if name not in ABOUT_THE_LINE}
        if facts:
            parts += ["", f"### {line['step']}", *_facts(facts)]
    return "\n".join(parts) + "\n"


def outcome(line: Mapping[str, Any]) -> str:
    """What became of a step, in words: done, or beginning with "failed", "in part" or "skipped"."""
    if ended := [f"{kind}: {line[kind]}" for kind in ("failed", "skipped") if kind in line]:
        return ended[0]
    broken = [name for name in line if name.endswith(" failed")]
    return f"in part: {', '.join(broken)}" if broken else "done"


def _facts(facts: Mapping[str, Any]) -> Iterator[str]:
    flat = dict(_flat(facts))
    single = [{"fact": name, "value": value} for name, value in flat.items() if not _is_rows(value)]
    if single:
        yield from ("", *_table(single))
    for name, value in flat.items():
        if _is_rows(value):
            yield from ("", f"{name}:", "", *_table(value))


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Facts within facts by names such as "milliseconds.whole.p50"."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _table(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    yield _row(columns)
    yield _row("---" for _ in columns)
    for row in rows:
        yield _row(row.get(name, "") for name in columns)


def _row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return " ".join(str(value).replace("|", "\\|").split())
