"""Who speaks: what no model could read is refused where it is given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.character import MAX_PROMPT, Character
from personaplex_cli.errors import UsageError
from personaplex_cli.lookup import find_character, find_named_character
from personaplex_cli.options import CharacterOptions

anything = st.text(st.characters(exclude_categories=())) | st.text(st.characters(categories=["Cs"]), min_size=1)


@given(anything)
def test_a_prompt_is_text_that_can_be_written(prompt: str) -> None:
    try:
        encoded = prompt.encode()
    except UnicodeEncodeError:
        with pytest.raises(UsageError, match="UTF-8") as caught:
            Character("a custom persona", prompt, "NATF2", "NATF2.pt")
        assert caught.value.hint and str(caught.value).encode()  # the sentence itself can be shown
    else:
        assert Character("a custom persona", prompt, "NATF2", "NATF2.pt").prompt.encode() == encoded


def test_a_prompt_of_a_megabyte_is_refused_before_it_is_read() -> None:
    assert Character("a custom persona", "a" * MAX_PROMPT, "NATF2", "NATF2.pt")
    with pytest.raises(UsageError, match="1,000,000 characters"):
        Character("a custom persona", "a" * 1_000_000, "NATF2", "NATF2.pt")


@pytest.mark.parametrize("prompt", ["\ud800", "caf\udce9"])
def test_such_a_prompt_is_refused_at_the_door(prompt: str) -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        find_character(CharacterOptions(prompt=prompt))
    with pytest.raises(UsageError, match="UTF-8"):
        find_named_character(CharacterOptions(prompt=prompt), None, Character("", "", "", "").sampling)
