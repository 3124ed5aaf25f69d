"""Lists, findings and a verdict: a table on a terminal, tab-separated lines on a pipe."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from personaplex_cli.findings import OK, WRONG, Finding
from personaplex_cli.screen.theme import Theme, theme_for


def show_table(console: Console, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    readable = theme_for(console, "none").readable  # names and descriptions are anybody's
    rows = [[readable(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        console.file.writelines("\t".join(row) + "\n" for row in rows)  # not through rich, which would wrap it
        return
    columns = [Column(title, overflow="fold") for title in titles]
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))  # no markup in a name such as "ALC257 [hw:0,0]"
    console.print(table)


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    theme, styles = _styles(console)
    if not console.is_terminal:
        for each in findings:
            cells = (each.kind, each.name, each.found, each.advice)
            console.file.write("\t".join(theme.readable(" ".join(cell.split())) for cell in cells) + "\n")
        return
    columns = [Column(overflow="fold", no_wrap=True), Column(overflow="fold", no_wrap=True), Column(overflow="fold")]
    table = Table(*columns, box=None, pad_edge=False, show_header=False)
    for each in findings:
        text = Text(theme.readable(each.found))
        if each.advice:
            text.append(f"\n{theme.readable(each.advice)}", theme.strong)
        table.add_row(Text(each.kind, styles.get(each.kind, theme.strong)), Text(theme.readable(each.name)), text)
    console.print(table)


def show_verdict(console: Console, kind: str, sentence: str) -> None:
    """The last word on some findings, in the colour of its kind."""
    theme, styles = _styles(console)
    console.print(
        Text(f"\n{theme.readable(sentence)}", styles.get(kind, theme.strong)), soft_wrap=not console.is_terminal
    )


def _styles(console: Console) -> tuple[Theme, dict[str, str]]:
    theme = theme_for(console)
    return theme, {OK: theme.good, WRONG: theme.warning}
