"""What OpenAI's Realtime calls a conversation: items, which are told to the client, and one response at a time.

Events are pairs of a type and its fields, in the names of the general release; `as_beta` makes them the beta's.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from personaplex_cli.protocols.openai_wire import new_id, text_of

MAX_ITEMS, MAX_KEPT = 200, 1 << 20  # that are remembered, the last ones, and characters of all of them
MAX_CONTENT = 1 << 16  # characters of an item of the client's as JSON; of a longer one only the head is kept
MAX_METADATA = 16  # entries, as OpenAI has it
Told = tuple[str, dict[str, Any]]
BETA_KINDS = {
    "conversation.item.added": "conversation.item.created",
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
}


class Items:
    """Those that were told and not deleted, in order; nobody hears them."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}  # as JSON, which takes a tenth of the memory

    @property
    def last(self) -> str | None:
        return next(reversed(self._told), None)

    def get(self, item_id: str | None) -> dict[str, Any] | None:
        told = self._told.get(item_id or "")
        return json.loads(told) if told else None

    def delete(self, item_id: str | None) -> None:
        self._told.pop(item_id or "", None)

    def add(self, item: dict[str, Any], previous: str | None = None) -> Told:
        """The event that tells of a new item, behind `previous` ("root": the first) or else the last one."""
        self.delete(item["id"])
        order = list(self._told)
        at = 0 if previous == "root" else order.index(previous) + 1 if previous in order else len(order)
        order.insert(at, item["id"])
        told = {**self._told, item["id"]: json.dumps(item)}
        self._told = {item_id: told[item_id] for item_id in order[-MAX_ITEMS:]}
        while sum(map(len, self._told.values())) > MAX_KEPT:
            del self._told[next(iter(self._told))]
        return "conversation.item.added", {"item": item, "previous_item_id": order[at - 1] if at else None}

    def done(self, item: dict[str, Any]) -> Told:
        """The event that tells that an item is complete."""
        order = list(self._told)
        at = order.index(item["id"]) if item["id"] in self._told else 0
        if item["id"] in self._told:  # else the client has deleted it meanwhile, or too many have come
            self._told[item["id"]] = json.dumps(item)
        return "conversation.item.done", {"item": item, "previous_item_id": order[at - 1] if at else None}

    def from_client(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """An item of the client's, as it is kept."""
        item_id = text_of(item, "id") or new_id("item")
        kept = (
            dict(item) if len(json.dumps(item)) <= MAX_CONTENT else {"type": "message", "role": "user", "content": []}
        )
        return {**kept, "id": item_id, "object": "realtime.item", "status": "completed"}


def message(item_id: str, role: str, status: str, *content: dict[str, Any]) -> dict[str, Any]:
    kind = {"type": "message", "role": role, "status": status}
    return {"id": item_id, "object": "realtime.item", **kind, "content": list(content)}


class Response:
    """What the agent says in one turn; each method's events follow those of the one before."""

    def __init__(self, metadata: Mapping[str, str] | None) -> None:
        self.id = new_id("resp")
        self.item_id = new_id("item")
        self._metadata = metadata
        self._transcript = ""
        self._at = {"response_id": self.id, "item_id": self.item_id, "output_index": 0, "content_index": 0}

    def begin(self, items: Items) -> Iterator[Told]:
        item = message(self.item_id, "assistant", "in_progress")
        yield "response.created", {"response": self._as_json("in_progress")}
        yield "response.output_item.added", {"response_id": self.id, "output_index": 0, "item": item}
        yield items.add(item)
        yield "response.content_part.added", {**self._at, "part": self._part}

    def say(self, sound: str, text: str) -> Iterator[Told]:
        """A piece of sound, as base64, and the text that came with it."""
        text = text if self._transcript else text.lstrip()  # pieces of words bring their spaces along
        if text:
            self._transcript += text
            yield "response.output_audio_transcript.delta", {**self._at, "delta": text}
        if sound:
            yield "response.output_audio.delta", {**self._at, "delta": sound}

    def end(self, items: Items, cancelled: str | None) -> Iterator[Told]:
        """`cancelled` says by what, if it was."""
        content = {"type": "output_audio", "transcript": self._transcript}
        item = message(self.item_id, "assistant", "incomplete" if cancelled else "completed", content)
        yield "response.output_audio.done", self._at
        yield "response.output_audio_transcript.done", {**self._at, "transcript": self._transcript}
        yield "response.content_part.done", {**self._at, "part": self._part}
        yield items.done(item)
        yield "response.output_item.done", {"response_id": self.id, "output_index": 0, "item": item}
        yield self._done(cancelled, item)

    def empty(self) -> Iterator[Told]:
        """All of a response in which nothing is said."""
        yield "response.created", {"response": self._as_json("in_progress")}
        yield self._done(None)

    @property
    def _part(self) -> dict[str, str]:
        return {"type": "audio", "transcript": self._transcript}

    def _done(self, cancelled: str | None, *output: dict[str, Any]) -> Told:
        details = {"type": "cancelled", "reason": cancelled} if cancelled else None
        return "response.done", {"response": self._as_json("cancelled" if cancelled else "completed", details, *output)}

    def _as_json(self, status: str, details: object = None, *output: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": list(output),
            "output_modalities": ["audio"],
            "usage": None,
            "metadata": self._metadata,
        }


def metadata_of(values: Mapping[str, Any]) -> dict[str, str] | None:
    """What a client wants to find again in a response: short texts; None if there are none."""
    metadata = values.get("metadata")
    if not isinstance(metadata, dict):
        return None
    fit = [(text_of({"it": name}, "it"), text_of({"it": value}, "it")) for name, value in metadata.items()]
    return {name: value for name, value in fit[:MAX_METADATA] if name is not None and value is not None}


def as_beta(kind: str, values: dict[str, Any]) -> Told | None:
    """An event in the beta's names; None for one that it does not know."""
    if kind == "conversation.item.done":
        return None
    if "item" in values:
        values = {**values, "item": _beta_item(values["item"])}
    if "response" in values:
        response = {name: value for name, value in values["response"].items() if name != "output_modalities"}
        output = [_beta_item(item) for item in response["output"]]
        values = {**values, "response": {**response, "output": output, "modalities": ["audio", "text"]}}
    return BETA_KINDS.get(kind, kind), values


def _beta_item(item: Mapping[str, Any]) -> dict[str, Any]:
    content = item.get("content")
    if not isinstance(content, list):
        return dict(item)
    parts = [part | {"type": "audio"} if _is_agents(part) else part for part in content]
    return {**item, "content": parts}


def _is_agents(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "output_audio"
