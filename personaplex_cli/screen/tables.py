"""Lists and findings: a table on a terminal, tab-separated lines on a pipe."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from personaplex_cli.screen.theme import theme_for


def show_table(console: Console, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not console.is_terminal:
        console.file.writelines("\t".join(row) + "\n" for row in rows)  # not through rich, which would wrap it
        return
    columns = [Column(title, overflow="fold") for title in titles]
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))  # no markup in a name such as "ALC257 [hw:0,0]"
    console.print(table)


def show_findings(console: Console, rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Each row is the kind (ok, warning, wrong), what was looked at, what was found, and what to do (may be empty)."""
    if not console.is_terminal:
        console.file.writelines("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)
        return
    theme = theme_for(console)
    styles = {"ok": theme.good, "wrong": theme.warning}
    columns = [Column(overflow="fold", no_wrap=True), Column(overflow="fold", no_wrap=True), Column(overflow="fold")]
    table = Table(*columns, box=None, pad_edge=False, show_header=False)
    for kind, name, found, advice in rows:
        text = Text(theme.readable(found))
        if advice:
            text.append(f"\n{theme.readable(advice)}", theme.strong)
        table.add_row(Text(kind, styles.get(kind, theme.strong)), Text(theme.readable(name)), text)
    console.print(table)
