"""The program: it runs a command line and turns errors into words and exit codes.

No logic lives in `cli/`, and nothing slow is imported before a command needs it.
"""

import os
import sys
from collections.abc import Sequence

from personaplex_cli.cli.app import Interrupted, ReaderGone, app
from personaplex_cli.cli.terminal import INTERRUPTED, complain
from personaplex_cli.errors import PersonaplexError


def main() -> None:
    """The program `personaplex`."""
    sys.exit(program(sys.argv[1:]))


def program(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code. Every error ends here, as words on stderr."""
    debug = "--debug" in arguments
    try:
        result = app(args=list(arguments), prog_name="personaplex", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except PersonaplexError as error:
        complain(str(error), error.hint, debug)
        return error.exit_code
    except (Interrupted, KeyboardInterrupt):
        complain("Stopped. What was finished is kept.")
        return INTERRUPTED
    except (ReaderGone, BrokenPipeError):
        # Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # Typer's own: a wrong option or argument
            error.show(sys.stderr)
            return int(error.exit_code)
        complain(f"This is a bug: {type(error).__name__}: {error}", "See it whole with `personaplex --debug`.", debug)
        return PersonaplexError.exit_code
