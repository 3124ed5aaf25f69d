"""A fake sound card for every test here."""

from collections.abc import Callable

import pytest
from fakecard import FakeCard, plug_in


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCard]:
    return lambda **settings: plug_in(FakeCard(**settings), monkeypatch)
