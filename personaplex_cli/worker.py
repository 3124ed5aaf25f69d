"""The thread that owns an engine: it starts it, runs its rounds, closes it.

Knows neither what the engine is nor where conversations come from.
"""

import gc
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress

from personaplex_cli.conversation import Conversation, Engine, Wakeup, converse_all
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Ended, Event


class ModelWorker:
    """Holds all `conversations` on the engine that `start` returns, from now on; their events go to their listeners.

    `ready` is called with the engine before the first conversation. All of this happens in the worker's thread, and
    what ends it is in `error`; `ended` is called last, whatever happened.
    """

    def __init__(
        self,
        start: Callable[[], Engine],
        conversations: Generator[Conversation | None, None, None],
        wakeup: Wakeup,
        ready: Callable[[Engine], None] = lambda engine: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.error: BaseException | None = None
        self._start = start
        self._conversations = conversations
        self._wakeup = wakeup
        self._ready = ready
        self._ended = ended
        self._held: set[Conversation] = set()  # that have not ended
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float) -> bool:
        """Wait for the end; False if it has not come by then."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with closing(self._conversations), closing(self._start()) as engine:
                # What is loaded stays: looking through all of it for garbage would take longer than a frame.
                gc.collect()
                gc.freeze()
                self._ready(engine)
                with closing(converse_all(engine, self._coming(), self._wakeup)) as events:
                    for conversation, event in events:
                        self._report(conversation, event)
        except BaseException as error:
            self.error = error
            # Whatever it was: no conversation waits for an end that does not come.
            ended = Ended(error if isinstance(error, Exception) else PersonaplexError("The model has ended."))
            for conversation in self._held:
                with suppress(Exception):
                    conversation.listen(ended)
        finally:
            self._ended()

    def _coming(self) -> Iterator[Conversation | None]:
        for conversation in self._conversations:
            if conversation:
                self._held.add(conversation)
            yield conversation

    def _report(self, conversation: Conversation, event: Event) -> None:
        """What fails in a listener ends its conversation alone."""
        if isinstance(event, Ended):
            self._held.discard(conversation)
        try:
            conversation.listen(event)
        except Exception as error:
            if isinstance(event, Ended):
                raise
            conversation.end(error)
