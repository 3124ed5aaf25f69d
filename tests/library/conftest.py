"""A fake hub and the model that it serves."""

import gc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakehub import FakeHub
from fakemodel import CHUNK, write_model
from huggingface_hub.utils import reset_sessions

from personaplex_cli.library import hub as hub_module


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Caches of our own, no token, no waiting."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub_module, "POLL", 0.005)
    monkeypatch.setattr(hub_module, "PAUSE", 0.0)
    monkeypatch.setattr(hub_module, "CHUNK", CHUNK)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    yield
    reset_sessions()
    gc.collect()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "models--nvidia--personaplex-7b-v1"


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """The folder of the model that the hub serves."""
    return write_model(tmp_path / "origin")


@pytest.fixture
def hub(origin: Path) -> Iterator[FakeHub]:
    with FakeHub(origin) as hub:
        yield hub
