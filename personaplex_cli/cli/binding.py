"""Options that several commands share, each declared once. All may be set by environment variables too."""

from typing import Annotated, Any

import typer

from personaplex_cli.library.settings import variable


def option(name: str, *flags: str, group: str | None = None, **more: Any) -> Any:
    """A Typer option that may also be set by its environment variables (see `library/settings.py`)."""
    flags = flags or (f"--{name.replace('_', '-')}",)
    return typer.Option(*flags, envvar=variable(name), rich_help_panel=group, show_envvar=False, **more)


SAMPLING = "Sampling"
MACHINE = "Machine"
SERVER = "A GPU elsewhere"
ACCESS = "Who gets in"
SOUND = "Sound"
SCREEN = "Screen"

Model = Annotated[str, option("model", group=MACHINE, help="demo, a folder, or a Hugging Face ORG/REPO.")]
Revision = Annotated[
    str | None, option("revision", group=MACHINE, help="Branch, tag or commit of the repository.", show_default="main")
]
Device = Annotated[str, option("device", group=MACHINE, help="auto, cuda, cuda:N, mps or cpu.")]
Precision = Annotated[
    str, option("precision", group=MACHINE, help="auto, bf16, fp16, fp32, int8, or int4 (experimental).")
]
Offload = Annotated[
    bool,
    option(
        "cpu_offload",
        "--cpu-offload/--no-cpu-offload",
        group=MACHINE,
        help="Keep layers that do not fit in main memory: for files; mostly too slow for talking.",
    ),
]
ServerUrl = Annotated[
    str | None,
    option(
        "server_url",
        "--server",
        group=SERVER,
        help="TokenGenerator with a server: HOST, HOST:PORT, ws://... or wss://...",
        show_default="the model runs here",
    ),
]
Token = Annotated[str | None, option("token", group=SERVER, help="What the server wants to see.", show_default="none")]
Insecure = Annotated[
    bool, option("insecure", "--insecure", group=SERVER, help="Trust any certificate, such as a self-signed one.")
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", rich_help_panel=MACHINE, help="TokenGenerator even if this is bound to be too slow for it."
    ),
]
VoiceName = Annotated[
    str | None,
    option("voice", help="A name from `personaplex voices`, or a sample of speech.", show_default="the persona's"),
]
PersonaName = Annotated[str, option("persona", help="A name from `personaplex personas`.")]
PromptText = Annotated[
    str | None, option("prompt", help="Text that replaces the persona's; @FILE reads it.", show_default="the persona's")
]
Seed = Annotated[int | None, option("seed", group=SAMPLING, help="Makes the answer repeatable.", show_default="random")]
Greedy = Annotated[bool, option("greedy", "--greedy", group=SAMPLING, help="Always take the likeliest token.")]
AudioTemperature = Annotated[float, option("audio_temperature", group=SAMPLING, help="0 to 5.")]
AudioTopK = Annotated[int, option("audio_top_k", group=SAMPLING, help="1 to 2048.")]
TextTemperature = Annotated[float, option("text_temperature", group=SAMPLING, help="0 to 5.")]
TextTopK = Annotated[int, option("text_top_k", group=SAMPLING, help="1 to 2048.")]
InputDevice = Annotated[
    str | None,
    option("input_device", group=SOUND, help="Microphone: an index or a part of its name.", show_default="system's"),
]
OutputDevice = Annotated[
    str | None,
    option("output_device", group=SOUND, help="Speaker: an index or a part of its name.", show_default="system's"),
]
DeviceRate = Annotated[
    int | None, option("device_rate", group=SOUND, help="Hertz of the sound card.", show_default="24000 if it can")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
