"""Any words to any command: it does its work or says what is wrong, and ends with an exit code that is documented.

Whatever reaches beyond this process, or takes long, is refused at its seam: the model, the hub, servers, sound cards.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from unittest import mock

import pytest
from fakecard import FakeCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runningserver import speech, wav

from personaplex_cli.cli import main as cli
from personaplex_cli.client.engine import RemoteEngine
from personaplex_cli.errors import DeviceError, NetworkError
from personaplex_cli.findings import OK, Finding
from personaplex_cli.library import hub, login
from personaplex_cli.programs import doctor
from personaplex_cli.server.app import App

CODES = {0, 2, 3, 4, 5, 6, 130}  # 1 is a bug
OPTIONS = [
    line.split("\t")[:2] for line in (Path(__file__).parents[1] / "data/options.tsv").read_text("utf-8").splitlines()
]
COMMANDS = sorted({command for command, *_ in OPTIONS} | {"login", "talk", "nothing"})
WORDS = ["", "-", "--", "0", "-1", "1", "9" * 30, "nan", "inf", "1e999", "yes", "a.wav", "b.wav", "out", "out/c.wav"]
WORDS += ["*.wav", "teacher", "NATF2", "demo", "@a.wav", "left", "cuda:99", "http://127.0.0.1:9", "[", "\x1b[2J"]
VALUES = st.sampled_from([*WORDS, "\udcff", "ü"]) | st.text(max_size=6).filter(
    lambda text: not set(text) & set("/~\\.\0")
)


def refused(error: Exception) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise error

    return refuse


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    model, no_model = ModuleType("load"), refused(DeviceError("No model here."))
    for name in ("load", "load_cold", "load_random"):
        setattr(model, name, no_model)
    model.NOISE_VOICE = speech(1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "personaplex_cli.loader.load", model)
    monkeypatch.setitem(sys.modules, "sounddevice", FakeCard(listed=[]))  # type: ignore[misc]
    for place, name in ((hub, "fetch"), (login, "login"), (RemoteEngine, "_reach")):
        monkeypatch.setattr(place, name, refused(NetworkError("No network here.")))
    monkeypatch.setattr(App, "run", lambda self: None)
    monkeypatch.setattr(doctor, "examine", lambda *_: [Finding(OK, "machine", "it is there")])
    monkeypatch.setenv("EDITOR", "true")
    monkeypatch.setenv("VISUAL", "true")
    monkeypatch.chdir(tmp_path)
    wav(tmp_path / "a.wav", speech(2))
    with mock.patch.dict(os.environ):
        yield


@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_words_are_done_or_refused(command: str, data: st.DataObject, sealed: None) -> None:
    flags = [flag for name, given in OPTIONS if name == command for flag in given.split("/")]
    word = VALUES | st.sampled_from([*flags, "--help", "--nothing"])
    words = [*command.split(), *data.draw(st.lists(word, max_size=6), "words")]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    given = io.TextIOWrapper(io.BytesIO(b"y\n"))
    with mock.patch.multiple(sys, stdin=given, stdout=out, stderr=err):
        code = cli.program(words)
        err.flush()
    said = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert code in CODES, said
    assert "Traceback" not in said and "\x1b[2J" not in said
