"""Lists: a table on a terminal, tab-separated lines on a pipe."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def show_table(console: Console, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not console.is_terminal:
        for row in rows:
            # Not through rich: a pipe wants the text as it is, never wrapped.
            console.file.write("\t".join(row) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))  # a name such as "ALC257 [hw:0,0]" is no markup
    console.print(table)
