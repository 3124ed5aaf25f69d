"""Who the keys 1 to 9 switch to."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.character import Character, Sampling
from personaplex_cli.client.engine import request_for
from personaplex_cli.events import Event, Favourites, Note
from personaplex_cli.programs.favourites import KEYS, find_favourites, read_ahead

SHIPPED = ["assistant", "astronaut", "chef", "customer_service", "teacher"]


def found(named: str | None) -> tuple[dict[str, Character], list[Event]]:
    events: list[Event] = []
    return find_favourites(named, Sampling(seed=3), events.append), events


def test_without_a_setting_they_are_the_personas_as_listed(user_folders: Path) -> None:
    own = Path(os.environ["XDG_CONFIG_HOME"]) / "personaplex/personas"
    own.mkdir(parents=True)
    for number in range(9):
        (own / f"a{number}.toml").write_text('prompt = "Hello."')
    (own / "a3.toml").write_text("broken")
    favourites, events = found(None)
    assert [each.persona for each in favourites.values()] == [*(f"a{n}" for n in range(9) if n != 3), "assistant"]
    assert list(favourites) == list(KEYS) and not [each for each in events if isinstance(each, Note)]


ENTRIES = st.tuples(
    st.sampled_from([*SHIPPED, "nobody", ""]), st.sampled_from(["", ":NATM1", ": varf0 ", ":NOPE", ":/no/where.wav"])
)


@given(st.lists(ENTRIES, min_size=1, max_size=12), st.sampled_from([",", " , "]))
def test_every_entry_has_its_own_key_or_a_note(entries: list[tuple[str, str]], comma: str) -> None:
    favourites, events = found(comma.join(map("".join, entries)))
    notes = [each.text for each in events if isinstance(each, Note)]
    for key, (persona, voice) in zip(KEYS, entries, strict=False):
        usable = persona in SHIPPED and voice in ("", ":NATM1", ": varf0 ")
        assert (key in favourites) is usable is not any(f"Nobody is on key {key}. " in note for note in notes)
        if usable:
            assert favourites[key].persona == persona and favourites[key].sampling.seed == 3
            assert favourites[key].voice == voice.strip(": ").upper() or not voice
    assert len(notes) == (len(favourites) < min(9, len(entries))) + (len(entries) > 9)
    told = [each.names for each in events if isinstance(each, Favourites)]
    assert told == [{key: f"{each.persona}, {each.voice}" for key, each in favourites.items()}]


def test_a_server_is_not_asked_for_voices_that_are_files_here(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").touch()
    events: list[Event] = []
    named = f"chef, teacher:{tmp_path / 'mine.pt'}"
    assert list(find_favourites(named, Sampling(), events.append, request_for)) == ["1"]
    assert "a server has its own voices" in next(each.text for each in events if isinstance(each, Note))


@pytest.mark.model
class TestReadAhead:
    @pytest.fixture
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """One for each pass of a prompt through the model, and of a voice sample through its codec."""
        from personaplex_cli.engine.generator import TokenGenerator
        from personaplex_cli.engine.mimi import MimiCodec

        read, count = TokenGenerator.read, list[int]()
        monkeypatch.setattr(TokenGenerator, "read", lambda *rest: (count.append(1), read(*rest))[1])
        codes_of = MimiCodec.codes_of
        monkeypatch.setattr(MimiCodec, "codes_of", lambda *rest: (count.append(1), codes_of(*rest))[1])
        return count

    def test_then_nothing_is_left_to_read(self, random_folder: Path, reads: list[int]) -> None:
        from personaplex_cli.loader.load import load
        from personaplex_cli.options import ModelOptions

        favourites, _ = found("chef, teacher:NATM1, astronaut, assistant")
        favourites["3"] = replace(favourites["3"], sound="NOPE.pt")
        for key, sample in zip("56", np.random.default_rng(0).uniform(-0.1, 0.1, (2, 4800)), strict=True):
            favourites[key] = replace(favourites["1"], sound=sample.astype(np.float32))
        events: list[Event] = []
        engine = load(ModelOptions(str(random_folder), device="cpu"))
        read_ahead(engine, favourites, events.append, seconds=600)
        assert list(favourites) == ["1", "2", "4", "5", "6"]
        (note, told) = events
        assert isinstance(note, Note) and note.text.startswith("Nobody is on key 3. ")
        assert isinstance(told, Favourites) and list(told.names) == list(favourites)
        before = len(reads)
        read_ahead(engine, favourites, events.append, seconds=600)
        assert before and len(reads) == before

    def test_what_takes_too_long_is_left_for_later(self, random_folder: Path, reads: list[int]) -> None:
        from personaplex_cli.loader.load import load
        from personaplex_cli.options import ModelOptions

        favourites, _ = found("chef, astronaut")
        engine = load(ModelOptions(str(random_folder), device="cpu"))
        before = len(reads)
        read_ahead(engine, favourites, lambda event: None, seconds=-1.0)
        assert len(reads) == before and list(favourites) == ["1", "2"]
