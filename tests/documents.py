"""What README and docs/ say, taken apart: fenced blocks, command lines, options, variables, links, names of files."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(
    r"^(?P<mark><!-- command: (?P<name>[\w-]+) -->\n)?```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S
)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}\S.*\n)+)")
INLINE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OPERATORS = re.compile(r"^[|&;<>()]+$")
PLACEHOLDER = "..."  # stands for whatever a user puts there
REPOSITORY_FOLDERS = ("docs/", "tests/", "examples/", "deploy/", "personaplex_cli/", "personas/", "voices/", ".github/")


@dataclass(frozen=True)
class Block:
    """A fenced block; `name` is that of the `<!-- command: NAME -->` above it, empty for none."""

    name: str
    language: str
    body: str


def blocks(text: str) -> list[Block]:
    return [Block(each["name"] or "", each["language"], each["body"]) for each in FENCE.finditer(text)]


def inline(text: str) -> list[str]:
    """The contents of `code` in running text."""
    return [" ".join(each[2].split()) for each in INLINE.finditer(INDENTED.sub("", FENCE.sub("", text)))]


def shell_lines(text: str) -> Iterator[str]:
    """Every line that a reader might type: of blocks for a shell, indented ones, and inline code that is a command."""
    for block in blocks(text):
        if block.language == "sh":
            lines = block.body.replace("\\\n", " ").splitlines()
            yield from (line for line in lines if not line.startswith("docker "))  # an image's name, there
    indented = [line.strip() for lines in INDENTED.findall(FENCE.sub("", text)) for line in lines.splitlines()]
    yield from (each for each in [*indented, *inline(text)] if each.startswith("personaplex "))


def command_lines(text: str) -> Iterator[list[str]]:
    """The arguments of every `personaplex ...`, up to the next operator of the shell or to "..."."""
    for line in shell_lines(text):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        arguments: list[str] | None = None
        for token in [*lexer, ";"]:
            if arguments is None and token.rpartition("/")[2] == "personaplex":
                arguments = []
            elif arguments is not None and (OPERATORS.match(token) or token in (PLACEHOLDER, "…")):
                yield arguments
                arguments = None
            elif arguments is not None:
                arguments.append(token)


def options(text: str) -> set[str]:
    """Every --option that stands by itself in inline code; those of other programs stand behind their names."""
    return {found for each in inline(text) if each.startswith("-") for found in re.findall(r"--[a-z][\w-]*", each)}


def variables(text: str) -> set[str]:
    return set(re.findall(r"\bPERSONAPLEX_[A-Z_]+\b", text))


def links(text: str) -> list[str]:
    """What links and pictures lead to, but for the web."""
    return [each for each in LINK.findall(FENCE.sub("", text)) if "://" not in each and not each.startswith("mailto:")]


def file_names(text: str) -> set[str]:
    """Paths of this repository in inline code."""
    return {
        each
        for each in inline(text)
        if each.startswith(REPOSITORY_FOLDERS) and re.fullmatch(r"[\w./-]+", each) and "NAME" not in each
    }


def anchors(text: str) -> set[str]:
    """The anchors of headings, as web pages of repositories make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w -]", "", title.replace("`", "")).strip().lower().replace(" ", "-") for title in titles}
