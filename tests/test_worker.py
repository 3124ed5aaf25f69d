"""The thread of the model: it starts the engine, runs the rounds, closes all, whatever happens."""

from collections.abc import Generator

import pytest
from test_conversation import ChainEngine, Numbered, character

from personaplex_cli.conversation import Conversation, Engine, Wakeup
from personaplex_cli.events import Ended, Event, Step
from personaplex_cli.worker import ModelWorker


def held(engine: ChainEngine, conversations: list[Conversation]) -> tuple[ModelWorker, list[str]]:
    log: list[str] = []

    def coming() -> Generator[Conversation, None, None]:
        try:
            yield from conversations
        finally:
            log.append("no more")

    def start() -> Engine:
        log.append("start")
        return engine

    ready = lambda engine: log.append("ready")  # noqa: E731
    worker = ModelWorker(start, coming(), Wakeup(), ready, ended=lambda: log.append("ended"))
    assert worker.join(30) and not worker.is_alive
    return worker, log


def test_each_conversation_hears_its_own_events_and_all_is_closed() -> None:
    heard: list[list[Event]] = [[], []]
    conversations = [Conversation(character(), Numbered(count), heard[count - 3].append) for count in (3, 4)]
    worker, log = held(engine := ChainEngine(2), conversations)
    assert worker.error is None and engine.closed and log == ["start", "ready", "no more", "ended"]
    assert [sum(isinstance(event, Step) for event in events) for events in heard] == [3, 4]
    assert all(events[-1] == Ended(None) for events in heard)


@pytest.mark.filterwarnings("error")
def test_an_engine_that_dies_tells_its_conversations_and_is_closed() -> None:
    events: list[Event] = []
    worker, log = held(engine := ChainEngine(dies=2), [Conversation(character(), Numbered(9), events.append)])
    assert isinstance(worker.error, RuntimeError) and engine.closed and log[-2:] == ["no more", "ended"]
    assert isinstance(events[-1], Ended) and events[-1].error is worker.error


def test_an_engine_that_does_not_start_ends_the_worker() -> None:
    def start() -> Engine:
        raise ValueError("no model")

    ended: list[bool] = []
    worker = ModelWorker(start, (each for each in ()), Wakeup(), ended=lambda: ended.append(True))
    assert worker.join(30) and isinstance(worker.error, ValueError) and ended == [True]


def test_a_listener_that_fails_ends_its_conversation_alone() -> None:
    def failing(event: Event) -> None:
        if isinstance(event, Step) and event.index == 2:
            raise ValueError("a disk")
        heard[0].append(event)

    heard: list[list[Event]] = [[], []]
    conversations = [Conversation(character(), Numbered(9), each) for each in (failing, heard[1].append)]
    worker, _ = held(ChainEngine(2), conversations)
    assert worker.error is None
    assert isinstance(heard[0][-1], Ended) and isinstance(heard[0][-1].error, ValueError)
    assert sum(isinstance(event, Step) for event in heard[1]) == 9 and heard[1][-1] == Ended(None)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_whatever_ends_the_worker_every_conversation_learns_of_it(failure: type[BaseException]) -> None:
    class Dying(ChainEngine):
        def end(self, slot: int) -> None:
            raise failure

    heard: list[list[Event]] = [[], [], []]
    conversations = [Conversation(character(), Numbered(3), each.append) for each in heard]
    worker, _ = held(Dying(2), conversations)
    assert isinstance(worker.error, failure)
    ends = [[event for event in events if isinstance(event, Ended)] for events in heard]
    assert [len(each) for each in ends[:2]] == [1, 1] and all(each[0].error for each in ends[:2])
