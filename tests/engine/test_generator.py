"""Laws of the conversation in tokens, on a golden checkpoint: small, and every weight matters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Golden, TokenTalk, heard_of, load_golden

from personaplex_cli.character import Sampling
from personaplex_cli.engine.prompting import lay_out

GREEDY = Sampling(greedy=True)
FRAMES = 10


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load_golden(Path(__file__).parents[1] / "data/golden/golden-a.json")


@pytest.fixture(scope="module")
def talk(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> TokenTalk:
    return golden.talk(tmp_path_factory.mktemp("golden"))


def held(talk: TokenTalk, golden: Golden, user: torch.Tensor, sampling: Sampling = GREEDY) -> list[Any]:
    """The agent's tokens of a whole talk, one list of 9 per frame."""
    talk.begin(lay_out(golden.codes("voice"), golden.data["text_prompt"], talk.spec), sampling)
    return [[text, *codes] for text, codes in map(talk.step, user.T)]


@pytest.mark.parametrize("frame", range(0, FRAMES - 1, 3))
@pytest.mark.parametrize("row", [0, 7])
def test_the_model_hears_the_user_in_the_same_call(talk: TokenTalk, golden: Golden, frame: int, row: int) -> None:
    user = golden.codes("user")[:, :FRAMES]
    changed = user.clone()
    changed[row, frame] = (changed[row, frame] + 1000) % 2048
    before, after = held(talk, golden, user), held(talk, golden, changed)
    # Code 1 of the user is read at once; the others lie one position later.
    heard_at = frame if row == 0 else frame + 1
    assert before[:heard_at] == after[:heard_at]
    assert before[heard_at] != after[heard_at]


def test_prefill_equals_stepping_position_by_position(talk: TokenTalk, golden: Golden) -> None:
    layout = lay_out(golden.codes("voice"), golden.data["text_prompt"], talk.spec)
    at_once = talk.read(layout.columns[:, :-1], 0)
    for position in range(layout.positions):
        stepped = talk.read(layout.columns[:, position : position + 1], position)
    torch.testing.assert_close(at_once, stepped, rtol=1e-4, atol=1e-4)


def test_a_second_talk_knows_nothing_of_the_first(talk: TokenTalk, golden: Golden) -> None:
    user = golden.codes("user")[:, :FRAMES]
    first = held(talk, golden, user)
    held(talk, golden, user.flip(1))
    assert held(talk, golden, user) == first


def test_same_seed_same_talk_other_seed_other_talk(talk: TokenTalk, golden: Golden) -> None:
    user = golden.codes("user")[:, :FRAMES]
    first = held(talk, golden, user, Sampling(seed=1))
    assert held(talk, golden, user, Sampling(seed=1)) == first
    assert held(talk, golden, user, Sampling(seed=2)) != first


def test_a_temperature_towards_zero_is_greedy(talk: TokenTalk, golden: Golden) -> None:
    user = golden.codes("user")[:, :FRAMES]
    greedy = held(talk, golden, user)
    assert held(talk, golden, user, Sampling(audio_temperature=0, text_temperature=0)) == greedy
    assert held(talk, golden, user, Sampling(audio_temperature=1e-30, text_temperature=1e-30)) == greedy
    assert held(talk, golden, user, Sampling(audio_top_k=1, text_top_k=1)) == greedy


def test_past_the_context_only_the_last_positions_count(golden: Golden, tmp_path: Path) -> None:
    """After the ring has wrapped, the talk equals one whose early frames were different."""
    context = 40
    talk = golden.talk(tmp_path, context=context)
    generator = torch.Generator().manual_seed(3)
    user = torch.randint(2048, (8, 3 * context), generator=generator)
    answers = held(talk, golden, user)
    assert talk.slot.position > 2 * context
    assert all(0 <= token < 2048 for answer in answers for token in answer)
    # The transformer has two layers: what it read `2 * context` positions ago cannot reach it any more, except
    # through the tokens it said. So a plain attention over the last positions gives the same output.
    columns = torch.randint(400, (17, 3 * context), generator=generator)
    for position in range(columns.shape[1]):
        ringed = talk.read(columns[:, position : position + 1], position)
    columns[:, : context // 2] = 7  # long out of sight of both layers
    for position in range(columns.shape[1]):
        again = talk.read(columns[:, position : position + 1], position)
    torch.testing.assert_close(ringed, again)


def test_gradients_are_off_in_whatever_thread_calls(talk: TokenTalk, golden: Golden) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with torch.enable_grad(), ThreadPoolExecutor(1) as thread:
        layout = lay_out(golden.codes("voice"), [], talk.spec)
        thread.submit(talk.begin, layout, GREEDY).result()
        text, codes = thread.submit(talk.step, golden.codes("user")[:, 0]).result()
    assert len(codes) == 8 and 0 <= text < 400
    assert not talk.generator.hidden.requires_grad and talk.generator.cache.kv.grad_fn is None


def test_made_silent_the_agent_says_silence_and_nothing_else_changes(talk: TokenTalk, golden: Golden) -> None:
    user = golden.codes("user")[:, :FRAMES]
    free = held(talk, golden, user)
    held(talk, golden, user[:, :0])
    answers = [talk.step(each, silent=index in (3, 4, 5)) for index, each in enumerate(user.T)]
    spoken = [[text, *codes] for text, codes in answers]
    silence = [talk.spec.padding, *talk.spec.silence]
    assert spoken[:3] == free[:3]
    assert spoken[3:6] == [silence] * 3
    assert spoken[6] != free[6] and spoken[7] != silence


def test_in_a_batch_of_two_each_slot_says_what_it_says_alone(talk: TokenTalk, golden: Golden) -> None:
    """Every tensor of the engine has its batch axis: two conversations, one frame apart, through one pipeline."""
    users = [golden.codes("user")[:, :FRAMES], golden.codes("user")[:, :FRAMES].flip(1)]
    texts = [golden.data["text_prompt"], []]
    alone = []
    for user, text in zip(users, texts, strict=True):
        talk.begin(lay_out(golden.codes("voice"), text, talk.spec), GREEDY)
        alone.append([[token, *codes] for token, codes in map(talk.step, user.T)])

    both = TokenTalk(talk.lm, talk.spec, slots=2)
    for number, text in enumerate(texts):
        both.begin(lay_out(golden.codes("voice"), text, talk.spec), GREEDY, number)
    together: list[list[Any]] = [[], []]
    for frame in range(FRAMES):
        heard = {number: heard_of(user[:, frame]) for number, user in enumerate(users)}
        for number, reply in both.pipeline.run(heard).items():
            together[number].append(list(reply.tokens[:9]))
    assert together == alone
