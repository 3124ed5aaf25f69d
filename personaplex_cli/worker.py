"""The thread that owns the model: it loads it, then holds one conversation after the other.

Knows no network: a conversation is a `ClientAudio`, and what there is to say goes to it or to the listener.
"""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

from personaplex_cli.conversation import converse
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Hushed, Listener, Note
from personaplex_cli.lookup import LocalAgent
from personaplex_cli.recorder import Recorder
from personaplex_cli.server.client_audio import ClientAudio, Over

PATIENCE_SECONDS = 5.0  # that the thread gets to end
LOADING_PATIENCE_SECONDS = 0.5  # while it loads it hears nothing


class ModelWorker:
    """Give it lines with `take`; each is told `Over` when it is through.

    `record` is the folder in which conversations are kept, if they are. `changed` is called, in the model's thread,
    when `ready` has changed; it is for the last time when the thread ends, with what ended it in `error`.
    """

    def __init__(self, agent: LocalAgent, record: Path | None, listen: Listener, changed: Callable[[], None]) -> None:
        self.ready = False
        self.error: BaseException | None = None
        self._agent = agent
        self._record = record
        self._listen = listen
        self._changed = changed
        self._lines: SimpleQueue[ClientAudio | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self, line: ClientAudio) -> None:
        """Hold this conversation, after those that were given before."""
        self._lines.put(line)

    def end(self) -> bool:
        """End the thread, when every line is hung up; False if it is too busy to end."""
        self._lines.put(None)
        if self._thread.is_alive():
            self._thread.join(PATIENCE_SECONDS if self.ready else LOADING_PATIENCE_SECONDS)
        return not self._thread.is_alive()

    # The model thread.

    def _run(self) -> None:
        try:
            self._agent.start()
            self._agent.warm_up()
            self.ready = True
            self._changed()
            for line in iter(self._lines.get, None):
                self._attend(line)
        except BaseException as error:
            self.error = error
        finally:
            self.ready = False
            while not self._lines.empty():  # too late for these
                if late := self._lines.get():
                    late.tell(Over(PersonaplexError("The model has ended.", "Try again later.")))
            self._changed()

    def _attend(self, line: ClientAudio) -> None:
        try:
            for character in line.characters():
                self._converse(line, self._agent.speaking_as(character, line.tell))
        except PersonaplexError as error:
            line.tell(Over(error))
        except Exception as error:
            line.tell(Over(error))
            self._listen(Note(f"A conversation failed: {type(error).__name__}: {error}"))
            # The model must show that it is all right before anybody else talks to it; if it is not, all ends.
            self._agent.warm_up()
        else:
            line.tell(Over(None))

    def _converse(self, line: ClientAudio, agent: LocalAgent) -> None:
        """From the prompt until the client has hung up or wants another conversation."""
        began = agent.begin()
        hushed = False
        with ExitStack() as open_things:
            kept = self._keep(line, agent, open_things)
            line.tell(began)
            for step in converse(agent, kept or line):
                line.tell(step)
                if kept:
                    kept.step(step)
                if line.hush_wanted():
                    agent.hush()
                if agent.hushed != hushed:
                    hushed = agent.hushed
                    line.tell(Hushed(hushed))

    def _keep(self, line: ClientAudio, agent: LocalAgent, open_things: ExitStack) -> Recorder | None:
        """The line with a recorder on it, if conversations are kept. A disk that fails does not end the talk."""
        if self._record is None:
            return None
        try:
            return open_things.enter_context(Recorder(line, self._record, agent.settings, self._listen))
        except PersonaplexError as error:
            self._listen(Note(f"A conversation is not kept: {error}"))
            return None
