"""What a server is asked for."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from remote import CHARACTER

from personaplex_cli.character import Sampling
from personaplex_cli.client.engine import request_for
from personaplex_cli.errors import UsageError
from personaplex_cli.library.catalog import voices
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions
from personaplex_cli.protocols.wire import Request


class TestRequest:
    def test_every_server_finds_what_it_needs(self) -> None:
        query = request_for(CHARACTER).to_query()
        assert query["voice_prompt"] == "NATF2.pt" and query["text_prompt"] == CHARACTER.prompt
        assert "seed" not in query and "persona" not in query
        assert request_for(replace(CHARACTER, sampling=Sampling(seed=7))).to_query()["seed"] == "7"

    @given(st.text(max_size=200), st.sampled_from([voice.name for voice in voices()]), st.integers(0, 2**40))
    def test_what_is_asked_for_arrives(self, prompt: str, voice: str, seed: int) -> None:
        options = CharacterOptions(voice, "chef", prompt.removeprefix("@"))
        character = find_character(options, Sampling(seed=seed, text_temperature=0.25))
        arrived = Request.from_query(request_for(character).to_query())
        assert arrived == Request(voice, None, character.prompt or " ", seed, 0.25, 25, 0.8, 250)

    def test_greedy_is_a_temperature_that_every_server_knows(self) -> None:
        request = request_for(replace(CHARACTER, sampling=Sampling(greedy=True)))
        assert request.text_temperature == request.audio_temperature == 0

    def test_a_voice_that_is_a_file_here_stays_here(self, tmp_path: Path) -> None:
        (tmp_path / "mine.pt").touch()
        with pytest.raises(UsageError, match="has its own voices"):
            request_for(find_character(CharacterOptions(voice=str(tmp_path / "mine.pt"))))

    def test_a_prompt_that_fits_in_no_url_is_told(self) -> None:
        with pytest.raises(UsageError, match="too long"):
            request_for(find_character(CharacterOptions(prompt="no " * 3000)))
