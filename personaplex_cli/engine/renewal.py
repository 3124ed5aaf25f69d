"""Renewal: before a slot's ring is full its memory is made anew, as the prompt and the last part of the talk.

    frame:   begins ──── READING ────> may be switched, in a pause ──── SEARCHING ────> is switched at the latest

The talk goes on meanwhile. Its last columns are read again behind a copy of the prompt, in pieces between frames, into
the far end of the slot's own ring, where a talk that is renewed in time never comes. Switching moves all of that to the
ring's beginning, and the next frame is read behind it. The tokens of the open column, the noise, Mimi and the text go
on untouched.

When it happens depends on the talk alone, not on how fast it is computed or on who else talks: the same talk is renewed
in the same frames wherever it is held.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from personaplex_cli.engine.generator import TokenGenerator
from personaplex_cli.engine.prompting import Layout
from personaplex_cli.engine.slot import Slot
from personaplex_cli.events import Event, Note, Renewed

LEAST_REMEMBERED = 125  # frames: 10 s; less is no memory of a talk


@dataclass(frozen=True)
class Pace:
    """Frames that a renewal may take, and how many pass at least between two of them. Choices, not measurements."""

    reading: int = 50
    searching: int = 50
    pause: int = 6  # in a row in which nobody speaks
    between: int = 125


PACE = Pace()
T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """When a slot's memory is renewed, for a prompt of so many positions.

    Reading begins when the talk has come to position `begins`, with the last `remembered` columns; those that are read
    meanwhile follow. `room` is the place in the ring where they are read into.
    """

    prompt: int
    remembered: int
    begins: int
    room: int


def schedule(context: int, prompt: int, remembered: int, pace: Pace) -> Schedule:
    """The schedule that keeps as many columns as are wanted, or as many as there is room for: perhaps too few.

    The ring holds the talk, which comes no further than `room`, and behind it the memory that is being read.
    """
    meanwhile = pace.reading + pace.searching
    # After the latest switch the talk is at prompt + remembered + meanwhile: it begins again `between` frames later.
    most = (context - 3 * meanwhile - pace.between) // 2 - prompt
    remembered = min(remembered, most)
    room = context - (prompt + remembered + meanwhile)
    return Schedule(prompt, remembered, room - meanwhile, room)


class Renewal:
    """The memory of one slot, renewed again and again.

    `hear` of each frame. Between frames: if it `is_due` it must `switch`, else if it `is_reading` it may `read`.
    """

    def __init__(self, generator: TokenGenerator, row: int, slot: Slot, layout: Layout, when: Schedule, pace: Pace):
        """`slot` has begun with the prompt `layout`, in this row of the batch."""
        self.frames = 0  # that the conversation has lasted
        self._when = when
        self._pace = pace
        self._generator = generator
        self._slot = slot
        self._kept = generator.cache.of(row, when.room)
        self._room = generator.cache.behind(row, when.room)
        # The first column that is remembered follows the prompt: its delayed rows are the prompt's last.
        self._opening = layout.columns[:, -1]
        self._delayed = torch.tensor(slot.spec.delays) > 0
        self._quiet = 0  # frames in a row
        self._read = 0  # columns, of those to be remembered

    def hear(self, quiet: bool) -> None:
        """A frame is over; `quiet` if nobody spoke in it."""
        self.frames += 1
        self._quiet = self._quiet + 1 if quiet else 0

    @property
    def is_due(self) -> bool:
        """Whether the next frame must find the memory renewed."""
        taken = self._slot.position - self._when.begins
        in_pause = self._quiet >= self._pace.pause
        return taken >= self._pace.reading + (0 if in_pause else self._pace.searching)

    @property
    def is_reading(self) -> bool:
        """Whether there is something to read."""
        return self._slot.position >= self._when.begins and self._read < self._to_read

    @torch.inference_mode()
    def read(self, at_once: int) -> None:
        """Read so many columns, or as many as there are."""
        prompt, read, left = self._when.prompt, self._read, self._to_read - self._read
        columns = torch.tensor(self._slot.history(left, max(0, left - at_once))).T
        if not read:
            _copy(self._kept, self._room, prompt)
            columns[:, 0] = torch.where(self._delayed, self._opening, columns[:, 0])
        self._read += columns.shape[1]
        embedded = self._generator.embed(columns).to(self._generator.device)
        start = torch.full((1,), prompt + read, dtype=torch.long, device=self._generator.device)
        self._generator.read(embedded, start, self._room[..., : prompt + self._read, :])

    @torch.inference_mode()
    def switch(self, at_once: int) -> Renewed:
        """Read what is left, and let it be what is remembered: the next frame belongs behind all that is `filled`."""
        while self.is_reading:
            self.read(at_once)
        remembered, self._read = self._read, 0
        _copy(self._room, self._kept, filled := self._when.prompt + remembered)
        return Renewed(self.frames, remembered, filled)

    @property
    def _to_read(self) -> int:
        """Columns of the talk that a switch would keep now."""
        return self._when.remembered + self._slot.position - self._when.begins


class Renewals:
    """The renewals of all slots: of each talk so many columns are to be remembered, of none if that is 0."""

    def __init__(self, generator: TokenGenerator, slots: Sequence[Slot], remembered: int, pace: Pace = PACE) -> None:
        self._generator = generator
        self._slots = slots
        self._remembered = remembered
        self._pace = pace
        self._going: dict[int, Renewal] = {}
        self._read_last = False  # then it is the turn of those who wait

    def begin(self, row: int, layout: Layout) -> int:
        """The conversation in this slot has begun; returns how many columns of it will be remembered at least."""
        when = schedule(self._generator.cache.context, layout.positions, self._remembered, self._pace)
        if when.remembered < min(self._remembered, LEAST_REMEMBERED) or not self._remembered:
            return 0
        self._going[row] = Renewal(self._generator, row, self._slots[row], layout, when, self._pace)
        return when.remembered

    def end(self, row: int) -> None:
        self._going.pop(row, None)

    def hear(self, row: int, quiet: bool) -> None:
        """A frame of this conversation is over; `quiet` if nobody spoke in it."""
        if row in self._going:
            self._going[row].hear(quiet)

    def go_on(self, at_once: int, others_wait: bool) -> list[tuple[int, Event]] | None:
        """Switch where it is due, or read a piece; None if there is nothing to do, or it is the turn of others.

        A slot whose `Renewed` is returned must go on at the position that is filled. What fails costs the renewal, not
        the talk: it goes on and forgets.
        """
        if due := [row for row, each in self._going.items() if each.is_due]:
            return [(row, self._tried(row, lambda renewal: renewal.switch(at_once))) for row in due]
        self._read_last = not (self._read_last and others_wait)
        reading = [row for row, each in self._going.items() if each.is_reading] if self._read_last else []
        if not reading:
            return None
        failed = self._tried(reading[0], lambda renewal: renewal.read(at_once))
        return [(reading[0], failed)] if failed else []

    def _tried(self, row: int, what: Callable[[Renewal], T]) -> T | Note:
        try:
            return what(self._going[row])
        except RuntimeError as error:  # torch's: its OutOfMemoryError is one
            self.end(row)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            return Note(f"The model's memory could not be renewed ({reason}): the persona will be forgotten.")


def _copy(source: Tensor, target: Tensor, positions: int) -> None:
    """Layer by layer: the ring lies apart, and no copy of all of it is made."""
    for here, there in zip(source, target, strict=True):
        there[..., :positions, :].copy_(here[..., :positions, :])
