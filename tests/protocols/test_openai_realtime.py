"""OpenAI's Realtime alone: the orders of its events, what is in force, and that no event makes an exception."""

import gc
import sys
import tracemalloc
from base64 import b64decode, b64encode
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocols_openai import VALUES, append, events, is_answered, say, sent

from personaplex_cli.errors import UsageError
from personaplex_cli.events import Began, Step, UserWords
from personaplex_cli.protocols.adapter import Begin, Did, StopSpeaking, Upgrade
from personaplex_cli.protocols.openai_items import MAX_CONTENT, MAX_ITEMS, MAX_KEPT
from personaplex_cli.protocols.openai_live import OpenAILive
from personaplex_cli.protocols.openai_realtime import ANSWER_SECONDS, SETTLED, UNSETTLED, OpenAIRealtime
from personaplex_cli.protocols.openai_wire import OpenAIAdapter
from personaplex_cli.protocols.wire import MAX_PROMPT, Request, WireError
from personaplex_cli.samples import FRAME, SILENT_FRAME

SOUND = np.full(FRAME, 0.1, dtype=np.float32)
BEGAN = Began("a custom persona", "NATM1", "demo", "cpu", "fp32", 3, 92, 3000)
KINDS = ["session.update", "response.create", "response.cancel"]
KINDS += [f"input_audio_buffer.{deed}" for deed in ("append", "commit", "clear")]
KINDS += [f"conversation.item.{deed}" for deed in ("create", "truncate", "delete", "retrieve")]
BETA = {"OpenAI-Beta": "realtime=v1"}


class Talk:
    """An adapter with a conversation that has begun; `hear` frames, in which # is speech."""

    def __init__(self, headers: dict[str, str] | None = None, **session: Any) -> None:
        self.adapter = OpenAIRealtime()
        (self.created,) = sent(self.adapter.open(Upgrade({"model": "m"}, headers or {})))
        say(self.adapter, "session.update", session=session)
        (self.begin,) = [*self.adapter.tick(100.0), *self.adapter.tick(100.0 + SETTLED)]
        (self.updated,) = sent(self.adapter.encode(BEGAN))
        self.frame = 0

    def hear(self, user: str, agent: str) -> list[dict[str, Any]]:
        told = []
        for heard, said in zip(user, agent, strict=True):
            loud = said == "#"
            told += sent(self.adapter.encode(SOUND if loud else SILENT_FRAME))
            levels = -20.0 if heard == "#" else -80.0, -20.0 if loud else -80.0
            told += sent(self.adapter.encode(Step(self.frame, " word" * loud, *levels, None)))
            self.frame += 1
        return told

    def say(self, kind: str, **values: Any) -> list[dict[str, Any]]:
        return sent(say(self.adapter, kind, **values))


def order(told: list[dict[str, Any]]) -> list[str]:
    """The types, repeated ones once."""
    kinds = [event["type"] for event in told if not event["type"].endswith("delta")]
    assert len({event["event_id"] for event in told}) == len(told)
    return kinds


BEGINNING = ["response.created", "response.output_item.added", "conversation.item.added", "response.content_part.added"]
END = ["response.output_audio.done", "response.output_audio_transcript.done", "response.content_part.done"]
END += ["conversation.item.done", "response.output_item.done", "response.done"]
USER = ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed"]
USER += ["conversation.item.added", "conversation.item.done"]


@given(st.lists(events(KINDS) | st.text() | st.binary(), max_size=8))
def test_any_message_is_understood_or_refused(messages: list[str | bytes]) -> None:
    talk = Talk()
    for message in messages:
        is_answered(talk.adapter, message)
        talk.hear("#", "#")
    assert talk.hear("-" * 40, "#" + "-" * 39)  # it goes on
    list(talk.adapter.tick(1e6))


@given(st.dictionaries(st.sampled_from(["audio", "turn_detection", "voice", "instructions", "tools"]), VALUES))
def test_any_session_is_taken_whole_or_not_at_all(session: dict[str, Any]) -> None:
    talk = Talk()
    (told,) = talk.say("session.update", session=session)
    before = {**talk.updated["session"], "audio": None, "instructions": None}
    assert told["type"] in ("session.updated", "error")
    if told["type"] == "session.updated":
        assert {**told["session"], "audio": None, "instructions": None} == before


def test_a_turn_of_each_in_the_order_that_clients_expect() -> None:
    talk = Talk()
    told = talk.hear("-####" + "-" * 30, "-" * 15 + "####" + "-" * 16)
    assert order(told) == [*USER, *BEGINNING, *END]
    by_kind = {event["type"]: event for event in told}
    started, stopped = by_kind[USER[0]], by_kind[USER[1]]
    assert (started["audio_start_ms"], stopped["audio_end_ms"]) == (80, 960)
    done = by_kind["response.done"]["response"]
    assert (done["status"], done["status_details"], done["metadata"]) == ("completed", None, None)
    (item,) = done["output"]
    assert item["content"] == [{"type": "output_audio", "transcript": "word word word word"}]
    deltas = [event for event in told if event["type"] == "response.output_audio.delta"]
    assert sum(len(b64decode(event["delta"])) for event in deltas) == (2 + 4 + 10) * 2 * FRAME
    assert {event["item_id"] for event in deltas} == {item["id"]}
    items = [event for event in told if event["type"] == "conversation.item.added"]
    assert [event["previous_item_id"] for event in items] == [None, started["item_id"]]
    assert items[0]["item"]["content"] == [{"type": "input_audio", "transcript": None}]


def test_who_interrupts_ends_the_response_and_is_told_before_it() -> None:
    talk = Talk()
    told = talk.hear("#" * 8, "#" * 8)
    assert order(told) == [*BEGINNING, USER[0], *END]
    done = told[-1]["response"]
    assert (done["status"], done["output"][0]["status"]) == ("cancelled", "incomplete")
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}


def test_without_detection_of_turns_the_agent_talks_and_the_user_has_none() -> None:
    talk = Talk(audio={"input": {"turn_detection": None}})
    assert talk.updated["session"]["audio"]["input"]["turn_detection"] is None
    assert order(talk.hear("#" * 20, "#" * 10 + "-" * 10)) == [*BEGINNING, *END]
    assert order(talk.say("input_audio_buffer.commit")) == USER[2:]
    assert order(talk.say("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]


def test_a_cancelled_response_is_hushed_and_ends_and_another_one_cannot_be() -> None:
    talk = Talk()
    talk.hear("---", "###")
    outs = say(talk.adapter, "response.cancel")
    assert outs[0] == StopSpeaking() and order(sent(outs)) == END
    assert sent(outs)[-1]["response"]["status_details"]["reason"] == "client_cancelled"
    assert talk.hear("-" * 4, "##--") == []
    (error,) = talk.say("response.cancel", event_id="e9")
    assert error["error"].items() >= {"code": "response_cancel_not_active", "event_id": "e9"}.items()
    assert error["error"]["message"].startswith("Cancellation failed")


def test_who_asks_for_a_response_finds_its_metadata_in_the_next_one_or_in_an_empty_one() -> None:
    talk = Talk()
    assert talk.say("response.create", response={"metadata": {"client_event_id": "c1", "x": 5}}) == []
    (error,) = talk.say("response.create")
    assert error["error"]["code"] == "conversation_already_has_active_response"
    told = talk.hear("-", "#")
    (error,) = talk.say("response.create", response={"conversation": "none", "metadata": {"client_event_id": "x"}})
    assert error["error"]["code"] == "conversation_already_has_active_response"
    told += talk.hear("-" * 19, "-" * 19)
    assert {event["response"]["metadata"]["client_event_id"] for event in told if "response" in event} == {"c1"}
    talk.say("response.create", response={"metadata": {"client_event_id": "c2"}})
    assert list(talk.adapter.tick(200.0)) == list(talk.adapter.tick(200.0 + ANSWER_SECONDS - 0.1)) == []
    told = sent(talk.adapter.tick(200.0 + ANSWER_SECONDS))
    assert order(told) == ["response.created", "response.done"]
    assert told[-1]["response"].items() >= {"status": "completed", "metadata": {"client_event_id": "c2"}}.items()
    assert list(talk.adapter.tick(300.0)) == []


def test_the_model_begins_when_updates_have_settled() -> None:
    adapter = OpenAIRealtime()
    list(adapter.open(Upgrade({"seed": "3"})))
    assert list(adapter.tick(10.0)) == []
    (told,) = sent(say(adapter, "session.update", session={"audio": {"output": {"voice": "marin"}}}))
    assert "voice" not in told["session"]["audio"]["output"]  # told when the model hears: which one it is
    assert list(adapter.tick(10.2)) == list(adapter.tick(10.4)) == []
    say(adapter, "session.update", session={"instructions": "You cook."})
    assert list(adapter.tick(10.5)) == []
    begin = Begin(Request("marin", prompt="You cook.", seed=3), any_voice=True)
    assert list(adapter.tick(10.5 + SETTLED)) == [begin] and list(adapter.tick(11.5)) == []
    restless, now = OpenAIRealtime(), 10.0
    list(restless.open(Upgrade({})))
    while not list(restless.tick(now)):
        say(restless, "session.update", session={"instructions": str(now)})
        now += 0.1
    assert 10 + UNSETTLED <= now < 10.2 + UNSETTLED


def test_who_talks_can_change_until_the_first_word_and_stays_then() -> None:
    talk = Talk(instructions="You cook.")
    assert talk.begin == Begin(Request(prompt="You cook."), any_voice=True)
    assert talk.updated["session"]["audio"]["output"]["voice"] == "NATM1"
    (told,) = talk.say("session.update", session={"instructions": "You sing."})
    assert told["session"]["instructions"] == "You sing." and "voice" not in told["session"]["audio"]["output"]
    assert talk.hear("---", "###") == []  # of one who has been replaced
    assert [*talk.adapter.tick(200.0), *talk.adapter.tick(201.0)] == [Begin(Request(prompt="You sing."), True)]
    (told,) = sent(talk.adapter.encode(BEGAN))
    assert told["session"]["audio"]["output"]["voice"] == "NATM1"
    assert talk.hear("---", "###")
    (told,) = talk.say("session.update", session={"instructions": "You sew.", "voice": "NATF1"})
    assert told["session"]["instructions"] == "You sing."
    assert told["session"]["audio"]["output"]["voice"] == "NATM1"
    assert [*talk.adapter.tick(300.0), *talk.adapter.tick(301.0)] == []


@pytest.mark.parametrize(("format", "bytes_"), [("audio/pcm", 2 * FRAME), ("audio/pcmu", FRAME // 3)])
def test_formats_are_those_that_were_asked_for_in_and_out_apart(format: str, bytes_: int) -> None:
    talk = Talk(audio={"input": {"format": {"type": "audio/pcma"}}, "output": {"format": {"type": format}}})
    audio = talk.updated["session"]["audio"]
    assert audio["input"]["format"] == {"type": "audio/pcma"}
    assert audio["output"]["format"] == {"type": format, **({"rate": 24000} if format == "audio/pcm" else {})}
    heard = [out for _ in range(10) for out in say(talk.adapter, "input_audio_buffer.append", **append(bytes(160)))]
    assert abs(sum(map(len, heard)) - 10 * 480) < 480  # type: ignore[arg-type]
    told = talk.hear("-" * 10, "#" * 10)
    said = sum(len(b64decode(event["delta"])) for event in told if event["type"] == "response.output_audio.delta")
    assert abs(said - 10 * bytes_) < bytes_


def test_items_are_kept_as_notes_and_told_of_once_to_the_owner() -> None:
    talk = Talk()
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    outs = say(talk.adapter, "conversation.item.create", item={**item, "id": "mine"}, previous_item_id="root")
    assert isinstance(outs[0], Did) and order(sent(outs)) == USER[3:]
    added, done = sent(outs)
    assert added["item"].items() >= {**item, "id": "mine"}.items() and done["item"]["status"] == "completed"
    added, _ = talk.say("conversation.item.create", item=item)  # once only
    assert added["previous_item_id"] == "mine" and added["item"]["id"].startswith("item_")
    assert talk.say("conversation.item.retrieve", item_id="mine")[0]["item"]["id"] == "mine"
    (cut,) = talk.say("conversation.item.truncate", item_id="mine", content_index=0, audio_end_ms=5)
    assert cut.items() >= {"type": "conversation.item.truncated", "item_id": "mine", "audio_end_ms": 5}.items()
    assert talk.say("conversation.item.delete", item_id="mine")[0]["type"] == "conversation.item.deleted"
    (error,) = talk.say("conversation.item.retrieve", item_id="mine", event_id="e1")
    assert error["error"].items() >= {"code": "item_retrieve_invalid_item_id", "event_id": "e1"}.items()
    big = {**item, "content": [{"type": "input_image", "image_url": "x" * MAX_CONTENT}]}
    assert talk.say("conversation.item.create", item=big)[0]["item"]["content"] == []
    for _ in range(2 * MAX_ITEMS):
        talk.say("conversation.item.create", item=item)
    assert len(talk.adapter._items._told) == MAX_ITEMS
    for _ in range(MAX_ITEMS):
        talk.say("conversation.item.create", item={**item, "content": ["x" * (MAX_CONTENT // 2)]})
    assert sum(map(len, talk.adapter._items._told.values())) <= MAX_KEPT


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["root", None, *"abcde", "unknown"]))))
def test_items_stand_where_the_client_wants_them_and_else_behind_the_last_one(
    items: list[tuple[str, str | None]],
) -> None:
    talk, mirror = Talk(), list[str]()
    for item_id, previous in items:
        told = talk.say("conversation.item.create", item={"id": item_id}, previous_item_id=previous)
        assert order(told) == USER[3:] and told[0]["previous_item_id"] == told[1]["previous_item_id"]
        mirror = [each for each in mirror if each != item_id]
        asked = previous if previous in (*mirror, "root") else mirror[-1] if mirror else "root"
        assert told[0]["previous_item_id"] == (None if asked == "root" else asked)
        mirror.insert(0 if asked == "root" else mirror.index(asked) + 1, item_id)
    (said,) = [event for event in talk.hear("-", "#") if event["type"] == "conversation.item.added"]
    assert said["previous_item_id"] == (mirror[-1] if mirror else None)


def test_the_users_words_belong_to_the_item_in_which_they_were_spoken() -> None:
    def talked(**session: Any) -> list[dict[str, Any]]:
        talk = Talk(**session)
        talk.hear("####" + "-" * 8 + "####", "-" * 16)
        for words in (UserWords(" Hello", 0, 2), UserWords(" there.", 2, 4), UserWords(" And", 12, 14)):
            assert not list(talk.adapter.encode(words))
        list(talk.adapter.encode(UserWords(" before", -4, -2)))
        told = talk.hear("-" * 9, "-" * 9)
        list(talk.adapter.encode(UserWords(" me?", 14, 16)))
        return [event for event in told + talk.hear("-", "-") if "transcription" in event["type"]]

    first, second, whole = talked(audio={"input": {"transcription": {"model": "whisper-1"}}})
    assert first["item_id"] != second["item_id"] == whole["item_id"]
    assert [each["transcript"] for each in (first, second, whole)] == ["Hello there.", "And", "And me?"]
    assert first["usage"] == {"type": "duration", "seconds": 0.32}
    assert not talked()  # who did not ask


def test_the_betas_names_for_the_betas_clients() -> None:
    for headers in (BETA, {"Sec-WebSocket-Protocol": "realtime, openai-beta.realtime-v1"}):
        talk = Talk(headers, voice="x", output_audio_format="g711_ulaw", turn_detection={"silence_duration_ms": 200})
        session = talk.updated["session"]
        assert session["output_audio_format"] == "g711_ulaw" and session["voice"] == "NATM1"
        assert session["turn_detection"]["silence_duration_ms"] == 200 and "audio" not in session
        told = talk.hear("-####" + "-" * 30, "-" * 15 + "####" + "-" * 16)
        kinds = {event["type"] for event in told}
        assert {"conversation.item.created", "response.audio.delta", "response.audio_transcript.done"} <= kinds
        assert not [kind for kind in kinds if "output_audio" in kind or kind == "conversation.item.done"]
        response = told[-1]["response"]
        assert response["output"][0]["content"][0]["type"] == "audio" and "output_modalities" not in response


def test_what_cannot_be_is_an_error_that_names_the_event() -> None:
    talk = Talk()
    for kind, values, code in (
        ("session.sing", {}, "unknown_event"),
        ("session.update", {"session": 5}, "invalid_type"),
        ("session.update", {"session": {"audio": {"input": {"format": {"type": "opus"}}}}}, "invalid_value"),
        ("input_audio_buffer.append", {"audio": "?"}, "invalid_base64"),
        ("input_audio_buffer.append", {"audio": b64encode(bytes(1_000_001)).decode()}, "string_above_max_length"),
    ):
        (told,) = talk.say(kind, event_id="e1", **values)
        error = told["error"]
        assert error.items() >= {"type": "invalid_request_error", "code": code, "event_id": "e1"}.items()
        assert error["message"]
    (told,) = sent(talk.adapter.encode(UsageError("There is no persona named 'x'.", "Take another.")))
    assert told["error"]["message"] == "There is no persona named 'x'. Take another."


@pytest.mark.parametrize(("kind", "event"), [(OpenAIRealtime, "session.update"), (OpenAILive, "session.start")])
def test_in_place_of_instructions_that_are_too_long_nobody_speaks(kind: type[OpenAIAdapter], event: str) -> None:
    adapter = kind()
    with pytest.raises(UsageError, match=str(MAX_PROMPT + 1)) as refused:
        say(adapter, event, session={"instructions": "x" * (MAX_PROMPT + 1)})
    (told,) = sent(adapter.encode(refused.value))
    assert told["error"]["type"] == "invalid_request_error" and str(MAX_PROMPT) in told["error"]["message"]


@pytest.mark.parametrize("kind", [OpenAIRealtime, OpenAILive])
def test_a_voice_of_openais_is_any_one_and_one_of_the_query_that_one(kind: type[OpenAIAdapter]) -> None:
    def begin(**session: Any) -> Begin:
        adapter = kind()
        list(adapter.open(Upgrade({"voice": "NATX9"})))
        said = say(adapter, "session.update" if kind is OpenAIRealtime else "session.start", session=session)
        (begin,) = [each for each in [*said, *adapter.tick(1.0), *adapter.tick(9.0)] if isinstance(each, Begin)]
        return begin

    assert begin() == Begin(Request("NATX9"), any_voice=False)
    assert begin(audio={"output": {"voice": "marin"}}) == Begin(Request("marin"), any_voice=True)


def test_formats_that_there_are_are_named() -> None:
    (told,) = Talk().say("session.update", session={"input_audio_format": "opus"})
    assert all(each in told["error"]["message"] for each in ("audio/pcm", "16000", "24000", "audio/pcma", "8000"))


def test_items_take_no_more_memory_than_their_text() -> None:
    talk = Talk()
    item = {"type": "message", "content": [{}] * (MAX_CONTENT // 5)}
    gc.collect()
    tracemalloc.start()
    for number in range(20):
        talk.say("conversation.item.create", item={**item, "id": f"i{number}"})
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 20 * 2 * MAX_CONTENT
    (told,) = talk.say("conversation.item.retrieve", item_id="i7")
    assert told["item"]["content"] == item["content"]


@pytest.mark.parametrize("kind", ["conversation.item.create", "session.update", "nonsense"])
def test_no_depth_makes_an_exception(kind: str) -> None:
    adapter = OpenAIRealtime()
    for depth in range(1, sys.getrecursionlimit() + 10):
        deep = "[" * depth + "]" * depth
        with suppress(WireError):
            list(adapter.decode(f'{{"type": "{kind}", "item": {{"id": "x", "content": {deep}}}, "session": {deep}}}'))
    with suppress(WireError):
        say(adapter, "conversation.item.retrieve", item_id="x")


def test_an_item_that_was_deleted_while_it_was_spoken_stays_so() -> None:
    talk = Talk()
    (item_id,) = [event["item"]["id"] for event in talk.hear(".", "#") if event["type"] == "conversation.item.added"]
    talk.say("conversation.item.delete", item_id=item_id)
    assert "response.done" in order(talk.hear("." * 10, "." * 10))
    (told,) = talk.say("conversation.item.retrieve", item_id=item_id)
    assert told["error"]["code"] == "item_retrieve_invalid_item_id"
