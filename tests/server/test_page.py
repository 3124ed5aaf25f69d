"""The web page: its files are whole, need nothing from elsewhere and run under a strict Content-Security-Policy.

What a browser makes of it is tested in tests/endtoend/test_page_in_chromium.py.
"""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path, PurePosixPath

import pytest

PAGE = Path(str(files("personaplex_cli.server") / "page"))
LAWS = Path(__file__).with_suffix(".mjs")
DATA = Path(__file__).parents[1] / "data"  # cases that the page shares with Python
SCRIPTS = sorted(PAGE.glob("*.js"))
REFERENCES = {"href", "src", "action", "data", "poster", "srcset"}
POINTERS = {"for", "aria-describedby", "aria-labelledby", "aria-controls"}


class Elements(HTMLParser):
    """All elements of a document, with their attributes, and the text inside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.inline = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attributes}))

    def handle_data(self, text: str) -> None:
        if self.cdata_elem:
            self.inline += text.strip()

    def values(self, *names: str) -> list[str]:
        return [value for _, attributes in self.found for name, value in attributes.items() if name in names]


@pytest.fixture(scope="module")
def document() -> Elements:
    return Elements((PAGE / "index.html").read_text(encoding="utf-8"))


def scripts() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)


def test_no_script_or_style_is_inline(document: Elements) -> None:
    assert not document.inline
    assert not [tag for tag, _ in document.found if tag == "style"]
    attributes = {name for _, each in document.found for name in each}
    assert not {name for name in attributes if name == "style" or name.startswith("on")}


def test_everything_it_refers_to_lies_beside_it(document: Elements) -> None:
    ids = set(document.values("id"))
    style = (PAGE / "style.css").read_text(encoding="utf-8")
    modules = re.findall(r"""(?:from|import) "([^"]+)";|new URL\("([^"]+)", import\.meta\.url\)""", scripts())
    referred = [*document.values(*REFERENCES), *(first or second for first, second in modules)]
    assert "app.js" in referred and "worklet.js" in referred and "./jitter_buffer.js" in referred
    for reference in referred:
        if reference.startswith("#"):
            assert reference[1:] in ids
        else:
            path = PurePosixPath(reference)
            assert not path.is_absolute() and ":" not in reference and (PAGE / path).is_file(), reference
    assert "url(" not in style and "@import" not in style


@pytest.mark.parametrize("path", sorted(PAGE.iterdir()), ids=lambda path: path.name)
def test_no_file_names_another_server(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"""\b(https?|wss?)://|["'(`=]//""", text)


def test_scripts_and_page_agree_on_names(document: Elements) -> None:
    ids = document.values("id")
    assert len(ids) == len(set(ids))
    asked = set(re.findall(r"""\bat\("([^"]+)"\)""", scripts()))
    assert len(asked) > 30 and asked <= set(ids)
    assert {each for value in document.values(*POINTERS) for each in value.split()} <= set(ids)


def test_keys_are_named_once_each(document: Elements) -> None:
    assert sorted(document.values("aria-keyshortcuts")) == ["?", "d", "m", "q", "r", "s"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js, to run the page's scripts outside a browser")
def test_the_laws_of_its_arithmetic(tmp_path: Path) -> None:
    """In a copy, because only a package.json says to Node.js that these are modules."""
    for path in [*SCRIPTS, LAWS, *DATA.glob("*.json")]:
        shutil.copy(path, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for path in SCRIPTS:
        subprocess.run(["node", "--check", path.name], cwd=tmp_path, check=True)
    done = subprocess.run(["node", "--test", LAWS.name], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert re.search(r"pass [2-9]\d", done.stdout)
