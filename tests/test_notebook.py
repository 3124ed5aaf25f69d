"""`examples/recordings.ipynb`: its cells run, one after the other, as Jupyter would run them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples/recordings.ipynb"


def sources(kind: str) -> list[str]:
    return [
        "".join(each["source"])
        for each in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
        if each["cell_type"] == kind
    ]


def test_it_is_a_notebook_without_results_of_somebodys_machine() -> None:
    book = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert len({each["id"] for each in book["cells"]}) == len(book["cells"])
    code = [each for each in book["cells"] if each["cell_type"] == "code"]
    assert code and all((each["outputs"], each["execution_count"]) == ([], None) for each in code)


def test_nbformat_finds_no_fault() -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))


@pytest.mark.model
@pytest.mark.slow
def test_its_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs matplotlib")
    shutil.copy(NOTEBOOK.with_name("question.wav"), tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    try:
        for source in sources("code"):
            exec(compile(source, NOTEBOOK.name, "exec"), names)
        assert len(pyplot.get_fignums()) == 2
        for number in pyplot.get_fignums():
            pyplot.figure(number).savefig(f"{number}.png")
    finally:
        pyplot.close("all")
        names["engine"].close()
    said = capsys.readouterr().out
    for name, steps in names["talks"].items():
        assert name in said and "".join(step.text for step in steps) in said
        assert (tmp_path / f"answer-{name.rpartition(' ')[2]}.wav").stat().st_size > 100_000
    assert "frames took more than 80 ms" in said
