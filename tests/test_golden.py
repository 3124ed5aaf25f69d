"""The engine gives the reference's tokens, to the last one: greedy, fp32, on the CPU."""

from pathlib import Path

import pytest
import torch
from golden import load_golden

from personaplex_cli.character import Sampling
from personaplex_cli.engine.prompting import lay_out, load_saved_voice


@pytest.mark.parametrize("voice_as", ["codes", "saved"])
def test_tokens_are_the_references(golden_path: Path, voice_as: str, tmp_path: Path) -> None:
    golden = load_golden(golden_path)
    talk = golden.talk(tmp_path)
    voice = golden.codes("voice")
    if voice_as == "saved":
        if not golden.saved_voice.exists():
            pytest.skip("this golden file has no saved voice")
        voice = load_saved_voice(golden.saved_voice, talk.spec)
    talk.begin(lay_out(voice, golden.data["text_prompt"], talk.spec), Sampling(greedy=True))

    # The last frame's answer has no column in the golden file: the reference would give it a call later.
    answers = [talk.step(user) for user in golden.codes("user").T[:-1]]

    assert [text for text, _ in answers] == golden.data["expected_text"]
    assert torch.equal(torch.tensor([codes for _, codes in answers]).T, golden.codes("expected_audio"))
