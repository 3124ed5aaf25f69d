"""README and docs/ are true: their commands parse, their options, variables, links and files exist, and what needs no
GPU runs as printed, with the demo model."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
import yaml
from documents import (
    DOCUMENTS,
    ROOT,
    anchors,
    blocks,
    command_lines,
    file_names,
    inline,
    links,
    options,
    variables,
)
from typer.testing import CliRunner

from personaplex_cli.cli.binding import settable
from personaplex_cli.cli.help import EXAMPLES
from personaplex_cli.cli.main import app
from personaplex_cli.library.catalog import personas, voices
from personaplex_cli.options import PORT
from personaplex_cli.protocols.adapter import Begin, Credentials
from personaplex_cli.protocols.twilio import Twilio
from personaplex_cli.protocols.wire import Request
from personaplex_cli.server.app import SOCKETS
from personaplex_cli.server.metrics import Metrics

README = ROOT / "README.md"
MADE_UP = {"my.wav", "sample.wav", "ada"}  # voices and personas of the reader's own
INSTALLING = {"run", "test"}  # blocks that `.ci/run` executes
RUNNABLE = [(path, block) for path in DOCUMENTS for block in blocks(path.read_text("utf-8")) if block.name]
RUNNABLE = [(path, block) for path, block in RUNNABLE if block.name not in INSTALLING]
NEEDED = ("curl", "openssl")  # by some of them
NAMES = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def documents() -> Any:
    return pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def commands(group: Any) -> Iterator[Any]:
    yield group
    for each in getattr(group, "commands", {}).values():
        yield from commands(each)


def parse(arguments: list[str]) -> dict[str, Any]:
    """What a command line sets. Raises what Typer raises for one that is wrong; nothing runs."""
    command, context, values = typer.main.get_command(app), None, {}
    name, rest = "personaplex", arguments
    while command is not None:
        try:
            context = command.make_context(name, list(rest), parent=context)
        except typer.Exit:  # --help, --version
            return values
        values |= context.params
        rest = [*context._protected_args, *context.args]
        if not (hasattr(command, "commands") and rest):
            return values
        name, command, rest = command.resolve_command(context, rest)
    return values


def test_a_wrong_command_line_is_noticed() -> None:
    for wrong in (
        ["chat", "--voise", "NATF2"],
        ["talkk"],
        ["serve", "--queue", "many"],
        ["personas", "show", "chef", "--jsn"],
    ):
        with pytest.raises(Exception, match=r"No such|valid integer"):
            parse(wrong)


@pytest.mark.parametrize("command", EXAMPLES)
def test_help_has_examples_that_parse_and_no_types_of_python(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "100", "TERM": "dumb"}).output
    assert not re.search(r"<\w+[\[\w\]]*>|\[\[|\[default: \(|\[default: \]", shown)
    for example in EXAMPLES[command]:
        assert example[:60] in shown
        line = shlex.split(example.rpartition("|")[2].partition("<")[0].partition(" > ")[0])
        assert line[:2] == ["personaplex", command]
        parse(line[1:])


@documents()
def test_every_command_line_parses(path: Path) -> None:
    known_voices = {each.name for each in voices()} | MADE_UP
    known_personas = {each.name for each in personas()} | MADE_UP
    for arguments in command_lines(path.read_text("utf-8")):
        if "--install-completion" in arguments or (arguments[0] in NAMES and len(arguments) == 1):
            continue  # the parser itself would do it; a command is named, not typed
        try:
            values = parse(arguments)
        except Exception as error:
            pytest.fail(f"{path.name}: personaplex {' '.join(arguments)}: {getattr(error, 'message', error)}")
        assert values.get("voice") in {None, *known_voices}, arguments
        assert values.get("persona") in {None, *known_personas}, arguments


@documents()
def test_every_option_and_variable_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    group = typer.main.get_command(app)
    known = {flag for each in commands(group) for param in each.params for flag in (*param.opts, *param.secondary_opts)}
    assert options(text) <= known | {"--help"}
    sources = "".join(each.read_text("utf-8") for each in (ROOT / "personaplex_cli").rglob("*.py"))
    set_by = {variable for names in settable(group).values() for each in names.values() for variable in each}
    assert {each for each in variables(text) if each not in set_by and f'"{each}"' not in sources} == set()


def test_the_example_of_a_dotenv_file_names_variables_that_exist() -> None:
    group = typer.main.get_command(app)
    set_by = {variable for names in settable(group).values() for each in names.values() for variable in each}
    text = (ROOT / ".env.example").read_text("utf-8")
    assert variables(text) <= set_by
    assert {option[2:] for option in re.findall(r"--[a-z-]+", text)} == set()


@documents()
def test_every_link_and_file_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    for target in links(text):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text("utf-8")), target
    for name in file_names(text):
        assert (ROOT / name).exists(), name


@documents()
def test_toml_in_the_documents_can_be_read(path: Path) -> None:
    for block in blocks(path.read_text("utf-8")):
        if block.language == "toml":
            tomllib.loads(block.body)


def test_every_document_is_linked_from_the_readme() -> None:
    linked = {(README.parent / each.partition("#")[0]).resolve() for each in links(README.read_text("utf-8"))}
    assert {path.resolve() for path in DOCUMENTS} - linked == {README}


def test_every_example_is_listed() -> None:
    folder = ROOT / "examples"
    there_are = {path.name for path in folder.iterdir() if path.suffix in (".py", ".ipynb")}
    assert there_are == {each for each in links((folder / "README.md").read_text("utf-8")) if "/" not in each}


def test_the_readme_is_short_and_says_how_to_install_and_test() -> None:
    text = README.read_text("utf-8")
    assert len(text.splitlines()) < 200
    assert {"run", "test"} <= {block.name for block in blocks(text)}


def test_every_command_is_documented() -> None:
    texts = [path.read_text("utf-8") for path in DOCUMENTS]
    named = {arguments[0] for text in texts for arguments in command_lines(text) if arguments}
    assert {name for name, each in NAMES.items() if not each.hidden} <= named


def test_figures_are_named_as_the_server_counts_them() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/personaplex.json").read_text("utf-8"))
    asked = " ".join(each["expr"] for panel in dashboard["panels"] for each in panel["targets"])
    serving = " ".join(inline((ROOT / "docs/serving.md").read_text("utf-8")))
    metrics = Metrics()
    metrics.step(1, 1.0)
    metrics.ended("left", True, 0, 0)
    metrics.turned_away("busy")
    counted = set(re.findall(r"^personaplex_\w+", metrics.text().decode(), re.M))
    counted = {name for name in counted if not name.endswith("_created")}
    assert set(re.findall(r"personaplex_\w+", asked)) <= counted
    whole = {re.sub("_(bucket|count|sum)$", "", name) for name in counted}
    assert set(re.findall(r"personaplex_(?!cli)\w+", serving)) == whole


def test_every_close_code_is_documented() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "personaplex_cli/server").glob("*.py"))
    codes = {*re.findall(r"\bClosing\([^()]*?\b(\d{4})\b", sources), "1000"}
    table = (ROOT / "docs/serving.md").read_text("utf-8").partition("## Close codes")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| (\d{4})", table, re.M)) == codes | {"1008"}


def test_the_calls_of_telephones_md_are_let_in() -> None:
    """Its TwiML is XML, goes to an address of the server's, and says what the server understands."""
    (block,) = re.findall(r"```xml\n(.*?)```", (ROOT / "docs/telephones.md").read_text("utf-8"), re.S)
    (stream,) = ElementTree.fromstring(block.replace('<?xml version="1.0" encoding="UTF-8"?>', "")).findall(
        ".//Connect/Stream"
    )
    assert SOCKETS["/" + stream.attrib["url"].rpartition("/")[2]] is Twilio
    parameters = {each.attrib["name"]: each.attrib["value"] for each in stream}
    credentials, begin = Twilio().decode(
        json.dumps({"event": "start", "streamSid": "MZ1", "start": {"customParameters": parameters}})
    )
    assert credentials == Credentials("YOUR-TOKEN")
    assert isinstance(begin, Begin) and begin.request == Request(parameters["voice"], parameters["persona"])
    assert parameters["voice"] in {each.name for each in voices()}
    assert parameters["persona"] in {each.name for each in personas()}


def test_what_the_containers_copy_and_set_exists() -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text("utf-8")
    group = typer.main.get_command(app)
    set_by = {variable for names in settable(group).values() for each in names.values() for variable in each}
    compose = (ROOT / "deploy/compose.yaml").read_text("utf-8")
    assert variables(dockerfile) | variables(compose) <= set_by
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.M):
        for name in line.split():
            assert (ROOT / name).exists() and name in allowed, name


def lists_of_words(node: Any) -> Iterator[list[str]]:
    """Every list of words in a YAML document."""
    if isinstance(node, list) and node and all(isinstance(each, str) for each in node):
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for each in children:
        yield from lists_of_words(each)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.replicas.yaml", "kubernetes.yaml"])
def test_what_the_manifests_start_and_ask_exists(name: str) -> None:
    text = (ROOT / "deploy" / name).read_text("utf-8")
    started = [words for node in yaml.safe_load_all(text) for words in lists_of_words(node) if words[0] in NAMES]
    served = [parse(words) for words in started if words[0] == "serve"]
    assert served
    balancer = (ROOT / "deploy/haproxy.cfg").read_text("utf-8")
    serving = inline((ROOT / "docs/serving.md").read_text("utf-8"))
    assert {*re.findall(r"httpGet: {path: (\S+),", text), *re.findall(r"httpchk GET (\S+)", balancer)} <= set(serving)
    patience = [int(seconds) for seconds in re.findall(r"terminationGracePeriodSeconds: (\d+)", text)]
    patience += [60 * int(minutes) for minutes in re.findall(r"stop_grace_period: (\d+)m", text)]
    assert all(each["drain"] + 30 < least for each in served for least in patience)


@pytest.mark.skipif(not shutil.which("haproxy"), reason="needs haproxy")
def test_haproxy_understands_its_file() -> None:
    command = ["haproxy", "-c", "-q", "-f", str(ROOT / "deploy/haproxy.cfg")]
    checked = subprocess.run(command, env={**os.environ, "REPLICAS": "replica:8998"}, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def shorten(path: Path) -> None:
    """Keep three seconds of a recording: commands are tried here, not what is answered."""
    with wave.open(str(path)) as sound:
        parameters, kept = sound.getparams(), sound.readframes(3 * sound.getframerate())
    with wave.open(str(path), "wb") as sound:
        sound.setparams(parameters)
        sound.writeframes(kept)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "block"), RUNNABLE, ids=lambda value: getattr(value, "name", ""))
def test_what_needs_no_gpu_runs_as_printed(path: Path, block: Any, tmp_path: Path) -> None:
    """With the demo model, in a folder with examples and tools, in a shell that stops at the first failure."""
    for program in NEEDED:
        if re.search(rf"\b{program}\b", block.body) and not shutil.which(program):
            pytest.skip(f"needs {program}")
    if str(PORT) in block.body and not _free(PORT):
        pytest.skip(f"something listens at port {PORT}")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shorten(tmp_path / "examples/question.wav")
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    beside = Path(sys.executable).parent
    if not (beside / "personaplex").exists():
        pytest.skip("personaplex is not installed beside this Python")
    environment = {**os.environ, "PERSONAPLEX_MODEL": "demo", "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}"}
    script = f"trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n{block.body}"
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            said, _ = shell.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            raise
    assert shell.returncode == 0, said


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
