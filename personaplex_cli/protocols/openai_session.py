"""The settings of a session of OpenAI's Realtime: what a client asks for, and what is in force."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from personaplex_cli.protocols.openai_wire import (
    PCM,
    VALID_SECONDS,
    Format,
    Rejected,
    format_of,
    new_id,
    object_of,
    whole_of,
)
from personaplex_cli.protocols.speech_turns import Rules

MAX_SILENCE_MS = 10_000
USUAL = Rules()
BETA_FORMATS = {"audio/pcm": "pcm16", "audio/pcmu": "g711_ulaw", "audio/pcma": "g711_alaw"}


@dataclass(frozen=True)
class Settings:
    id: str = field(default_factory=lambda: new_id("sess"))
    expires_at: int = field(default_factory=lambda: int(time.time()) + VALID_SECONDS)
    heard_in: Format = PCM
    said_in: Format = PCM
    rules: Rules | None = USUAL  # None: no turns of the user's are told
    transcribes: bool = False  # the client wants the user's words, which come only where the server has them

    def updated(self, session: Mapping[str, Any]) -> "Settings":
        """The same with what a client asks for, in the names of the general release or the beta's. Raises Rejected."""
        heard, said = object_of(session, "audio", "input"), object_of(session, "audio", "output")
        asked = [_rules(values) for values in (session, heard) if "turn_detection" in values]
        wanted = ((heard, "transcription"), (session, "input_audio_transcription"))
        words = [values[name] for values, name in wanted if name in values]
        return replace(
            self,
            heard_in=format_of(heard, "format") or format_of(session, "input_audio_format") or self.heard_in,
            said_in=format_of(said, "format") or format_of(session, "output_audio_format") or self.said_in,
            rules=asked[-1] if asked else self.rules,
            transcribes=bool(words[-1]) if words else self.transcribes,
        )

    def as_json(self, model: str, instructions: str, voice: str | None, beta: bool) -> dict[str, Any]:
        """The session as it is told to the client."""
        common = {
            "object": "realtime.session",
            "id": self.id,
            "model": model,
            "expires_at": self.expires_at,
            "instructions": instructions,
            "tools": [],
            "tool_choice": "none",
        }
        spoken = {"voice": voice} if voice else {}
        if beta:
            return {
                **common,
                **spoken,
                "modalities": ["audio", "text"],
                "input_audio_format": BETA_FORMATS[self.heard_in.type],
                "output_audio_format": BETA_FORMATS[self.said_in.type],
                "input_audio_transcription": None,
                "turn_detection": self._turn_detection,
                "max_response_output_tokens": "inf",
            }
        heard = {"turn_detection": self._turn_detection, "transcription": None, "noise_reduction": None}
        return {
            **common,
            "type": "realtime",
            "output_modalities": ["audio"],
            "audio": {
                "input": {"format": _format(self.heard_in), **heard},
                "output": {"format": _format(self.said_in), "speed": 1.0, **spoken},
            },
            "max_output_tokens": "inf",
            "tracing": None,
        }

    @property
    def _turn_detection(self) -> dict[str, Any] | None:
        if self.rules is None:
            return None
        rules = {"silence_duration_ms": self.rules.silence_ms, "interrupt_response": self.rules.interrupts}
        return {"type": "server_vad", "create_response": True, **rules}


def _format(format: Format) -> dict[str, Any]:
    return vars(format) if format.type == "audio/pcm" else {"type": format.type}


def _rules(values: Mapping[str, Any]) -> Rules | None:
    if values["turn_detection"] is None:
        return None
    asked = object_of(values, "turn_detection")
    if asked.get("type") not in ("server_vad", "semantic_vad", None):
        raise Rejected("There is no such detection of turns.", "invalid_value", "turn_detection.type")
    silence = min(MAX_SILENCE_MS, whole_of(asked, "silence_duration_ms")) or USUAL.silence_ms
    return Rules(max(1, silence), asked.get("interrupt_response") is not False)
