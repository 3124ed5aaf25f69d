"""What the house promises of imports. Who may import whom stands in pyproject.toml, for import-linter."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import personaplex_cli
from personaplex_cli.errors import OutputError

FULL = Path("/dev/full")
PACKAGE = Path(personaplex_cli.__file__).parent


def test_imports_follow_the_contracts() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, ["--help"]),
        (0, ["run", "--help"]),
        (0, ["serve", "--help"]),
        (0, ["doctor", "--help"]),
        (0, ["voices"]),
        (0, ["personas", "show", "chef"]),
        (2, ["chta"]),
        (2, ["run", "nowhere.wav"]),
        (2, ["chat", "--voice", "NATF9"]),
        (2, ["chat", "--theme", "dracula"]),
    ],
)
def test_looking_around_and_typos_import_nothing_heavy(code: int, arguments: list[str]) -> None:
    program = (
        "import sys; from personaplex_cli.cli.main import program; code = program(sys.argv[1:]);"
        "heavy = {'torch', 'moshi', 'scipy', 'huggingface_hub', 'aiohttp', 'ray'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stderr if code else done.stdout


def test_the_version_is_said_at_once_or_what_is_wrong_with_standard_output() -> None:
    code = "import sys; from personaplex_cli.__main__ import main; main(); sys.exit('typer' in sys.modules)"
    command = [sys.executable, "-c", code, "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"personaplex {personaplex_cli.__version__}\n")
    if FULL.exists():
        with FULL.open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == OutputError.exit_code and "No space left" in done.stderr


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import personaplex_cli; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "moshi", "sounddevice", "aiohttp", "typer", "rich", "numpy"} & set(done.stdout.split())


def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


def test_library_code_does_not_print() -> None:
    for path in set(PACKAGE.rglob("*.py")) - set(PACKAGE.glob("cli/*.py")):
        calls = [each for each in nodes(path) if isinstance(each, ast.Call)]
        assert not any(isinstance(each.func, ast.Name) and each.func.id == "print" for each in calls), path


def test_the_public_names_are_for_others() -> None:
    """Who imports them from the top would import against the layers, unseen."""
    for path in PACKAGE.rglob("*.py"):
        taken = [each for each in nodes(path) if isinstance(each, ast.ImportFrom) and each.module == PACKAGE.name]
        assert not {name.name for each in taken for name in each.names} & set(personaplex_cli.__all__), path
