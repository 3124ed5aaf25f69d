"""From flags, variables and config.toml to the objects that commands get."""

import re
from collections.abc import Iterator, Mapping
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from personaplex_cli.character import Sampling
from personaplex_cli.cli.binding import bound, settable
from personaplex_cli.cli.main import app, program
from personaplex_cli.errors import UsageError
from personaplex_cli.options import (
    AccessOptions,
    BenchOptions,
    CharacterOptions,
    ChatOptions,
    LiveModelOptions,
    LiveSoundCardOptions,
    OutputOptions,
    RemoteOptions,
    ServeOptions,
)

TABLE = Path(__file__).parents[1] / "data" / "options.tsv"
TALK = [CharacterOptions, LiveSoundCardOptions, ChatOptions, RemoteOptions, LiveModelOptions, Sampling]


def options(command: Any, name: str = "") -> Iterator[str]:
    """A line for each option: command, flags, the default that help shows, its panel, its environment variables."""
    for each in command.params:
        if each.param_type_name == "option" and "completion" not in each.name:
            told = re.search(r"\[default: (.*)\]\[", each.help or "")
            shown = told.group(1) if told else each.default
            flags = "/".join([*each.opts, *each.secondary_opts])
            yield "\t".join([name, flags, str(shown), each.rich_help_panel or "", " ".join(each.envvar or ())])
    for sub, inner in getattr(command, "commands", {}).items():
        yield from options(inner, f"{name} {sub}".strip())


def test_every_option_is_as_recorded() -> None:
    """Scripts and config files rely on them. A change on purpose changes the table, too."""
    assert sorted(options(typer.main.get_command(app))) == sorted(TABLE.read_text().splitlines())


def built(groups: list[type], *arguments: str, environment: dict[str, str] | None = None, **settings: Any) -> list[Any]:
    """What a command with parameters of these types is called with."""
    got: list[Any] = []

    def command(**values: Any) -> None:
        got.extend(values.values())

    parameters = [Parameter(f"p{n}", Parameter.KEYWORD_ONLY, annotation=group) for n, group in enumerate(groups)]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    one = typer.Typer()
    one.command()(bound(command))
    result = CliRunner().invoke(one, arguments, env=environment, default_map=settings)
    assert result.exit_code == 0, result.output
    return got


@pytest.mark.parametrize("groups", [TALK, [AccessOptions, ServeOptions], [OutputOptions], [BenchOptions]])
def test_without_arguments_the_defaults_are_those_of_the_dataclasses(groups: list[type]) -> None:
    assert built(groups) == [group() for group in groups]


def test_options_that_are_as_they_were_unless_given_are_only_those_of_the_command_line() -> None:
    arguments = ["--voice", "NATM1", "--seed", "0", "--greedy"]
    environment = {"PERSONAPLEX_PERSONA": "chef", "PERSONAPLEX_AUDIO_TOP_K": "9"}
    changes = Annotated[Mapping[str, Any], CharacterOptions, Sampling]
    given = {"voice": "NATM1", "seed": 0, "greedy": True}
    assert built([changes], *arguments, environment=environment) == [given]
    assert built([changes]) == [{}]


def test_flags_variables_and_settings_become_fields() -> None:
    arguments = ["--voice", "NATM1", "--input-device", "3", "--echo-cancel", "--log-file", "a.log", "--force"]
    environment = {"PERSONAPLEX_SERVER_URL": "gpu", "PERSONAPLEX_GREEDY": "true", "DEFAULT_PERSONA": "chef"}
    got = built(TALK, *arguments, environment=environment, seed="7", persona="teacher", audio_top_k="20", server="no")
    assert got == [
        CharacterOptions(voice="NATM1", persona="chef"),
        LiveSoundCardOptions(input_device="3", echo_cancel=True),
        ChatOptions(log_file=Path("a.log")),
        RemoteOptions("gpu"),
        LiveModelOptions(force=True),
        Sampling(seed=7, greedy=True, audio_top_k=20),
    ]
    assert got[4].force is True


def test_a_paired_flag_beats_what_is_set_and_a_list_becomes_a_tuple() -> None:
    pages = ["--origin", "https://a.example", "--origin", "https://b.example"]
    assert built([AccessOptions], *pages)[0].origin == ("https://a.example", "https://b.example")
    assert built([OutputOptions], "--no-transcript")[0].transcript is False
    offload = {"CPU_OFFLOAD": "1"}
    assert built([LiveModelOptions], environment=offload)[0].cpu_offload is True
    assert built([LiveModelOptions], "--no-cpu-offload", environment=offload)[0].cpu_offload is False


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "65536"],
        ["serve", "--port", "-1"],
        ["serve", "--queue", "1001"],
        ["serve", "--max-minutes", "0"],
        ["serve", "--token", ""],
        ["serve", "--ssl-key", "key.pem"],
        ["serve", "--static", "nowhere"],
        ["bench", "--frames", "0"],
        ["bench", "--prompt", "Be kind."],
        ["run", "a.wav", "--tail", "601"],
        ["run", "a.wav", "--tail", "nan"],
        ["run", "a.wav", "--seed", "1.5"],
        ["run", "a.wav", "--force"],
        ["run", "a.wav", "--json", "-o", "-"],
        ["run", "a.wav", "--audio-top-k", "0"],
        ["run", "a.wav", "--server", "gpu", "--token", "naïve"],
        ["run", "a.wav", "--server", "ftp://gpu"],
        ["chat", "--theme", "dracula"],
        ["chat", "--server", "a b"],
        ["chat", "--persona", "nobody"],
        ["nothing"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(arguments) == UsageError.exit_code
    assert capsys.readouterr().err


def test_config_and_doctor_know_the_same_options() -> None:
    known = settable(typer.main.get_command(app))
    assert known["chat"]["server"] == ["PERSONAPLEX_SERVER_URL", "MOSHI_WS_URL"]
    assert known["run"].keys() > {"tail", "voice", "seed"}
    assert "force" not in known["chat"] and known["voices"] == {}


def test_two_options_of_one_name_are_a_mistake_in_the_program() -> None:
    with pytest.raises(ValueError, match="duplicate parameter name: 'token'"):
        built([AccessOptions, RemoteOptions])
