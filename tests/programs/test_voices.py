"""`personaplex voices`, through the command line, as a user meets it."""

import io
import json
import sys
import wave
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fakecard import FakeCard, plug_in

from personaplex_cli.audio.recording import write_wav
from personaplex_cli.cli.main import program
from personaplex_cli.library import own_voices
from personaplex_cli.library.settings import config_folder
from personaplex_cli.programs import voices
from personaplex_cli.samples import SAMPLE_RATE, Samples

Said = Callable[[], tuple[str, str]]  # what was printed since: stdout and stderr


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return lambda: tuple(capsys.readouterr())


def recorded(name: str = "talk.wav", seconds: float = 12.0) -> str:
    """Words of half a second, with some silence between them."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE)) * 0.05
    for start in range(0, len(noise), SAMPLE_RATE // 2):
        noise[start : start + SAMPLE_RATE // 10] *= 0.01
    with Path(name).open("wb") as file:
        write_wav(file, noise.astype(np.float32))
    return name


def answer(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits at a terminal, and types this."""
    terminal = io.StringIO(text)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)


def add(name: str = "ada") -> Path:
    assert program(["voices", "add", name, recorded(), "--yes"]) == 0
    return own_voices.folder() / name


def persona(name: str, voice: str) -> None:
    folder = config_folder() / "personas"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(f'prompt = "You enjoy having a good conversation."\nvoice = "{voice}"')


def test_a_voice_is_added_and_known_with_where_it_came_from(said: Said) -> None:
    place = add()
    out, err = said()
    assert out == "Added the voice ada. Talk with it: personaplex chat --voice ada.\n"
    assert "Taken: 0.0 to 12.0 of 12.0 s." in err and "Please listen to it" in err
    persona("pirate", "Ada")
    persona("parrot", "ada")
    assert program(["voices"]) == 0
    first = said()[0].splitlines()[0].split("\t")
    assert first[0] == "ada" and first[2:] == ["parrot, pirate"]
    assert program(["voices", "ADA"]) == program(["voices", "show", "ada"]) == 0
    shown = said()[0]
    known = str(Path("talk.wav").resolve()), "kept: 0.0 to 12.0 of 12.0 s", "the speaker agrees, by --yes", "digest: "
    for before, after in pairwise(map(shown.index, known)):
        assert before < after
    assert program(["voices", "--json"]) == 0
    ada, other, *_ = json.loads(said()[0])
    assert (ada["name"], other["name"]) == ("ada", "NATF0")
    about = json.loads((place / own_voices.ABOUT).read_text())
    assert ada.items() >= about.items() and ada["path"] == str(place / own_voices.SAMPLE)


@pytest.mark.parametrize(
    ("typed", "added"), [("y\n", True), ("YES\n", True), ("no\n", False), ("\n", False), ("", False)]
)
def test_the_user_is_asked_whether_the_speaker_agrees(
    typed: str, added: bool, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    answer(typed, monkeypatch)
    assert (program(["voices", "add", "ada", recorded()]) == 0) == added
    assert said()[1].count("agreed that you use the voice?") == 1
    assert (own_voices.folder() / "ada").exists() == added


def test_what_is_no_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    answer("maybe\nwell\ny\n", monkeypatch)
    assert program(["voices", "add", "ada", recorded()]) == 0
    assert said()[1].count("[y/N]") == 3


def test_where_nobody_can_be_asked_a_script_must_say_it(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    def pipe() -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(recorded()).read_bytes())))

    pipe()
    assert program(["voices", "add", "ada", "-"]) == 2
    assert "Cannot ask without a terminal" in (err := said()[1]) and "--yes" in err
    pipe()
    assert program(["voices", "add", "ada", "-", "--yes"]) == 0
    assert program(["voices", "remove", "ada"]) == 2
    assert "--yes" in said()[1]
    assert json.loads((own_voices.folder() / "ada/about.json").read_text())["source"] == "standard input"


@pytest.mark.parametrize("name", ["../ada", "NATF2", "natf2", "add", "a b", "-", "x" * 41])
def test_names_that_cannot_be_are_refused_before_anything_is_asked(name: str, said: Said) -> None:
    assert program(["voices", "add", "--", name, recorded()]) == 2
    assert "agreed" not in said()[1] and not own_voices.folder().exists()


def test_a_name_is_given_once(said: Said) -> None:
    add()
    (own_voices.folder() / "bob.flac").touch()
    for name, remedy in (("Ada", "personaplex voices remove ada"), ("BOB", "bob.flac")):
        assert program(["voices", "add", name, recorded(), "--yes"]) == 2
        assert remedy in said()[1]


def test_what_is_no_recording_adds_nothing(said: Said) -> None:
    Path("text.wav").write_text("Hello")
    for sample, code in (("text.wav", 4), ("nowhere.wav", 2), (".", 2), (recorded("short.wav", 2.0), 4)):
        assert program(["voices", "add", "ada", sample]) == code
        assert "agreed" not in (err := said()[1]) and err
    assert not own_voices.folder().exists()


def test_a_name_in_the_recordings_place_is_told(said: Said) -> None:
    assert program(["voices", "add", recorded("base.wav"), "ada"]) == 2
    assert "The name comes first.\n`personaplex voices add ada base.wav`" in said()[1]


def test_one_side_of_a_call(said: Said) -> None:
    sides = np.random.default_rng(1).standard_normal((8 * SAMPLE_RATE, 2)) * 3000
    sides[: 4 * SAMPLE_RATE, 0] = sides[4 * SAMPLE_RATE :, 1] = 0
    with wave.open("call.wav", "wb") as file:
        file.setparams((2, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(sides.astype("<i2").tobytes())
    assert program(["voices", "add", "both", "call.wav", "--yes"]) == 4
    assert "different voices" in (err := said()[1]) and "Give --channel left or right." in err
    assert program(["voices", "add", "one", "call.wav", "--yes", "--channel", "right"]) == 0
    assert "different voices" not in (err := said()[1]) and "Taken: 0.0 to 4.1 of 8.0 s." in err


def test_a_voice_is_removed_when_the_user_says_so(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    place = add()
    persona("pirate", "ADA")
    answer("n\n", monkeypatch)
    assert program(["voices", "remove", "ada"]) == 0 and place.exists()
    assert "The persona pirate speaks with it" in (err := said()[1]) and "kept" in err
    answer("y\n", monkeypatch)
    assert program(["voices", "remove", "Ada"]) == 0 and not place.exists()
    assert said()[0] == "Removed the voice ada.\n"


def test_only_what_was_added_is_removed(said: Said) -> None:
    own_voices.folder().mkdir(parents=True)
    (own_voices.folder() / "bob.flac").touch()
    for name, reason in (("NATF2", "was not added"), ("bob", "bob.flac"), ("nobody", "no voice"), ("..", "no voice")):
        assert program(["voices", "remove", name, "--yes"]) == 2
        assert reason in said()[1]
    assert (own_voices.folder() / "bob.flac").exists()


def test_a_damaged_voice_is_left_out_and_can_be_removed(said: Said) -> None:
    (add() / own_voices.SAMPLE).write_bytes(b"")
    assert program(["voices"]) == 0
    out, err = said()
    assert len(out.splitlines()) == 19 and "Left out: The voice ada is damaged" in err  # and the line of `add`
    assert program(["run", recorded(), "--voice", "ada", "--model", "demo"]) == 2
    assert "personaplex voices remove ada" in said()[1]
    assert program(["voices", "remove", "ada", "--yes"]) == 0
    assert program(["voices", "add", "ada", recorded(), "--yes"]) == 0


def test_a_sample_is_played(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    played: list[Samples] = []
    monkeypatch.setattr(voices, "play_sound", lambda sound, options: played.append(sound))
    add()
    assert program(["voices", "play", "ada"]) == program(["voices", "play", recorded()]) == 0
    assert [len(each) for each in played] == [12 * SAMPLE_RATE, 12 * SAMPLE_RATE]
    assert program(["voices", "play", "NATF2"]) == 2
    assert "personaplex chat --voice NATF2" in said()[1]


def test_a_speaker_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    plug_in(FakeCard(), monkeypatch)
    add()
    assert program(["voices", "play", "ada", "--output-device", "zz"]) == 2
    assert "There is no output device 'zz'" in said()[1]


def test_a_server_elsewhere_has_voices_of_its_own(said: Said) -> None:
    add()
    assert program(["run", recorded(), "--voice", "ada", "--server", "gpu.invalid"]) == 2
    assert "The voice ada is on this machine" in said()[1]


@pytest.mark.model
def test_an_own_voice_speaks_by_its_name_or_a_personas(random_folder: Path) -> None:
    place = add()
    persona("pirate", "ada")
    recorded("question.wav", seconds=0.5)
    for name, who in (
        ("voice", ["--voice", "ada"]),
        ("persona", ["-p", "pirate", "--prompt", "Be."]),
        ("path", ["-v", str(place / own_voices.SAMPLE)]),
        ("other", ["-v", "NATF2"]),
    ):
        run = ["run", "question.wav", "-o", f"{name}.wav", "--model", str(random_folder), "--seed", "1"]
        assert program([*run, "--device", "cpu", "--prompt", "Be.", *who]) == 0
    sounds = [Path(f"{name}.wav").read_bytes() for name in ("voice", "persona", "path", "other")]
    assert sounds[0] == sounds[1] == sounds[2] != sounds[3]
    assert len(list(place.glob("*.pt"))) == 1
