"""`personaplex run` with many recordings: which are found, what is never overwritten, and how a stopped run goes on."""

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personaplex_cli.cli import main as cli
from personaplex_cli.errors import UsageError
from personaplex_cli.options import OutputOptions
from personaplex_cli.programs import jobs
from personaplex_cli.programs.jobs import plan
from tests.programs.test_run import recorded, run

SHORT = 0.2  # seconds


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(folder: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "results.jsonl").read_text().splitlines()]


def wavs(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.wav"))


class TestInputs:
    def test_a_folder_is_searched_and_keeps_its_shape(self) -> None:
        for name in ("in/a.wav", "in/deep/er/a.wav", "in/deep/b.FLAC", "in/.hidden.wav", "in/.git/x.wav", "in/a.txt"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()
        jobs = plan(["in"], "out")
        assert [(job.source, str(job.target)) for job in jobs] == [
            ("in/a.wav", "out/a.wav"),
            ("in/deep/b.FLAC", "out/deep/b.wav"),
            ("in/deep/er/a.wav", "out/deep/er/a.wav"),
        ]

    def test_answers_in_a_folder_inside_are_no_questions(self) -> None:
        recorded(Path("in/a.wav"))
        recorded(Path("in/out/a.wav"))
        assert [job.source for job in plan(["in"], "in/out", OutputOptions(overwrite=True))] == ["in/a.wav"]

    def test_patterns_that_no_shell_has_expanded(self) -> None:
        for name in ("a1.wav", "a2.wav", "b.wav", "[x].wav"):
            recorded(Path(name))
        assert [job.source for job in plan(["a*.wav", "[x].wav"], "out")] == ["a1.wav", "a2.wav", "[x].wav"]

    def test_a_folder_without_recordings(self) -> None:
        Path("in").mkdir()
        with pytest.raises(UsageError, match="There are no recordings in in"):
            plan(["in"], "out")

    def test_a_name_without_suffix_is_a_folder(self, random_folder: Path) -> None:
        assert run(random_folder, recorded(Path("a.wav"), SHORT), "-o", "out") == 0
        assert wavs("out") == ["a.wav"]

    def test_a_list_names_them(self, random_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        recorded(Path("a b.wav"), SHORT)
        recorded(Path("c.wav"), SHORT)
        Path("list.txt").write_text("a b.wav\n\n")
        assert run(random_folder, "c.wav", "--list", "list.txt", "-o", "out") == 0
        assert wavs("out") == ["a b.wav", "c.wav"]
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a b.wav\r\nc.wav")))
        assert run(random_folder, "--list", "-", "-o", "again") == 0
        assert wavs("again") == ["a b.wav", "c.wav"]

    @pytest.mark.parametrize("content", [b"a\0b", b"a" * 101], ids=["a NUL", "too long"])
    def test_what_is_no_list(self, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs, "MAX_LIST_BYTES", 100)
        Path("list.txt").write_bytes(content)
        with pytest.raises(UsageError, match=r"list.txt is no list of names"):
            jobs.read_list("list.txt")
        with pytest.raises(UsageError, match=r"/dev/zero is no list of names"):
            jobs.read_list("/dev/zero")  # which has no end

    def test_a_loop_of_links(self, random_folder: Path) -> None:
        Path("a.wav").symlink_to("b.wav")
        Path("b.wav").symlink_to("a.wav")
        assert run(random_folder, "a.wav", "-o", "out") == 4


class TestNothingIsOverwritten:
    @pytest.mark.parametrize(
        ("source", "out", "more"),
        [
            ("q.json", "q.wav", []),
            ("q.srt", "q.wav", ["--srt"]),
            ("q.md", "q.wav", ["--md"]),
            ("q.wav", "link.wav", []),
            ("link.wav", "q.wav", []),
            ("hard.wav", "q.wav", []),
            ("out/results.jsonl", "out/", []),
            ("other.wav", "q.wav", ["--voice", "./q.wav"]),
            ("other.wav", "q.wav", ["--prompt", "@q.json"]),
        ],
    )
    def test_no_input_by_any_name(self, source: str, out: str, more: list[str], random_folder: Path) -> None:
        for name in ("q.wav", "q.json", "q.srt", "q.md", "out/results.jsonl", "other.wav"):
            recorded(Path(name))
        Path("link.wav").symlink_to("q.wav")
        os.link("q.wav", "hard.wav")
        if "--prompt" in more:
            Path("q.json").write_text("You are kind.")
        before = {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()}
        assert run(random_folder, source, "-o", out, "--overwrite", *more) == 2
        assert {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()} == before

    @given(
        st.lists(st.sampled_from(["a.json", "a.wav", "b.srt", "in/a.md", "in/b.wav", "c"]), min_size=1, max_size=4),
        st.sampled_from([None, ".", "in", "out", "a.wav"]),
        st.booleans(),
    )
    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_what_is_written_is_written_once_and_no_input(self, inputs: list[str], out: str | None, srt: bool) -> None:
        output = OutputOptions(srt=srt, md=True, overwrite=True)
        try:
            jobs = plan(inputs, out, output)
        except UsageError as error:
            assert error.hint
            return
        written = [os.path.realpath(path) for job in jobs for path in job.written(output)]
        assert len(set(written)) == len(written) and not {os.path.realpath(each) for each in inputs} & set(written)

    def test_where_case_does_not_matter_two_names_are_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert len(plan(["A.wav", "in/a.wav"], "out")) == 2
        monkeypatch.setattr(os.path, "samefile", lambda one, other: True)
        with pytest.raises(UsageError, match="one file here"):
            plan(["A.wav", "in/a.wav"], "out")

    def test_an_answer_that_is_there_is_refused_unless_it_was_named(
        self, random_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recorded(Path("q.wav"), SHORT)
        for out, codes in (("out", (0, 2)), (None, (0, 2)), ("a.wav", (0, 0))):
            for code in codes:
                assert run(random_folder, "q.wav", *(["-o", out] if out else []), "--seed", 1) == code
        assert "--skip-existing" in capsys.readouterr().err
        assert run(random_folder, "q.wav", "-o", "out", "--overwrite") == 0 and len(results()) == 1

    def test_what_lies_beside_a_new_answer_is_refused(self, random_folder: Path) -> None:
        recorded(Path("q.wav"), SHORT)
        Path("config.json").write_text("mine")
        assert run(random_folder, "q.wav", "-o", "config.wav") == 2
        assert Path("config.json").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt", reason="pipes of Unix")
class TestWhatIsNoFile:
    """A pipe or a device is not replaced by a file: nobody would read that."""

    @pytest.mark.parametrize("out", ["pipe.wav", "pipe", "/dev/null"])
    def test_as_the_output(self, out: str) -> None:
        os.mkfifo("pipe.wav")
        os.mkfifo("pipe")
        with pytest.raises(UsageError, match="is a device or a pipe") as caught:
            plan([str(recorded(Path("a.wav")))], out)
        assert caught.value.hint == f"Write: -o - > {out}" and Path("pipe.wav").is_fifo()

    @pytest.mark.parametrize("name", ["out/a.wav", "out/a.json", "out/a.srt"])
    def test_in_the_place_of_an_answer(self, name: str, random_folder: Path) -> None:
        Path("out").mkdir()
        os.mkfifo(name)
        assert run(random_folder, recorded(Path("a.wav"), SHORT), "-o", "out", "--srt", "--overwrite") == 4
        assert Path(name).is_fifo()


class TestFailures:
    def test_a_bad_one_is_reported_and_the_rest_is_answered(
        self, random_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("a", "c"):
            recorded(Path(f"in/{name}.wav"), SHORT)
        Path("in/b.wav").write_text("no sound")
        Path("in/d.wav").touch()
        assert run(random_folder, "in", "nothing.wav", "-o", "out") == 4
        err = capsys.readouterr().err
        assert "3 of 5 recordings were not answered" in err and err.count("in/b.wav is not a sound file") == 2
        assert wavs("out") == ["a.wav", "c.wav"]
        assert [("error" in line, line["input"]) for line in results()] == [
            *((True, each) for each in ("in/b.wav", "in/d.wav", "nothing.wav")),
            *((False, each) for each in ("in/a.wav", "in/c.wav")),
        ]

    def test_strictly_the_first_one_ends_it(self, random_folder: Path) -> None:
        recorded(Path("in/a.wav"), SHORT)
        Path("in/b.wav").write_text("no sound")
        assert run(random_folder, "in", "-o", "out", "--strict") == 4
        assert wavs("out") == []

    def test_what_fails_again_and_again_ends_it(self, random_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from personaplex_cli.errors import AudioError
        from personaplex_cli.programs import answers as program

        tried = 0

        def full(*_: object) -> None:
            nonlocal tried
            tried += 1
            raise AudioError("The disk is full.", "Make room.")

        monkeypatch.setattr(program, "write_wav", full)
        inputs = [recorded(Path(f"in/{name}.wav"), SHORT) for name in "abcdef"]
        assert run(random_folder, *inputs, "-o", "out") == 4
        assert tried == 3


def test_stopped_anywhere_it_goes_on_and_each_is_answered_once(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the wav is written, and again later: a wav is there only if everything is."""
    from personaplex_cli.programs import answers as program

    names = [f"{number:02}" for number in range(6)]
    for name in names:
        recorded(Path(f"in/{name}.wav"), SHORT)
    write: Callable[..., None] = program.write_wav
    stops = iter([3, 2, 100])
    left = next(stops)

    def killed(*rest: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        write(*rest)

    monkeypatch.setattr(program, "write_wav", killed)
    codes, seen = [], dict[str, bytes]()
    for _ in range(3):
        codes.append(run(random_folder, "in", "-o", "out", "--seed", 1, "--skip-existing"))
        for path in Path("out").glob("*.wav"):
            assert seen.setdefault(path.name, path.read_bytes()) == path.read_bytes()
        with Path("out/results.jsonl").open("ab") as file:
            file.write(b'{"input": "cut off')
        left = next(stops, 100)
    assert codes == [130, 130, 0]
    assert wavs("out") == [f"{name}.wav" for name in names]
    lines = Path("out/results.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["input"] for line in lines[:-1]] == [f"in/{name}.wav" for name in names]
    # The line that a stop has cost comes back, the one that was cut off goes.
    recorded(Path("in/06.wav"), SHORT)
    Path("out/results.jsonl").write_bytes(b"\n".join(lines[:2]) + b'\n{"input": "cut off')
    assert run(random_folder, "in", "-o", "out", "--skip-existing") == 0
    assert [line["input"] for line in results()] == [f"in/{name}.wav" for name in [*names, "06"]]
    assert run(random_folder, "in", "-o", "out", "--skip-existing") == 0


def test_failures_are_noted_once(random_folder: Path) -> None:
    recorded(Path("in/a.wav"), SHORT)
    Path("in/b.wav").write_text("no sound")
    for code in (4, 4):
        assert run(random_folder, "in", "-o", "out", "--skip-existing") == code
        assert sorted((line["input"], "error" in line) for line in results()) == [
            ("in/a.wav", False),
            ("in/b.wav", True),
        ]
    recorded(Path("in/b.wav"), SHORT)
    assert run(random_folder, "in", "-o", "out", "--skip-existing") == 0
    assert [line["input"] for line in results()] == ["in/a.wav", "in/b.wav"] and not any(
        "error" in x for x in results()
    )


class TestReadOnce:
    """What can be read only once is read once, before anything slow, and called as the user called it."""

    @pytest.fixture
    def pipe(self, here: Path) -> Callable[[bytes], str]:
        def fill(content: bytes) -> str:
            os.mkfifo("pipe")
            threading.Thread(target=Path("pipe").write_bytes, args=(content,), daemon=True).start()
            return "pipe"

        return fill

    def test_a_named_pipe_is_answered(self, pipe: Callable[[bytes], str], random_folder: Path) -> None:
        content = recorded(Path("q.wav"), SHORT).read_bytes()
        assert run(random_folder, "q.wav", "-o", "a.wav", "--seed", 1) == 0
        assert run(random_folder, pipe(content), "-o", "b.wav", "--seed", 1) == 0
        assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
        assert json.loads(Path("b.json").read_text())["input"] == "pipe"

    def test_a_descriptor_is_answered(self, random_folder: Path) -> None:
        content = recorded(Path("q.wav"), SHORT).read_bytes()
        reader, writer = os.pipe()
        threading.Thread(target=lambda: (os.write(writer, content), os.close(writer)), daemon=True).start()
        assert run(random_folder, f"/dev/fd/{reader}", "-o", "b.wav") == 0
        os.close(reader)

    @pytest.mark.parametrize("source", ["-", "pipe"])
    def test_what_is_no_sound_is_known_before_the_model_loads(
        self,
        source: str,
        pipe: Callable[[bytes], str],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x")))
        given = source if source == "-" else pipe(b"x")
        assert cli.program(["run", given, "-o", "a.wav", "--model", "./nowhere"]) == 4
        assert f"{'standard input' if source == '-' else 'pipe'} is not a sound file" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_standard_output_is_no_bug(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdout = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", stdout)
    assert run(random_folder, recorded(Path("q.wav"), SHORT), "-o", "-") == 4
    assert "Standard output cannot be written" in capsys.readouterr().err
    with suppress(OSError):
        stdout.close()


@pytest.mark.parametrize(("path", "code"), [("/dev/full", 4), (None, 0)])
def test_json_that_cannot_be_written_costs_no_answer(
    path: str | None,
    code: int,
    random_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(path, "w") if path else open(writer, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        assert run(random_folder, recorded(Path("a.wav")), recorded(Path("b.wav")), "-o", "out", "--json") == code
    assert sorted(os.listdir("out")) == ["a.json", "a.wav", "b.json", "b.wav", "results.jsonl"]
    assert capsys.readouterr().err == ("Standard output cannot be written (No space left on device).\n" if code else "")


class TestOddText:
    """Text from outside never costs finished work."""

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
    def test_a_name_that_is_no_utf_8(self, random_folder: Path) -> None:
        name = os.fsdecode(b"caf\xe9.wav")
        recorded(Path("q.wav"), SHORT).rename(name)
        assert run(random_folder, name, "-o", "out", "--srt", "--md", "--json") == 0
        assert json.loads(Path(os.fsdecode(b"out/caf\xe9.json")).read_text())["input"] == name
        assert results()[0]["input"] == name

    def test_half_of_a_pair_from_a_server(self, random_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from personaplex_cli.transcript import Transcript

        add = Transcript.add
        monkeypatch.setattr(Transcript, "add", lambda self, frame, piece: add(self, frame, " \ud800\n1"))
        assert run(random_folder, recorded(Path("q.wav"), SHORT), "-o", "a.wav", "--srt", "--md") == 0
        assert "\\ud800" in Path("a.srt").read_text() and "\\ud800" in Path("a.md").read_text()
        assert json.loads(Path("a.json").read_text())["text"].startswith("\ud800 1")


def test_of_a_long_recording_it_is_said_when_the_persona_is_forgotten(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from personaplex_cli.events import Began
    from personaplex_cli.programs import answers as program

    monkeypatch.setattr(program, "Began", Began)
    hear = program.Answer.hear

    def with_little_context(self: Any, event: Any, listen: Any) -> None:
        if isinstance(event, Began):
            event = Began(**{**vars(event), "context": event.prompt_frames + 2})
        hear(self, event, listen)

    monkeypatch.setattr(program.Answer, "hear", with_little_context)
    assert run(random_folder, recorded(Path("q.wav"), SHORT), "-o", "a.wav", "--md") == 0
    err = capsys.readouterr().err
    assert err.index("forgets its persona") < err.index("-> a.wav")
    report = json.loads(Path("a.json").read_text())
    assert list(report)[:2] == ["text", "words"]
    assert report["persona_until"] == 0.16 and "forgets its persona" in report["notes"][0]
    assert Path("a.md").read_text().startswith("# q.wav" if not Path("q.wav").is_absolute() else "#")
