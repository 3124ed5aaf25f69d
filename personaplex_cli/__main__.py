"""Where `personaplex` and `python -m personaplex_cli` begin: Ctrl-C counts from the first moment."""

import os
import sys


def main() -> None:
    if sys.argv[1:] in (["--version"], ["-V"]):
        from personaplex_cli import __version__

        try:
            os.write(1, f"personaplex {__version__}\n".encode())
            return
        except OSError:
            pass  # the program says what is wrong with standard output
    try:
        from personaplex_cli.cli.main import main as program  # takes half a second

        program()
    except KeyboardInterrupt:  # before `program` could see to it, or in its last moment
        sys.stderr.write("Stopped.\n")
        sys.stderr.flush()
        os._exit(130)
    finally:
        import signal  # takes a moment, too

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left that could be stopped
        # Python remembers a Ctrl-C that came while text was executed, as namedtuples are made: it would kill itself.
        exec("")


if __name__ == "__main__":
    main()
