"""How many recordings are kept, and for how long. Deletes what the program wrote, and nothing else."""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from personaplex_cli.files import GIGABYTE, is_locked
from personaplex_cli.recorder import SOUND, TOKENS, TRANSCRIPTS

NAME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?")  # of a recording's folder
DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class _Kept:
    """A recording: when it was written to last, in seconds since 1970, and its bytes."""

    written: float
    size: int
    folder: Path

    def delete(self) -> bool:
        """Delete our files in it, and the folder if nothing else is there; returns whether all of ours are gone.

        Nothing of a talk that goes on, in whatever program.
        """
        with suppress(OSError):
            if is_locked(self.folder / SOUND):
                return False
            for name in (SOUND, TOKENS, *TRANSCRIPTS):
                (self.folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # something of the owner's is in it
                self.folder.rmdir()
            return True
        return False


def delete_old(parent: Path, max_gigabytes: float | None, max_days: float | None, now: float | None = None) -> int:
    """Delete recordings in this folder that are older than so many days, then the oldest ones beyond so many gigabytes.

    Never one of a talk that goes on, though its size counts. Returns how many were deleted. `now` is in seconds since
    1970.
    """
    now = time.time() if now is None else now
    kept = sorted(_recordings(parent), key=lambda each: each.written)
    total, deleted = sum(each.size for each in kept), 0
    for each in kept:
        is_old = max_days is not None and now - each.written > max_days * DAY
        is_too_much = max_gigabytes is not None and total > max_gigabytes * GIGABYTE
        if (is_old or is_too_much) and each.delete():
            total -= each.size
            deleted += 1
    return deleted


def _recordings(parent: Path) -> Iterator[_Kept]:
    with suppress(OSError):  # there is none yet, or it cannot be read
        for folder in parent.iterdir():
            if not NAME.fullmatch(folder.name) or folder.is_symlink():
                continue
            with suppress(OSError):  # somebody else deletes it
                names = (SOUND, TOKENS, *TRANSCRIPTS)
                about = [path.lstat() for name in names if (path := folder / name).exists()]
                if about:
                    yield _Kept(max(each.st_mtime for each in about), sum(each.st_size for each in about), folder)
