"""Lists show text as it is."""

import io

from rich.console import Console

from personaplex_cli.screen.tables import show_table


def test_a_name_is_no_markup() -> None:
    console = Console(force_terminal=True, color_system=None, width=60, file=io.StringIO())
    show_table(console, ["index", "name"], [["0", "ALC257 [hw:0,0]"], ["1", "odd [/b] name"]])
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "ALC257 [hw:0,0]" in shown and "odd [/b] name" in shown
