"""What a client that does not read can make the server keep."""

import asyncio
import json
from contextlib import suppress

import numpy as np
import pytest
from counting import FakeApp
from hypothesis import given
from hypothesis import strategies as st
from runningserver import RunningServer, connected, next_json

from personaplex_cli.protocols.adapter import Queued
from personaplex_cli.protocols.openai_items import MAX_CONTENT
from personaplex_cli.samples import FRAME
from personaplex_cli.server import outbox, session
from personaplex_cli.server.outbox import MAX_BYTES, MAX_ITEMS, MAX_SOUNDS, Item, Outbox

ITEMS: st.SearchStrategy[Item] = (
    st.just(np.zeros(FRAME, dtype=np.float32)) | st.builds(Queued, st.integers(1, 9)) | st.binary(max_size=9)
)


@given(st.lists(ITEMS | st.none(), max_size=300))
def test_what_is_put_comes_out_in_order_but_for_the_oldest_sound(puts: list[Item | None]) -> None:
    async def go() -> None:
        box, waiting, lost = Outbox(), list[Item](), 0
        for item in puts:
            if item is None:
                assert (await box.next(0)) is (waiting.pop(0) if waiting else None)
                continue
            assert box.put(item)
            waiting.append(item)
            sounds = [index for index, each in enumerate(waiting) if isinstance(each, np.ndarray)]
            if len(sounds) > MAX_SOUNDS:
                lost += len(waiting.pop(sounds[0]))  # type: ignore[arg-type]
        assert [await box.next(0) for _ in waiting] == waiting and box.lost == lost

    asyncio.run(go())


def test_too_many_are_too_many() -> None:
    async def go() -> None:
        box = Outbox()
        assert all([box.put(Queued(1)) for _ in range(MAX_ITEMS)]) and not box.put(Queued(1))

    asyncio.run(go())


@given(st.lists(st.integers(1, MAX_BYTES), min_size=1, max_size=30))
def test_answers_wait_until_there_is_room(sizes: list[int]) -> None:
    async def go() -> None:
        box, most = Outbox(), 0

        async def answer() -> None:
            nonlocal most
            for size in sizes:
                await box.room()
                box.put(bytes(size))
                most = max(most, box._bytes)

        answering = asyncio.create_task(answer())
        for size in sizes:  # nothing is lost, and nobody waits for ever
            assert len((await box.next(10)) or b"") == size  # type: ignore[arg-type]
        await answering
        assert most <= MAX_BYTES + max(sizes)

    asyncio.run(go())


def test_who_asks_and_does_not_read_is_not_listened_to_and_then_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SEND_TIMEOUT", 1.0)
    item = {"type": "message", "content": ["x" * (MAX_CONTENT - 100)]}
    message = json.dumps({"type": "conversation.item.create", "item": item})
    kept = list[int]()

    class Watched(Outbox):
        def put(self, item: Item) -> bool:
            room = super().put(item)
            kept.append(self._bytes)
            return room

    monkeypatch.setattr(session, "Outbox", Watched)

    async def ask(server: RunningServer) -> None:
        async with connected(server.socket("/v1/realtime")) as socket:
            await next_json(socket, "session.created")
            with suppress(ConnectionError):
                for _ in range(1000):
                    await socket.send_str(message)
            server.wait(lambda: any("stuck" in note for note in server.notes))

    with RunningServer("demo", kind=FakeApp) as server:
        asyncio.run(ask(server))
    assert outbox.MAX_BYTES < max(kept) < outbox.MAX_BYTES + 3 * MAX_CONTENT
