"""The rooms of the house: a file imports only from the lines above its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import personaplex_cli

PACKAGE = Path(personaplex_cli.__file__).parent
LAYERS = [
    ["personaplex_cli", "errors", "samples", "events", "hush", "prompt", "transcript"],
    ["library"],
    ["model"],
    ["audio"],
    ["conversation"],
    ["startup"],
    ["keeping"],
    ["remote"],
    ["run", "chat", "bench", "doctor"],
    ["screen"],
    ["options"],
    ["cli"],
    ["__main__"],
]
ONLY_IN = {
    "torch": {"model"},
    "moshi": {"model"},
    "safetensors": {"model"},
    "sentencepiece": {"model"},
    "sphn": {"audio"},
    "soxr": {"audio"},
    "samplerate": {"audio"},
    "sounddevice": {"audio"},
    "rich": {"screen", "cli"},
    "typer": {"cli", "options"},
    "huggingface_hub": {"library"},
    "aiohttp": {"remote"},
    "prometheus_client": {"remote"},
    "click": set(),
}
SCREEN_SEES = {"errors", "events", "samples", "transcript", "screen"}

FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room they come from"
            names |= {f"{node.module}.{each.name}" for each in node.names}
    return names


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "personaplex_cli" if first == "__init__" else first


def rooms_entered(path: Path) -> set[str]:
    ours = [name.split(".") for name in imports(path) if name.startswith("personaplex_cli")]
    return {
        parts[1] if (PACKAGE / parts[1]).exists() or (PACKAGE / f"{parts[1]}.py").exists() else parts[0]
        for parts in ours
    }


def layer(name: str) -> int:
    return next(index for index, rooms in enumerate(LAYERS) if name in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_above(path: Path) -> None:
    here = room(path)
    for entered in rooms_entered(path) - {here}:
        assert layer(entered) <= layer(here), f"{path.name} imports {entered}"
    for name in imports(path):
        outside = name.split(".")[0]
        assert outside not in ONLY_IN or here in ONLY_IN[outside], f"{path.name} imports {outside}"
    if here == "screen":
        assert rooms_entered(path) <= SCREEN_SEES


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["serve", "--help"],
        ["doctor", "--help"],
        ["voices"],
        ["personas", "show", "chef"],
    ],
)
def test_looking_around_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from personaplex_cli.cli.main import program; code = program(sys.argv[1:]);"
        "heavy = {'torch', 'moshi', 'sphn', 'huggingface_hub', 'aiohttp'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_no_room_prints() -> None:
    for path in FILES:
        if room(path) != "cli":
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls), path
