"""Personas of the user's own: what is written is read, and what is checked is what the model will do."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.character import Character
from personaplex_cli.errors import PersonaplexError, UsageError
from personaplex_cli.findings import OK, WARNING, WRONG, Finding
from personaplex_cli.library.catalog import find_persona, personas
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions
from personaplex_cli.programs import personas as program

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text('"\\\n\r\t\x7f\x00{}=', max_size=20)


class Scale:
    """Counts a token for each word, and nothing for a voice."""

    def size(self, character: object) -> object:
        from types import SimpleNamespace

        tokens = len(character.prompt.split())  # type: ignore[attr-defined]
        return SimpleNamespace(tokens=tokens, voice_frames=0, frames=tokens, context=3000)


def checked(prompt: str) -> list[Finding]:
    program.write(program.folder() / "ada.toml", program.described(prompt, "NATF2"))
    return program.check(["ada"], Scale())  # type: ignore[arg-type]


@given(prompt=TEXTS, voice=TEXTS, description=TEXTS)
def test_what_is_written_is_read(prompt: str, voice: str, description: str) -> None:
    path = program.folder() / "ada.toml"
    program.write(path, program.described(prompt, voice, description))
    persona = find_persona("ada")
    assert (persona.prompt, persona.description) == (prompt.strip(), description.strip())
    assert persona.voice == voice.strip() or not voice.strip()


def test_what_cannot_be_written_leaves_what_was_there() -> None:
    path = program.folder() / "ada.toml"
    program.write(path, program.described("Be kind.", "NATF2"))
    with pytest.raises(UsageError, match="UTF-8"):
        program.write(path, program.described("half \ud800", "NATF2"))
    assert find_persona("ada").prompt == "Be kind."
    path.unlink()
    program.folder().rmdir()
    program.folder().write_text("a file where a folder belongs")
    with pytest.raises(UsageError, match="cannot be written"):
        program.write(path, "")


@given(st.text(max_size=12) | st.from_regex(r"[a-z-]{1,45}", fullmatch=True))
def test_the_name_of_a_new_persona_is_no_path_and_no_command(name: str) -> None:
    try:
        path = program.new_path(name)
    except UsageError:
        assert not re.fullmatch(r"[^\W_][\w-]{0,39}", name) or name.lower() in program.RESERVED
    else:
        assert path.parent == program.folder() and path.stem.lower() not in program.RESERVED


def test_a_new_persona_replaces_one_that_ships_but_none_of_ones_own() -> None:
    program.write(program.new_path("Customer-Service"), program.described("Mine.", "NATF2"))
    assert find_persona("customer_service").prompt == "Mine."
    with pytest.raises(UsageError, match="already"):
        program.new_path("customer_service")


def test_a_voice_that_is_a_file_is_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.wav").touch()
    monkeypatch.chdir(tmp_path)
    assert program.voice_for("mine.wav") == str(tmp_path / "mine.wav")
    assert program.voice_for("natm1.pt") == program.voice_for("NATM1") == "NATM1"
    with pytest.raises(UsageError):
        program.voice_for("NOPE")


def prompts_of_the_guide() -> list[str]:
    return re.findall(r"^\| an? \w+ \| `(.+)` \|$", GUIDE.read_text("utf-8"), re.M)


def test_the_three_forms_and_what_ships_have_no_warning() -> None:
    assert len(prompts_of_the_guide()) == 3
    for prompt in [*prompts_of_the_guide(), *(each.prompt for each in personas())]:
        for said in (prompt, f"<system> {prompt} <system>", prompt.replace(" ", "\n", 3)):
            assert [each.kind for each in checked(said)] == [OK]


@given(st.data())
def test_other_forms_and_long_prompts_have_warnings(data: st.DataObject) -> None:
    prompt = data.draw(st.sampled_from(prompts_of_the_guide()))
    words = data.draw(st.integers(0, 500))
    cut = data.draw(st.booleans())
    findings = checked(f"{prompt[1:] if cut else prompt} {' '.join(['word'] * words)}")
    is_long = len(prompt.split()) + words > program.MAX_TOKENS
    assert [each.kind for each in findings] == [OK, *[WARNING] * (cut + is_long)]
    assert any("three forms" in each.found for each in findings) is cut
    assert all(each.advice for each in findings[1:]) and program.exit_code(findings) == 0


def test_what_a_template_leaves_open_is_told() -> None:
    """The program's own template, the form that `check` itself tells, NVIDIA's with angle brackets."""
    nvidias = "You work for <company> which is a <kind of shop> and your name is Ada. Information: Open."
    for prompt, open_places in (
        (program.template("", "").split('"""')[1], "..."),
        (f"{program.SERVICE} ...", "NAME, KIND, ..."),
        (f"<system> {nvidias} <system>", "<company>, <kind of shop>"),
    ):
        (_, warning) = checked(prompt)
        assert warning.kind == WARNING and warning.found.endswith(f": {open_places}")


@given(st.lists(st.sampled_from(["Well...", "a < b > c", "1...2", "NAMES", "KINDLY", "<system>", "Ada.", "\n"])))
def test_what_only_looks_like_it_is_not(words: list[str]) -> None:
    assert not Character("", " ".join(words), "", "").blanks


def test_what_fills_the_memory_is_wrong() -> None:
    (finding,) = checked("word " * 3000)
    assert finding.kind == WRONG and finding.exit_code == 2


LINES = st.sampled_from(
    [
        'prompt = "Hello."',
        'voice = "NATM1"',
        'voice = "NOPE"',
        'vioce = "NATM1"',
        "prompt = 3",
        "prompt = '''",
        "",
        "[a]",
    ]
)


@given(contents=st.binary(max_size=40) | st.lists(LINES, max_size=4).map("\n".join).map(str.encode))
def test_whatever_is_in_a_file_it_is_wrong_if_no_conversation_can_begin_with_it(contents: bytes) -> None:
    program.folder().mkdir(parents=True, exist_ok=True)
    (program.folder() / "ada.toml").write_bytes(contents)
    findings = program.check(["ada", "chef"], Scale())  # type: ignore[arg-type]
    try:
        find_character(CharacterOptions(persona="ada"))
    except PersonaplexError as error:
        assert [(each.kind, each.name) for each in findings] == [(WRONG, "ada"), (OK, "chef")]
        assert (findings[0].found, findings[0].advice) == (str(error), error.hint) and findings[0].advice
        assert program.exit_code(findings) == error.exit_code
    else:
        assert WRONG not in [each.kind for each in findings] and program.exit_code(findings) == 0


@pytest.mark.model
def test_the_frames_are_those_of_the_engine(random_folder: Path, tmp_path: Path) -> None:
    """Of every voice: one of the model's, a sample, one that was added."""
    import numpy as np

    from personaplex_cli.audio.recording import Recording, write_wav
    from personaplex_cli.audio.voice_sample import choose_voice_sample
    from personaplex_cli.conversation import Conversation, converse_all
    from personaplex_cli.events import Began
    from personaplex_cli.loader.load import load
    from personaplex_cli.loader.prompt_size import scale_of
    from personaplex_cli.options import ModelOptions
    from personaplex_cli.programs import voices

    noise = np.random.default_rng(0).normal(0, 0.1, 30_001).astype(np.float32)
    with (tmp_path / "mine.wav").open("wb") as file:
        write_wav(file, noise)
    with (tmp_path / "long.wav").open("wb") as file:
        write_wav(file, np.tile(noise, 10))
    voices.add("added", choose_voice_sample(str(tmp_path / "long.wav"), None), "long.wav", "yes")
    options = ModelOptions(str(random_folder), device="cpu")
    engine, scale = load(options), scale_of(options.model, None)
    for persona in ("teacher", "customer_service"):
        for voice in ("NATF2", str(tmp_path / "mine.wav"), "added"):
            character = find_character(CharacterOptions(voice, persona))
            events = converse_all(engine, [Conversation(character, Recording(noise[:0]))])
            (began,) = (event for _, event in events if isinstance(event, Began))
            size = scale.size(character)
            assert (size.frames, size.context) == (began.prompt_frames, began.context)
            assert size.frames == size.tokens + size.voice_frames + 12  # two silences of half a second


@pytest.mark.model
def test_without_the_model_the_demo_counts_and_says_so() -> None:
    from personaplex_cli.events import Event, Note
    from personaplex_cli.loader.prompt_size import scale_of

    said: list[Event] = []
    for model in ("demo", "somebody/something"):
        size = scale_of(model, None, said.append).size(find_character())
        assert size.tokens > 18 and size.voice_frames > 1
    assert [isinstance(each, Note) and "demo" in each.text for each in said] == [True, True]
    assert "somebody/something is not here: it may need fewer tokens" in str(said[1])
