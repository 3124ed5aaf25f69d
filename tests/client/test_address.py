"""Addresses: what users write for a server becomes one URL, or an error that says how to write it."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from personaplex_cli.client.address import server_url
from personaplex_cli.client.engine import connect
from personaplex_cli.errors import UsageError
from personaplex_cli.options import RemoteOptions


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("gpu", "ws://gpu:8998/api/chat"),
        (" gpu.example.org \n", "ws://gpu.example.org:8998/api/chat"),
        ("10.0.0.7:9000", "ws://10.0.0.7:9000/api/chat"),
        ("::1", "ws://[::1]:8998/api/chat"),
        ("[fe80::1]:9000", "ws://[fe80::1]:9000/api/chat"),
        ("http://gpu/", "ws://gpu:8998/api/chat"),
        ("WS://GPU:80", "ws://gpu:80/api/chat"),
        ("https://abc.proxy.example.net", "wss://abc.proxy.example.net:443/api/chat"),
        ("wss://gpu:8998/#talk", "wss://gpu:8998/api/chat"),
        ("wss://gpu/moshi/api/chat?worker=2", "wss://gpu:443/moshi/api/chat?worker=2"),
        ("https://gpu:8998/?worker=2", "wss://gpu:8998/api/chat?worker=2"),
    ],
)
def test_what_people_write(written: str, url: str) -> None:
    assert server_url(written) == url


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "ftp://gpu",
        "gpu:port",
        "gpu:99999",
        "gpu:0",
        "ws://",
        "ws://me:secret@gpu",
        "a b",
        "http://[::1",
        "/tmp/x",
    ],
)
def test_what_is_no_address_is_told_with_a_remedy(written: str) -> None:
    with pytest.raises(UsageError) as caught:
        server_url(written)
    assert caught.value.hint and "secret" not in f"{caught.value} {caught.value.hint}"


hosts = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,5}){0,3}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)


@given(st.sampled_from(["", "ws://", "wss://", "http://", "https://"]), hosts, st.none() | st.integers(1, 65535))
def test_every_form_of_an_address_means_the_same_place(scheme: str, host: str, port: int | None) -> None:
    url = server_url(f"{scheme}{host}" + ("" if port is None else f":{port}"))
    tls = scheme in ("wss://", "https://")
    parts = urlsplit(url)
    assert parts.scheme == ("wss" if tls else "ws") and parts.path == "/api/chat"
    assert parts.hostname == host.strip("[]") and parts.port == (port or (443 if tls else 8998))
    assert server_url(url) == url


@given(st.text(max_size=40) | st.from_regex(r"(wss?://)?[a-z\[\]:.@/?#%0-9 ]{0,20}", fullmatch=True))
def test_anything_else_is_a_url_that_can_be_called_or_a_usage_error(written: str) -> None:
    try:
        url = server_url(written)
    except UsageError as error:
        assert error.hint
        return
    called = URL(url)
    assert called.scheme in ("ws", "wss") and called.host and called.port
    assert server_url(url) == url


@given(st.text(min_size=1, max_size=20))
def test_a_token_can_be_sent_or_is_refused(token: str) -> None:
    try:
        connect(RemoteOptions("gpu", token))
    except UsageError:
        assert not (token.isascii() and token.isprintable())
    else:
        assert "\n" not in token and "\r" not in token
