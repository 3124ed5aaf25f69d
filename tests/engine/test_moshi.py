"""Another model of the family: Moshi, which takes neither persona nor voice, gives the tokens of its own generator."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import CPU, FP32, TokenTalk
from moshi.models import LMGen
from random_model import build_random

from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Character, Sampling
from personaplex_cli.conversation import converse
from personaplex_cli.engine.prompting import no_prompt
from personaplex_cli.events import Event, Note
from personaplex_cli.library.spec import MOSHI, spec_of_folder, spec_of_repo
from personaplex_cli.loader.checkpoint import load_lm
from personaplex_cli.loader.load import load
from personaplex_cli.options import ModelOptions
from personaplex_cli.samples import FRAME, SILENT_FRAME


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moshi")
    build_random(folder, spec=MOSHI)
    return folder


def test_greedy_tokens_are_those_of_moshis_own_generator(folder: Path) -> None:
    spec = spec_of_folder(folder)
    user = torch.randint(2048, (8, 40), generator=torch.Generator().manual_seed(1))
    lm = load_lm(folder / spec.weights_file, spec.lm, FP32, lambda name: CPU)
    talk = TokenTalk(lm, spec)
    talk.begin(no_prompt(spec), Sampling(greedy=True))
    ours = [[text, *codes] for text, codes in map(talk.step, user.T)]

    theirs: list[Any] = []
    generator = LMGen(load_lm(folder / spec.weights_file, spec.lm, FP32, lambda name: CPU), use_sampling=False)
    with torch.no_grad(), generator.streaming(1):
        unseen = torch.zeros(8, 1, dtype=torch.long)  # frame 0, in whose place initial tokens stand
        for codes in torch.cat([unseen, user], dim=1).T:
            tokens = generator.step(codes.view(1, 8, 1))
            theirs += [tokens.flatten().tolist()] if tokens is not None else []
    assert ours == theirs


def test_it_talks_whoever_is_asked_for(folder: Path) -> None:
    heard: list[Event] = []
    engine = load(ModelOptions(str(folder), device="cpu"), heard.append)
    assert any("neither a persona nor a voice" in event.text for event in heard if isinstance(event, Note))
    answers = []
    for who in ("teacher", "chef"):
        audio = Recording(SILENT_FRAME.repeat(10))
        list(converse(engine, audio, Character(who, f"You are a {who}.", "NATF2", "NATF2.pt", Sampling(seed=1))))
        answers.append(audio.answer.tobytes())
    assert answers[0] == answers[1] and len(answers[0]) == 10 * FRAME * 4


def test_its_repositories_are_known() -> None:
    assert spec_of_repo("kyutai/moshiko-pytorch-bf16") is MOSHI
    assert spec_of_repo("nvidia/personaplex-7b-v1").is_prompted
