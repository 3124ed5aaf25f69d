"""Streams that are full, closed, or have a reader that has seen enough: one sentence, and no work is lost."""

import os
import sys
from collections.abc import Callable, Iterator
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import TextIO

import pytest

from personaplex_cli.cli.main import program
from personaplex_cli.cli.output import Output, watched_streams

LISTS = [
    ["voices"],
    ["voices", "--json"],
    ["personas"],
    ["personas", "show", "teacher"],
    ["devices", "--json"],
    ["doctor"],
    ["doctor", "--json"],
    ["--version"],
    ["--help"],
    ["run", "--help"],
]
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full, of Linux")


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[TextIO | None], None]]:
    """Puts another stream in the place of standard output."""
    opened: list[TextIO] = []

    def put(stream: TextIO | None) -> None:
        monkeypatch.setattr(sys, "stdout", stream)
        opened.extend([stream] if stream else [])

    yield put
    for each in opened:
        each.close()


def pipe_without_reader() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def full() -> TextIO:
    return open("/dev/full", "w")


@pytest.mark.parametrize("command", LISTS)
class TestLists:
    @needs_full
    def test_a_full_output_is_said_in_one_sentence(
        self, command: list[str], stdout: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        stdout(full())
        assert program(command) == 4
        assert capsys.readouterr().err.endswith("Standard output cannot be written (No space left on device).\n")

    def test_a_reader_that_has_seen_enough_is_no_error(
        self, command: list[str], stdout: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        stdout(pipe_without_reader())
        assert program(command) == 0
        assert "output" not in capsys.readouterr().err

    def test_an_output_that_the_shell_has_closed(
        self, command: list[str], stdout: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        stdout(None)
        assert program(command) == 4
        assert "Standard output cannot be written" in capsys.readouterr().err
        assert sys.stdout is None  # as it was


def test_without_standard_error_a_command_does_its_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pipe_without_reader() as broken:
        for stream in (broken, None):
            monkeypatch.setattr(sys, "stderr", stream)
            assert program(["personas", "show", "nobody"]) == 2
            assert program(["voices"]) == 0
            assert len(capsys.readouterr().out.splitlines()) == 18


def test_streams_are_what_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    with watched_streams():
        print("a")
        assert sys.stdout.isatty() is False and sys.stdout is not shown
    assert sys.stdout is shown and shown.getvalue() == "a\n"


@pytest.mark.parametrize(("encoding", "written"), [("utf-8", "ü \\udcff"), ("ascii", "\\xfc \\udcff")])
def test_what_a_stream_cannot_encode_is_written_all_the_same(encoding: str, written: str) -> None:
    stream = TextIOWrapper(BytesIO(), encoding)
    output = Output(stream, lambda error: None)
    assert output.write("ü \udcff") == 3
    output.flush()
    assert stream.buffer.getvalue().decode(encoding) == written  # type: ignore[attr-defined]
