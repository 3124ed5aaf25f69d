"""Lists and findings: a table on a terminal, tab-separated lines on a pipe."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from personaplex_cli.findings import OK, WRONG, Finding
from personaplex_cli.screen.theme import theme_for


def show_table(console: Console, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not console.is_terminal:
        _write_lines(console, rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # no markup in a name such as "ALC257 [hw:0,0]"
    console.print(table)


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    if not console.is_terminal:
        rows = [(each.kind, each.name, each.found, each.advice) for each in findings]
        _write_lines(console, [[" ".join(cell.split()) for cell in row] for row in rows])
        return
    theme = theme_for(console)
    styles = {OK: theme.good, WRONG: theme.warning}
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ("kind", "name", "found"):
        table.add_column(column, overflow="fold", no_wrap=column != "found")
    for each in findings:
        text = Text(theme.readable(each.found))
        if each.advice:
            text.append(f"\n{theme.readable(each.advice)}", theme.strong)
        table.add_row(Text(each.kind, styles.get(each.kind, theme.strong)), Text(theme.readable(each.name)), text)
    console.print(table)


def _write_lines(console: Console, rows: Sequence[Sequence[str]]) -> None:
    for row in rows:
        console.file.write("\t".join(row) + "\n")  # not through rich, which would wrap it
