"""What is asked over plain HTTP: how the server is, whether it takes one more, what it offers, its figures."""

import asyncio
import time
from dataclasses import asdict

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from personaplex_cli import __version__
from personaplex_cli.character import Character, Sampling
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.library.catalog import Persona, Voice, personas, voices
from personaplex_cli.options import ModelOptions
from personaplex_cli.protocols.wire import PATH
from personaplex_cli.server.access import base_url
from personaplex_cli.server.admission import LOADING, SHUTDOWN, Admission
from personaplex_cli.server.host import Host
from personaplex_cli.server.site import Site

RETRY = {"Retry-After": "5"}  # seconds after which one who is refused may try again


class Answers:
    """`add` them to an application. `default` is who talks with clients that choose nobody."""

    def __init__(self, site: Site, admission: Admission, host: Host, model: ModelOptions, default: Character) -> None:
        self._site = site
        self._admission = admission
        self._host = host
        self._model = model
        self._name = model.model_name
        self._default = default
        self._began = time.monotonic()

    def add(self, app: web.Application) -> None:
        app.router.add_get("/health", self._get_health)
        app.router.add_get("/ready", self._get_ready)
        app.router.add_get("/livez", self._get_livez)
        app.router.add_get("/api/info", self._get_info)
        app.router.add_get("/metrics", self._get_metrics)

    def usable(self) -> tuple[list[Persona], list[Voice]]:
        """Personas and voices; the owner learns of those that are left out. Runs in a thread: folders may be slow."""

        def leave_out(error: PersonaplexError) -> None:
            self._host.note_once(f"Left out: {error} {error.hint}".strip())

        return personas(leave_out), voices(leave_out)

    async def _get_health(self, request: web.Request) -> web.Response:
        places, metrics = self._admission, self._host.metrics
        state = "ready" if places.talking < places.room else "busy"
        if places.closed:
            state = "draining" if places.closed is SHUTDOWN else places.closed.reason
        sessions = {"active": places.talking, "slots": places.slots, "waiting": places.waiting}
        health = {
            "state": state,
            "model": self._name,
            "sessions": sessions | {"served": metrics.served, "refused": metrics.refused},
            "uptime": round(time.monotonic() - self._began, 1),
        }
        return web.json_response(health, status=503 if places.closed is LOADING else 200)

    async def _get_ready(self, request: web.Request) -> web.Response:
        """Whether one more would be let in, to talk or to wait."""
        if refusal := self._admission.refusal():
            return web.json_response({"state": refusal.reason, "message": refusal.what}, status=503, headers=RETRY)
        return web.json_response({"state": "ready"})

    async def _get_livez(self, request: web.Request) -> web.Response:
        return web.json_response({"state": "alive"})

    async def _get_info(self, request: web.Request) -> web.Response:
        self._site.check_token(request)
        there_are, can_speak = await asyncio.to_thread(self.usable)
        base = f"ws{'s' if request.secure else ''}:{base_url(request)}"
        info = {
            "personaplex": __version__,
            "model": self._name,
            "note": self._model.note,
            "max_minutes": self._host.options.max_minutes,
            "recorded": self._host.options.record is not None,
            "transcribed": bool(self._host.options.asr),  # the clients' words are written down
            "persona": self._default.persona,
            "voice": self._default.voice,
            "personas": [
                {"name": each.name, "description": each.description, "voice": each.voice, "prompt": each.prompt}
                for each in there_are
            ],
            "voices": [{"name": each.name, "description": each.description} for each in can_speak],
            "sampling": {key: value for key, value in asdict(Sampling()).items() if key not in ("seed", "greedy")},
            "sockets": {
                "moshi": base + PATH,
                "pcm": f"{base}/pcm",
                "interview": f"{base}/ws",
                "twilio": f"{base}/twilio",
                "openai_realtime": f"{base}/v1/realtime",
                "openai_live": f"{base}/v1/live/sessions",
            },
        }
        return web.json_response(info)

    async def _get_metrics(self, request: web.Request) -> web.Response:
        self._site.check_token(request)
        places, metrics = self._admission, self._host.metrics
        metrics.ready.set(places.closed is None)
        metrics.slots.set(places.slots)
        metrics.talking.set(places.talking)
        metrics.waiting.set(places.waiting)
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
