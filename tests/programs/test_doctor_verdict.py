"""What the doctor's verdict says, and that it is the last word."""

import json
import re
from pathlib import Path

import pytest
import torch
from fakecard import FakeCard, plug_in

from personaplex_cli.cli.main import program
from personaplex_cli.findings import OK, WARNING, WRONG, Finding
from personaplex_cli.programs import doctor


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to be in, an empty cache, a sound card made of numbers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    fake = FakeCard()
    fake.get_portaudio_version = lambda: (1246720, "PortAudio V19.7.0, revision 1")  # type: ignore[attr-defined]
    plug_in(fake, monkeypatch)


def test_what_is_urgent_comes_first_and_the_token_before_the_download(capsys: pytest.CaptureFixture[str]) -> None:
    program(["doctor", "--json"])
    findings = [Finding(**each) for each in json.loads(capsys.readouterr().out)["findings"]]
    order = [each.kind for each in findings if each.name != "token"]
    assert order == sorted(order, key=[WRONG, WARNING, OK].index)
    names = [each.name for each in findings]
    assert names.index("token") < names.index("model") < names.index("system")
    kinds = {each.name: each.kind for each in findings}
    assert "login" in findings[names.index("token")].advice
    assert kinds.get("GPU") == (None if torch.cuda.is_available() else WARNING)


def test_the_verdict_says_what_is_first() -> None:
    fine, odd = Finding(OK, "a", "x"), Finding(WARNING, "b", "y", "Do y.")
    wrong = [Finding(WRONG, "c", "z", "Do z.", exit_code=3), Finding(WRONG, "d", "w", exit_code=5)]
    assert doctor.verdict([fine], "demo") == (OK, "Ready for a talk with demo: run `personaplex chat`.")
    assert doctor.verdict([fine, odd, odd], "demo") == (WARNING, "Ready for a talk with demo; worth a look: b.")
    kind, sentence = doctor.verdict([fine, odd, *wrong], "demo")
    assert kind == WRONG and sentence == "Not ready for a talk with demo: 2 things are wrong. First: z. Do z."


def test_the_verdict_is_the_last_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert program(["doctor", "--model", "demo"]) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("Ready for a talk with demo")
    assert program(["doctor", "--model", "demo", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["verdict"].startswith("Ready") and not told.err
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert program(["doctor", "--model", "demo"]) == 0
    assert re.fullmatch(r"\x1b\[[\d;]+mReady .*\x1b\[0m", capsys.readouterr().out.splitlines()[-1]), "in a colour"


def test_on_a_pipe_each_finding_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["doctor", "--model", "demo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.count("\t") == 3 and line.split("\t")[0] in (OK, WARNING, WRONG) for line in lines)
    assert program(["doctor", "--model", "demo", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in told["findings"]] == [line.split("\t")[1] for line in lines]
