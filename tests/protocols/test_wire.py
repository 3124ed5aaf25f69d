"""Moshi's bytes: what is packed comes out again, and nothing that arrives can do harm."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaplex_cli.errors import UsageError
from personaplex_cli.protocols.wire import (
    Action,
    Control,
    Failure,
    Handshake,
    Message,
    Metadata,
    Ping,
    Request,
    Sound,
    WireError,
    Words,
    pack,
    unpack,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.one_of(
    st.builds(Handshake),
    st.builds(Sound, st.binary()),
    st.builds(Words, st.text()),
    st.builds(Control, st.sampled_from(Action)),
    st.builds(Metadata, st.dictionaries(st.text(), JSON, max_size=4)),
    st.builds(Failure, st.text()),
    st.builds(Ping),
)
TEXT = st.none() | st.text(min_size=1)
TEMPERATURE = st.none() | st.floats(allow_nan=False)
WHOLE = st.none() | st.integers(min_value=0)
REQUESTS = st.builds(
    Request, TEXT, TEXT, TEXT, WHOLE, TEMPERATURE, st.none() | st.integers(), TEMPERATURE, st.none() | st.integers()
)


@given(MESSAGES)
def test_what_is_packed_comes_out_again(message: Message) -> None:
    assert unpack(pack(message)) == message


@given(st.binary())
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    with suppress(WireError):
        message = unpack(data)
        assert (message is None) == (data[0] > 6)


@given(st.integers(0, 6), st.binary())
def test_contents_of_every_kind_may_be_anything(kind: int, contents: bytes) -> None:
    with suppress(WireError):
        assert unpack(bytes([kind]) + contents) is not None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00", Handshake()),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00\x00", Handshake()),  # as the Rust server greets
        (b"\x01OggS", Sound(b"OggS")),
        (b"\x02 h\xc3\xa9", Words(" hé")),
        (b"\x02 h\xc3", Words(" h\ufffd")),
        (b"\x03\x02", Control(Action.PAUSE)),
        (b'\x04{"a": 1}', Metadata({"a": 1})),
        (b"\x05no", Failure("no")),
        (b"\x06", Ping()),
        (b"\x07whatever", None),
    ],
)
def test_the_bytes_are_the_official_ones(data: bytes, message: Message | None) -> None:
    assert unpack(data) == message


@pytest.mark.parametrize(
    "data", [b"", b"\x03", b"\x03\x04", b"\x04", b"\x04{", b"\x04[]", b"\x04\xff{}", b"\x04" + b"[" * 100_000]
)
def test_what_makes_no_sense_is_an_error(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack(data)


def test_what_no_browser_could_read_is_not_sent() -> None:
    with pytest.raises(ValueError):
        pack(Metadata({"step_ms": float("nan")}))


@given(REQUESTS)
def test_what_is_asked_arrives(request: Request) -> None:
    assert Request.from_query(request.to_query()) == request


@given(st.dictionaries(st.sampled_from(list(Request("v", "p", "t", 1, 1, 1, 1, 1).to_query())), st.text()))
def test_any_query_is_understood_or_an_error(query: dict[str, str]) -> None:
    with suppress(UsageError):
        Request.from_query(query)


def test_the_official_client_is_understood() -> None:
    """Every parameter that NVIDIA's web client sends."""
    query = {
        "worker_auth_id": "x",
        "text_temperature": "0.7",
        "text_topk": "25",
        "audio_temperature": "0.8",
        "audio_topk": "250",
        "pad_mult": "0",
        "text_seed": "123",
        "audio_seed": "456",
        "repetition_penalty_context": "64",
        "repetition_penalty": "1",
        "text_prompt": "You enjoy having a good conversation.",
        "voice_prompt": "NATF0.pt",
    }
    prompt = "You enjoy having a good conversation."
    assert Request.from_query(query) == Request("NATF0", None, prompt, None, 0.7, 25, 0.8, 250)


@pytest.mark.parametrize(
    ("slip", "meant"), [("persna", "persona"), ("voce", "voice"), ("text_top_k", "text_topk"), ("Prompt", "prompt")]
)
def test_a_slip_in_a_name_is_an_error(slip: str, meant: str) -> None:
    with pytest.raises(UsageError, match=slip) as error:
        Request.from_query({slip: "chef"})
    assert f"{meant!r}" in error.value.hint


def test_nothing_empty_and_no_seed_count_as_nothing_asked() -> None:
    names = ("voice", "voice_prompt", "text_prompt", "persona", "seed", "text_topk", "audio_temperature")
    assert Request.from_query(dict.fromkeys(names, "")) == Request()
    assert Request.from_query({"seed": "-1"}) == Request()
    assert Request().to_query() == Request("", "", "").to_query() == {}


@pytest.mark.parametrize("query", [{"seed": "x"}, {"seed": "1.5"}, {"text_topk": "ten"}, {"audio_temperature": "warm"}])
def test_a_wrong_number_is_called_by_its_name(query: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(query))) as error:
        Request.from_query(query)
    assert error.value.hint


ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.text("a9", min_size=70, max_size=5_000)


@given(ANY_TEXT, st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=2))
def test_any_text_can_be_sent(text: str, values: dict[str, str]) -> None:
    """Also half a character, as names of files and answers of models may have it."""
    assert isinstance(unpack(pack(Words(text))), Words) and isinstance(unpack(pack(Failure(text))), Failure)
    assert isinstance(unpack(pack(Metadata(values))), Metadata)


@given(
    st.dictionaries(st.sampled_from(["voice", "voice_prompt", "persona", "prompt", "text_prompt", "seed"]), ANY_TEXT)
)
def test_a_request_is_text_of_a_bearable_length_or_refused(query: dict[str, str]) -> None:
    try:
        request = Request.from_query(query)
    except UsageError as error:
        assert len(str(error)) < 300
        assert str(error).encode()
    else:
        assert all(len(each.encode()) <= 4 * 80 for each in (request.voice, request.persona) if each)
        assert len((request.prompt or "").encode()) <= 4 * 4_000
