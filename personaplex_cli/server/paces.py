"""How quickly one client's frames are answered: what it is told once a second, and its server's owner in the end."""

from personaplex_cli.protocols.adapter import Pace
from personaplex_cli.samples import FRAME_SECONDS

FRAMES = round(1 / FRAME_SECONDS)  # between two reports


class Paces:
    def __init__(self) -> None:
        self.frames = 0  # answered
        self.slowest = 0.0  # milliseconds of a step
        self._recent: list[float] = []  # since the last report

    def add(self, milliseconds: float) -> Pace | None:
        """A step is over; returns a report when one is due."""
        self.frames += 1
        self.slowest = max(self.slowest, milliseconds)
        self._recent.append(milliseconds)
        if len(self._recent) < FRAMES:
            return None
        mean, most = sum(self._recent) / FRAMES, max(self._recent)
        self._recent.clear()
        return Pace(round(mean, 2), round(most, 2), self.frames)

    def __str__(self) -> str:
        return f", slowest step {self.slowest:.1f} ms" if self.frames else ""
