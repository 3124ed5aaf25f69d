"""A small Hugging Face hub on this machine: one repo, whose files are those of a folder.

In tests: `with FakeHub(folder, mode="gated") as hub: download(...)`. It counts the requests and the bytes of files
that it served, and can cut or hold connections. By hand:

    python tests/fakehub.py --folder DIR --repo ORG/NAME --mode gated
    HF_ENDPOINT=http://127.0.0.1:8000 HF_HOME=/tmp/hf personaplex download --model ORG/NAME

Paths, headers and messages are those that huggingface_hub 0.36 asks for and that the hub gave in 2026.
"""

import argparse
import asyncio
import contextlib
import hashlib
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from unittest import mock

from aiohttp import web

TOKEN = "hf_the_good_token_of_the_fake_hub"
COMMIT = "c0ffee" + "0" * 34
BLOCK = 1 << 16

# mode -> status, error code, message of its answer to whoever asks for a file
REFUSALS = {
    "unaccepted": (
        403,
        "GatedRepo",
        "Access to model {repo} is restricted and you are not in the authorized list. "
        "Visit https://huggingface.co/{repo} to ask for access.",
    ),
    "pending": (403, "GatedRepo", "Your request to access model {repo} is awaiting a review from the repo authors."),
    "fine-grained": (
        403,
        "",
        "Please enable access to public gated repositories in your fine-grained token settings "
        "to view this repository.",
    ),
    "disabled": (403, "", "Access to this resource is disabled."),
    "vanished": (404, "EntryNotFound", "Entry not found"),
    "unavailable": (503, "", "Service Unavailable"),
    "broken": (500, "", "Internal Error"),  # only once the file itself is wanted
}
LOG_IN = (
    401,
    "GatedRepo",
    "Access to model {repo} is restricted. You must have access to it and be authenticated to access it. "
    "Please log in.",
)
BAD_CREDENTIALS = (401, "", "Invalid credentials in Authorization header")
PATHS = "/{repo_id}/resolve/{revision}/{filename}"  # as huggingface_hub fills them in
MODES = ("open", "gated", "slow", "flaky", *REFUSALS)


@dataclass(frozen=True)
class Asked:
    """A request that the hub got; `start` is the first byte wanted."""

    method: str
    path: str
    start: int


@contextlib.contextmanager
def hub_at(url: str) -> Iterator[None]:
    """Let huggingface_hub of this process take the hub to be there; it reads HF_ENDPOINT only when imported."""
    with (
        mock.patch("huggingface_hub.constants.ENDPOINT", url),
        mock.patch("huggingface_hub.hf_api.api.endpoint", url),
        mock.patch("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", url + PATHS),
    ):
        yield


@dataclass
class FakeHub:
    """The hub. `mode` is one of MODES, and may be changed while it runs.

    `cuts`: how many bytes each of the next downloads of a file may have before its connection is cut. A download that
    reaches `hold_after` bytes waits until `go_on` is set. `short` bytes are missing at the end of every file.
    """

    folder: Path
    repo: str = "nvidia/personaplex-7b-v1"
    mode: str = "open"
    port: int = 0
    commit: str = COMMIT
    cuts: list[int] = field(default_factory=list)
    hold_after: int | None = None
    short: int = 0
    asked: list[Asked] = field(default_factory=list)
    served: int = 0
    go_on: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "FakeHub":
        ready: Future[int] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        self.port = ready.result(timeout=30)
        self._here = contextlib.ExitStack()
        self._here.enter_context(hub_at(self.url))
        return self

    def __exit__(self, *_: object) -> None:
        self._here.close()
        self.go_on.set()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def downloads(self, name: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == "GET" and asked.path.endswith(f"/{name}")]

    def blob(self, name: str) -> str:
        """The name under which huggingface_hub stores the file."""
        path = self.folder / name
        return fingerprint(path, path.stat().st_mtime_ns)

    def _run(self, ready: "Future[int]") -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve(ready))

    async def _serve(self, ready: "Future[int]") -> None:
        self._over = asyncio.Event()
        app = web.Application(middlewares=[self._door])
        app.router.add_get("/api/whoami-v2", self._who)
        app.router.add_get("/api/models/{org}/{name}", self._about)
        app.router.add_get("/api/models/{org}/{name}/auth-check", self._check)
        app.router.add_get("/api/models/{org}/{name}/revision/{revision:.+}", self._about)
        app.router.add_get("/{org}/{name}/resolve/{revision}/{path:.+}", self._file)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", self.port)
            await site.start()
            ready.set_result(runner.addresses[0][1])
            await self._over.wait()
        except OSError as error:
            ready.set_exception(error)
        finally:
            await runner.cleanup()

    @web.middleware
    async def _door(self, request: web.Request, handler) -> web.StreamResponse:
        """Note who comes; turn away bad tokens, and questions for what is not here."""
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        request["start"] = start
        self.asked.append(Asked(request.method, request.path, start))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN):
            return self._refuse(*BAD_CREDENTIALS)
        parts = request.match_info
        if request.path == "/api/whoami-v2":
            return await handler(request)
        if f"{parts.get('org')}/{parts.get('name')}" != self.repo:
            missing = (404, "RepoNotFound", "Repository not found")
            return self._refuse(*(missing if token else (401, "", "Invalid username or password.")))
        if parts.get("revision", "main") not in ("main", self.commit):
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {parts['revision']}")
        return await handler(request)

    async def _about(self, request: web.Request) -> web.StreamResponse:
        names = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return web.json_response(
            {"id": self.repo, "sha": self.commit, "siblings": [{"rfilename": name} for name in names]}
        )

    async def _who(self, request: web.Request) -> web.StreamResponse:
        if "Authorization" not in request.headers:
            return self._refuse(*BAD_CREDENTIALS)
        return web.json_response({"name": "ada", "auth": {"accessToken": {"displayName": "talk", "role": "read"}}})

    async def _check(self, request: web.Request) -> web.StreamResponse:
        return self._refuse(*REFUSALS[self.mode]) if self.mode in REFUSALS else web.json_response({})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = self.folder / request.match_info["path"]
        if self.mode in REFUSALS and (self.mode, request.method) != ("broken", "HEAD"):
            return self._refuse(*REFUSALS[self.mode])
        if self.mode == "gated" and "Authorization" not in request.headers:
            return self._refuse(*LOG_IN)
        if not path.is_file():
            return self._refuse(404, "EntryNotFound", "Entry not found")
        start, size = request["start"], path.stat().st_size
        if start > size:
            return self._refuse(416, "", "Range not satisfiable")
        response = web.StreamResponse(status=206 if start else 200, headers=self._headers(path, size, start))
        response.content_length = max(size - self.short, start) - start if request.method == "GET" else size
        await response.prepare(request)
        if request.method == "GET":
            await self._send(request, response, path, start, start + response.content_length)
        return response

    def _headers(self, path: Path, size: int, start: int) -> dict[str, str]:
        blob = self.blob(path.name)
        headers = {
            "X-Repo-Commit": self.commit,
            "ETag": f'"{blob}"',
            "X-Linked-Etag": f'"{blob}"',
            "X-Linked-Size": str(size),
            "Accept-Ranges": "bytes",
            # The real hub offers Xet for its large files; there is none here, so whoever takes the offer fails.
            "X-Xet-Hash": blob,
            "X-Xet-Refresh-Route": f"{self.url}/api/models/{self.repo}/xet-read-token/{self.commit}",
        }
        return {**headers, "Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else headers

    async def _send(self, request: web.Request, response: web.StreamResponse, path: Path, at: int, end: int) -> None:
        cut = self._cut_after(end - at)
        with path.open("rb") as file, contextlib.suppress(ConnectionResetError):  # whoever asked may have left
            file.seek(at)
            sent = 0
            while sent < min(cut, end - at):
                block = file.read(min(BLOCK, min(cut, end - at) - sent))
                await response.write(block)
                sent += len(block)
                self.served += len(block)
                if self.mode == "slow":
                    await asyncio.sleep(BLOCK / 1e6)  # a megabyte a second
                while self.hold_after is not None and sent >= self.hold_after and not self.go_on.is_set():
                    await asyncio.sleep(0.01)
        if cut < end - at and request.transport:
            request.transport.close()

    def _cut_after(self, size: int) -> int:
        if self.mode == "flaky":
            return max(size // 3, min(size, 4 * BLOCK))
        return self.cuts.pop(0) if self.cuts and self.cuts[0] < size else size

    def _refuse(self, status: int, code: str, message: str) -> web.Response:
        message = message.format(repo=self.repo)
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        return web.Response(status=status, headers=headers, text=message)


@lru_cache
def fingerprint(path: Path, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A fake Hugging Face hub with one repo.")
    parser.add_argument("--folder", type=Path, required=True, help="whose files it serves")
    parser.add_argument("--repo", default=FakeHub.repo)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--mode", choices=MODES, default="open")
    options = parser.parse_args(None if arguments is None else list(arguments))
    with FakeHub(options.folder, options.repo, options.mode, options.port) as hub:
        print(f"{hub.url} serves {options.repo} from {options.folder} ({options.mode}; the good token is {TOKEN})")
        print(f"export HF_ENDPOINT={hub.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)


if __name__ == "__main__":
    main()
