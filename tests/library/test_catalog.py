"""The catalog: what is shipped, whose file wins, and what is said about names and files that are wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.cli.main import program
from personaplex_cli.errors import UsageError
from personaplex_cli.library import catalog
from personaplex_cli.library.settings import config_folder
from personaplex_cli.options import DEFAULT_PERSONA

SHIPPED = [f"NAT{sex}{n}" for sex in "FM" for n in range(4)] + [f"VAR{sex}{n}" for sex in "FM" for n in range(5)]


def write(kind: str, name: str, contents: str = "") -> Path:
    """A file in the user's own folder."""
    path = config_folder() / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(contents, encoding="utf-8")
    return path


def said(caught: pytest.ExceptionInfo[UsageError]) -> str:
    return f"{caught.value} {caught.value.hint}"


def test_the_shipped_voices_are_those_of_the_model() -> None:
    voices = catalog.voices()
    assert [voice.name for voice in voices] == SHIPPED
    assert all(voice.file == f"{voice.name}.pt" and voice.path is None for voice in voices)
    assert all(voice.description and voice.source and voice.licence for voice in voices)


def test_the_shipped_personas_have_the_trained_forms_and_voices_that_exist() -> None:
    personas = {persona.name: persona for persona in catalog.personas()}
    assert set(personas) == {"teacher", "assistant", "customer_service", "astronaut", "chef"}
    forms = {
        "teacher": (
            "You are a wise and friendly teacher. Answer questions or provide advice in a clear and engaging way."
        ),
        "customer_service": "You work for ",
    }
    for name, persona in personas.items():
        assert persona.prompt.startswith(forms.get(name, "You enjoy having a good conversation. "))
        assert "\n" not in persona.prompt and "  " not in persona.prompt
        assert len(persona.prompt.split()) < 80  # a token costs 80 ms of context
        assert persona.voice in SHIPPED
        assert persona.description
    assert personas[DEFAULT_PERSONA].prompt == forms["teacher"]
    assert personas[DEFAULT_PERSONA].voice == catalog.DEFAULT_VOICE
    assert all(part in personas["customer_service"].prompt for part in (" which is a ", " name is ", "Information: "))


@given(st.sampled_from(SHIPPED).flatmap(lambda name: st.tuples(*(st.sampled_from([c, c.lower()]) for c in name))))
def test_the_case_of_a_name_does_not_count(letters: tuple[str, ...]) -> None:
    assert catalog.find_voice("".join(letters)).name == "".join(letters).upper()


def test_dash_and_underscore_and_the_encoding_of_an_accent_do_not_count() -> None:
    assert catalog.find_persona("Customer-Service").name == "customer_service"
    path = write("voices", "Zoe\u0301.wav")
    assert catalog.find_voice("zo\u00e9").path == path


def test_the_references_way_of_naming_a_voice_is_understood() -> None:
    assert catalog.find_voice("NATF2.pt") == catalog.find_voice("NATF2")


def test_the_users_files_win_by_name() -> None:
    own = write("voices", "natf2.wav")
    persona = write("personas", "Teacher.toml", 'prompt = "Be brief."')
    assert catalog.find_voice("NATF2") == catalog.Voice("natf2", path=own)
    assert catalog.find_persona("teacher") == catalog.Persona("Teacher", "Be brief.", "NATF2", "", persona)
    assert len(catalog.voices()) == len(SHIPPED)
    assert len(catalog.personas()) == 5


def test_a_toml_file_describes_the_sound_file_beside_it() -> None:
    sound = write("voices", "ada.flac")
    write("voices", "ada.toml", 'file = "ada.flac"\ndescription = "my own"\nlicence = "mine"')
    assert catalog.find_voice("ada") == catalog.Voice("ada", "my own", "", "mine", "", sound)


def test_a_toml_file_may_name_another_voice_of_the_models_archive() -> None:
    write("voices", "other.toml", 'file = "OTHER7.pt"')
    assert catalog.find_voice("other") == catalog.Voice("other", file="OTHER7.pt")


@pytest.mark.parametrize("suffix", [*catalog.VOICE_SUFFIXES, ".WAV"])
def test_a_sound_file_is_a_voice_as_it_is(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write("voices", f"my voice{suffix}")
    assert catalog.find_voice("My Voice").path == own
    monkeypatch.chdir(tmp_path)
    here = Path(f"sample{suffix}")
    here.touch()
    for spelling in (here, Path.cwd() / here):
        assert catalog.find_voice(str(spelling)) == catalog.Voice(f"sample{suffix}", path=spelling)


def test_what_is_no_voice_is_not_listed() -> None:
    for name in ("notes.txt", "._NATF2.toml", ".DS_Store"):
        write("voices", name, "no TOML")
    assert [voice.name for voice in catalog.voices()] == SHIPPED


@pytest.mark.parametrize("path", ["nowhere.wav", "./NATF2", "no/such/voice", "a" * 5000 + ".pt", "~nobody/x.wav", "/"])
def test_a_path_without_a_file_is_an_error(path: str) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        catalog.find_voice(path)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UsageError) as voice:
        catalog.find_voice("natf9")
    assert "'natf9'" in said(voice) and "NATF" in voice.value.hint
    with pytest.raises(UsageError) as persona:
        catalog.find_persona("astronot")
    assert "astronaut" in persona.value.hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("techer", "Did you mean teacher? See `personaplex personas`."),
        ("chief", "Did you mean chef? See `personaplex personas`."),
        ("costumer_service", "Did you mean customer_service? See `personaplex personas`."),
        ("pirate", "See `personaplex personas`."),
    ],
)
def test_only_close_names_are_suggested(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        catalog.find_persona(name)
    assert caught.value.hint == hint


@given(st.text())
def test_any_name_gives_a_voice_and_a_persona_or_a_usage_error(name: str) -> None:
    for find in (catalog.find_voice, catalog.find_persona):
        try:
            assert find(name).name
        except UsageError as error:
            assert error.hint


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ("prompt = \n", ["line 1"]),
        ('voice = "NATF2"', ["prompt"]),
        ("prompt = 3", ["prompt", "quotes"]),
        ('prompt = ""\nvoise = "NATF2"', ["'voise'", "voice"]),
        ('prompt = ""\n[voice]', ["voice", "quotes"]),
    ],
)
def test_a_spoiled_persona_is_named_and_spoils_no_other(contents: str, words: list[str]) -> None:
    path = write("personas", "broken.toml", contents)
    for ask in (catalog.personas, lambda: catalog.find_persona("broken")):
        with pytest.raises(UsageError) as caught:
            ask()
        assert all(word in said(caught) for word in [str(path), *words]), said(caught)
    assert catalog.find_persona("teacher").name == "teacher"


@pytest.mark.parametrize("file", ["gone.wav", "../NATF2.pt", "", "voices"])
def test_a_voice_whose_file_is_missing_is_named_and_spoils_no_other(file: str) -> None:
    path = write("voices", "broken.toml", f'file = "{file}"')
    for ask in (catalog.voices, lambda: catalog.find_voice("broken")):
        with pytest.raises(UsageError) as caught:
            ask()
        assert str(path) in said(caught)
    assert catalog.find_voice("NATF2").name == "NATF2"


def test_a_prompt_may_be_empty_and_its_outer_blanks_do_not_count() -> None:
    write("personas", "silent.toml", 'prompt = ""')
    write("personas", "padded.toml", 'prompt = """\n  Hello.\n"""')
    assert catalog.find_persona("silent").prompt == ""
    assert catalog.find_persona("padded").prompt == "Hello."


def test_a_folder_that_cannot_be_read_is_an_error() -> None:
    config_folder().mkdir(parents=True)
    (config_folder() / "voices").write_text("a file where a folder belongs")
    with pytest.raises(UsageError, match="cannot be read"):
        catalog.voices()


def test_an_installed_package_carries_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "package" / "personas"
    folder.mkdir(parents=True)
    (folder / "only.toml").write_text('prompt = "Inside."')
    (tmp_path / "personas").mkdir()
    monkeypatch.setattr(catalog, "PACKAGE", tmp_path / "package")
    assert [persona.name for persona in catalog.personas()] == ["only"]


def test_the_catalog_needs_no_torch() -> None:
    code = "import sys, personaplex_cli.library.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def spoil(path: Path, how: str) -> None:
    match how:
        case "deep":
            path.write_text("[" * 20_000)
        case "deep value":
            path.write_text("prompt = " + "[" * 20_000)
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "large":
            path.write_text("#" * 1_000_001)
        case "endless":
            path.symlink_to("/dev/zero")
        case "binary":
            path.write_bytes(b"\xff\xfe")
        case "nul":
            path.write_text('file = "a\\u0000b"')


@pytest.mark.parametrize("kind", ["personas", "voices"])
@pytest.mark.parametrize("how", ["deep", "deep value", "fifo", "folder", "loop", "large", "endless", "binary", "nul"])
def test_whatever_lies_there_is_left_out_and_noted(kind: str, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """None of them holds up a list, nor spoils another name."""
    folder = write(kind, "good.toml", 'prompt = "Hello."' if kind == "personas" else 'file = "NATF2.pt"').parent
    spoil(folder / "bad.toml", how)
    errors: list[UsageError] = []
    catalog_of = {"personas": catalog.PERSONAS, "voices": catalog.VOICES}[kind]
    names = [each.name for each in catalog_of.all(errors.append)]
    assert "good" in names and "bad" not in names and len(errors) == 1
    assert str(folder / "bad.toml") in f"{errors[0]} {errors[0].hint}" and errors[0].hint
    with pytest.raises(UsageError):
        catalog_of.find("bad")
    assert program([kind]) == 0
    told = capsys.readouterr()
    assert "good\t" in told.out and "Left out: " in told.err and str(folder / "bad.toml") in told.err


@given(contents=st.binary() | st.text(alphabet="=[]{}\"'\n promtvice#\\ux0").map(str.encode))
def test_any_persona_file_is_read_or_left_out(contents: bytes) -> None:
    path = write("personas", "any.toml")
    path.write_bytes(contents)
    errors: list[UsageError] = []
    found = [each.name for each in catalog.personas(errors.append)]
    assert ("any" in found) == (not errors)


def test_a_recording_of_another_kind_is_a_voice_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which formats can be read is known to those who read them."""
    monkeypatch.chdir(tmp_path)
    for name in ("me.opus", "me.m4a", "two.dots.webm"):
        Path(name).touch()
        assert catalog.find_voice(name).path == Path(name)
    Path("NATF2").touch()
    assert catalog.find_voice("NATF2").path is None
