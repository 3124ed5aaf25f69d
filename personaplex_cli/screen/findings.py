"""What a doctor found: a line for each thing on a terminal, tab-separated lines on a pipe."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from personaplex_cli.screen.theme import theme_for


def show_findings(console: Console, rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Each row is the kind (ok, warning, wrong), what was looked at, what was found, and what to do (may be empty)."""
    if not console.is_terminal:
        for row in rows:
            # Not through rich: a pipe wants the text as it is, never wrapped.
            console.file.write("\t".join(" ".join(cell.split()) for cell in row) + "\n")
        return
    theme = theme_for(console)
    styles = {"ok": theme.good, "wrong": theme.warning}
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ("kind", "name", "found"):
        table.add_column(column, overflow="fold", no_wrap=column != "found")
    for kind, name, found, advice in rows:
        text = Text(theme.readable(found))
        if advice:
            text.append(f"\n{theme.readable(advice)}", theme.strong)
        table.add_row(Text(kind, styles.get(kind, theme.strong)), Text(theme.readable(name)), text)
    console.print(table)
