"""`python -m personaplex_cli` is the same program as `personaplex`."""

from personaplex_cli.cli.main import main

if __name__ == "__main__":
    main()
