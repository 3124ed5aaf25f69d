"""What all visits to a server share."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from personaplex_cli.audio.recording import check_place
from personaplex_cli.character import Sampling
from personaplex_cli.library.catalog import personas, voices
from personaplex_cli.lookup import Character, choose_by_name, fresh_seed
from personaplex_cli.protocols.wire import Request
from personaplex_cli.server.metrics import Metrics
from personaplex_cli.worker import ModelWorker


@dataclass(frozen=True)
class Terms:
    """Who talks where a client asks for nobody, how many clients may wait, how long one may talk, where talks are kept.

    Without a `voice` it is the persona's, without `max_minutes` there is no end, without `record` nothing is kept.
    """

    persona: str
    voice: str | None = None
    queue: int = 0
    max_minutes: float | None = None
    record: Path | None = None

    def check(self) -> None:
        """See now what clients would run into. Raises UsageError for spoiled personas and voices, AudioError for a
        folder that cannot be written."""
        voices()
        personas()
        if self.record is not None:
            check_place(self.record / "conversation.wav")


@dataclass(frozen=True)
class House:
    """The model, the terms, what is counted."""

    desk: ModelWorker
    terms: Terms
    figures: Metrics

    def character(self, request: Request) -> Character:
        """Whom a client asks for. Raises UsageError for names that do not exist and numbers out of range."""
        wanted: dict[str, Any] = {
            "audio_temperature": request.audio_temperature,
            "audio_top_k": request.audio_top_k,
            "text_temperature": request.text_temperature,
            "text_top_k": request.text_top_k,
            "seed": fresh_seed() if request.seed is None else request.seed,
        }
        sampling = replace(Sampling(), **{name: value for name, value in wanted.items() if value is not None})
        persona = request.persona or self.terms.persona
        return choose_by_name(persona, request.prompt, request.voice, self.terms.voice, sampling)
