"""Two conversations wired together: what one agent says is what the other one hears, a frame later.

Both go frame by frame: their frames are there at the same time, so that they are always answered in one batch.
"""

from collections import deque
from collections.abc import Callable, Iterator

from personaplex_cli.samples import SILENT_FRAME, Samples


class End:
    """One side, the `Audio` of its conversation."""

    def __init__(self, wire: "Crosswire") -> None:
        self.heard: deque[Samples] = deque([SILENT_FRAME])  # what the other one said
        self.begun = False
        self._wire = wire
        self._taken = 0  # frames

    def frames(self, wake: Callable[[], None]) -> Iterator[Samples | None]:
        """Never ends before `Crosswire.close`, or before so many frames as it has."""
        self.begun = True
        return self._frames()

    def _frames(self) -> Iterator[Samples | None]:
        while not self._wire.over(self._taken):
            if self._taken < self._wire.open_frames(self):
                self._taken += 1
                yield self.heard.popleft()
            else:
                yield None

    def play(self, pcm: Samples) -> None:
        """Say a frame, [1920]."""
        self._wire.other(self).heard.append(pcm)


class Crosswire:
    """`left` must be asked for its frames before `right`, as a conversation in a lower slot is.

    `pace` says whether the next frame is due, each time that it is asked. `passing` is given each pair of frames as it
    passes, what the left one said and what the right one said.
    """

    def __init__(
        self,
        frames: int | None,
        pace: Iterator[bool],
        passing: Callable[[Samples, Samples], None] = lambda left, right: None,
    ) -> None:
        """It ends after so many `frames`; None: when it is closed."""
        self.left, self.right = End(self), End(self)
        self._frames = frames
        self._pace = pace
        self._passing = passing
        self._open = 0  # frames that both may take
        self._closed = False

    def close(self) -> None:
        """End both, from any thread."""
        self._closed = True

    def over(self, taken: int) -> bool:
        """Whether a side that has taken so many frames is at its end."""
        return taken == self._frames or (self._closed and taken == self._open)

    def other(self, end: End) -> End:
        return self.right if end is self.left else self.left

    def open_frames(self, end: End) -> int:
        """How many frames this side may take. The left one opens the next frame for both, when it is there and due."""
        if end is self.left and self._is_whole() and next(self._pace):
            self._open += 1
            self._passing(self.right.heard[0], self.left.heard[0])
        return self._open

    def _is_whole(self) -> bool:
        """Both have begun and said all that there is to hear."""
        return all(each.begun and len(each.heard) == 1 for each in (self.left, self.right))
