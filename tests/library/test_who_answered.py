"""Something that is no hub answers: a download says who it was, and what helps."""

import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fakehub import hub_at
from fakemodel import failure
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personaplex_cli.errors import NetworkError, PersonaplexError
from personaplex_cli.library.spec import PERSONAPLEX

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning"),
    pytest.mark.usefixtures("caches"),
]
PAGE = b"<!doctype html><html><body>Welcome to the hotel. Log in.</body></html>"


class Answers(BaseHTTPRequestHandler):
    """The same to every request."""

    status = 200
    body = b""
    kind = "application/json"
    more: dict[str, str] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        self.send_response(self.status)
        for name, value in {"Content-Type": self.kind, "Content-Length": str(len(self.body)), **self.more}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command not in ("HEAD", "CONNECT"):
            self.wfile.write(self.body)

    do_HEAD = do_CONNECT = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def answering(wrap: Callable[[Any], Any] = lambda socket: socket, **answer: Any) -> Iterator[int]:
    """A server on this machine; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answers,), answer))
    server.socket = wrap(server.socket)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def said(port: int, scheme: str = "http", host: str = "127.0.0.1") -> PersonaplexError:
    with hub_at(f"{scheme}://{host}:{port}"):
        error = failure()
    assert isinstance(error, NetworkError) and error.exit_code == 6 and error.hint
    return error


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": "x"}',
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"{}",
        b'{"id": "a/b", "sha": null}',
        b'{"id": "a/b", "sha": "../../../../up", "siblings": []}',
        b'{"id": "a/b", "siblings": 3}',
        b'{"id": "a/b", "siblings": [{"name": "x"}]}',
        b"",
        b"OK",
        b"[" * 100_000,
    ],
)
def test_a_hub_that_is_none(body: bytes) -> None:
    with answering(body=body) as port:
        assert "127.0.0.1 is not a Hugging Face hub" in str(error := said(port)) and "HF_ENDPOINT" in error.hint


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "sha", "siblings", "rfilename", "error", "gated"]), inner, max_size=5)
    ),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(JSON)
def test_any_json_is_no_bug(value: Any) -> None:
    with answering(body=json.dumps(value).encode()) as port, hub_at(f"http://127.0.0.1:{port}"):
        assert failure().exit_code in (3, 6)


@pytest.mark.parametrize("status", [200, 511])
def test_a_log_in_page(status: int) -> None:
    with answering(status=status, body=PAGE, kind="text/html") as port:
        assert "log-in page" in str(error := said(port)) and "browser" in error.hint


def test_a_page_to_which_everything_is_sent_on() -> None:
    with (
        answering(body=PAGE, kind="text/html") as page,
        answering(status=302, more={"Location": f"http://127.0.0.1:{page}/login"}) as port,
    ):
        assert "log-in page" in str(said(port))


def test_a_web_server_without_a_hub_is_not_called_hugging_face() -> None:
    with answering(status=404, body=PAGE, kind="text/html") as port:
        assert "127.0.0.1 answers with error 404" in str(said(port))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    with answering(status=407, body=PAGE) as port:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://me:secret@127.0.0.1:{port}")
        error = said(443, scheme, "hub.example")
    assert f"proxy 127.0.0.1:{port} wants a name and a password" in str(error) and "HTTPS_PROXY" in error.hint
    assert "secret" not in f"{error} {error.hint}"


def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("https_proxy", "http://me:secret@127.0.0.1:9")
    error = said(443, "https", "hub.example")
    assert "proxy 127.0.0.1:9 does not lead to hub.example" in str(error) and "secret" not in str(error)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    what = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=inspector", "-days", "1"]
    try:
        subprocess.run(
            ["openssl", "req", "-x509", *what, "-keyout", path, "-out", path.with_name("cert.pem")],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl")
    path.write_text(path.read_text() + path.with_name("cert.pem").read_text())
    return path


def test_a_certificate_of_an_inspector(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with answering(lambda socket: context.wrap_socket(socket, server_side=True), body=b"{}") as port:
        error = said(port, "https")
    assert "certificate" in str(error) and "self-signed" in str(error) and "REQUESTS_CA_BUNDLE" in error.hint


def test_a_server_without_tls() -> None:
    with answering(body=b"{}") as port:
        assert "does not speak TLS" in str(said(port, "https"))


def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    with answering() as port:
        error = said(port, "https")
    assert "/nowhere.pem" in str(error) and "REQUESTS_CA_BUNDLE" in str(error)


@pytest.mark.parametrize("size", ["-5", "9" * 30, "many", "1e9", str(2**50)])
def test_a_size_that_no_file_has(size: str) -> None:
    """It would be compared with the disk, and said to the user."""
    names = [{"rfilename": name} for name in PERSONAPLEX.needed_files]
    body = json.dumps({"id": "a/b", "sha": "c0ffee" + "0" * 34, "siblings": names}).encode()
    about = {"ETag": '"abc"', "X-Linked-Etag": '"abc"', "X-Linked-Size": size, "X-Repo-Commit": "c0ffee" + "0" * 34}
    with answering(body=body, more=about) as port:
        assert "127.0.0.1 is not a Hugging Face hub" in str(said(port))
