"""The thread that owns an engine: it starts it, runs its rounds, closes it.

Knows neither what the engine is nor where conversations come from.
"""

import gc
import threading
from collections.abc import Callable, Generator
from contextlib import closing

from personaplex_cli.conversation import Conversation, Engine, Wakeup, converse_all


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
                with closing(converse_all(engine, self._conversations, self._wakeup)) as events:
                    for conversation, event in events:
                        conversation.listen(event)
        except BaseException as error:
            self.error = error
        finally:
            self._ended()
