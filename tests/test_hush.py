"""Silence on demand: it begins at once, and speech or twelve seconds end it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.hush import MAX_FRAMES, SPEECH_FRAMES, Hush
from personaplex_cli.samples import FRAME, SILENT_FRAME

LOUD = np.full(FRAME, 0.1, dtype=np.float32)


def test_nobody_asked_for_it() -> None:
    assert not Hush().on and not Hush().holds(LOUD)


@given(st.lists(st.booleans(), max_size=2 * MAX_FRAMES))
def test_it_lasts_until_the_user_has_spoken_for_a_moment_or_much_too_long(spoken: list[bool]) -> None:
    hush = Hush()
    hush.begin()
    held = [hush.holds(LOUD if loud else SILENT_FRAME) for loud in spoken]
    heard = "".join("s" if loud else "." for loud in spoken)
    speech = heard.find("s" * SPEECH_FRAMES)
    end = min(MAX_FRAMES - 1, speech + SPEECH_FRAMES - 1 if speech >= 0 else MAX_FRAMES)
    assert held == [index < end for index in range(len(spoken))]
    assert hush.on == (len(spoken) <= end)


def test_asked_again_it_begins_again() -> None:
    hush = Hush()
    hush.begin()
    for _ in range(MAX_FRAMES - 1):
        assert hush.holds(SILENT_FRAME)
    hush.begin()
    assert hush.holds(SILENT_FRAME) and hush.on
