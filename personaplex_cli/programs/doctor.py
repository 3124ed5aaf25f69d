"""The program behind `personaplex doctor`: what is right and wrong on this machine, told so that it may be passed on.

Every look is independent of the others: one that fails becomes a finding. Nothing is downloaded and nothing changed;
only Triton keeps the kernels that it tries, in a cache of its own. What is found holds no sound, no prompt, no token,
no home folder and no login name.
"""

import getpass
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
from dotenv import find_dotenv

from personaplex_cli import __version__
from personaplex_cli.errors import DeviceError, ModelError, PersonaplexError
from personaplex_cli.events import Event, Listener, Note
from personaplex_cli.library import settings
from personaplex_cli.library.weights import DEFAULT_MODEL, DEMO
from personaplex_cli.lookup import Machine
from personaplex_cli.samples import SAMPLE_RATE

if TYPE_CHECKING:
    from personaplex_cli.audio.devices import CardChoice
    from personaplex_cli.audio.loopback import LoopbackResult
    from personaplex_cli.library.inventory import Inventory

OK, WARNING, WRONG = "ok", "warning", "wrong"

GIGABYTE = 10**9
MODEL_BYTES = 18 * GIGABYTE  # on the disk, with room to spare
INT8_BYTES = 8.5 * GIGABYTE
# What stays in main memory, and what is on its way to the GPU, torch included: an estimate, on the safe side.
MAIN_MEMORY_BYTES = 4 * GIGABYTE
PACKAGES = ("torch", "moshi", "huggingface-hub", "numpy", "safetensors", "sentencepiece", "sounddevice", "sphn", "soxr")
EXTRAS = ("triton", "pywebrtc-audio", "aiohttp", "typer", "rich")  # told in a report only
TELEPHONE_RATE = 16_000  # hertz; a headset that listens by Bluetooth has no more
NARROW = 72  # columns
DISTURBING_ECHO = -40.0  # dB: speech at -20 dBFS comes back at -60, below which it does not disturb the model
SLOW_CARD = 250.0  # milliseconds; above it people begin to talk at the same time
NOISY_ROOM = -40.0  # dBFS
# They tell nobody's name.
EVERYBODYS_LOGINS = {"", "root", "user", "admin", "ubuntu", "debian", "fedora", "pi", "nvidia"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `kind` is ok, warning (talking goes on) or wrong; `found` and `advice` are texts.

    `figures` has what was found for programs; `exit_code` is that of what is wrong, as errors have it.
    """

    kind: str
    name: str
    found: str
    advice: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0


@dataclass(frozen=True)
class Options:
    """The options that there are: for each command, by name. They are what may be set elsewhere."""

    of: Mapping[str, Collection[str]]

    @property
    def variables(self) -> set[str]:
        """The environment variables that mean something."""
        names = {name for each in self.of.values() for name in each}
        return {variable for name in names for variable in settings.variable(name)} | {"PERSONAPLEX_CONFIG"}


Look = Callable[[], Iterable[Finding]]


def examine(
    machine: Machine, choice: "CardChoice", options: Options, with_sound: bool, listen: Listener
) -> list[Finding]:
    """Look at everything that a talk needs, in this order. With sound, chirps are played and listened for."""
    looks: list[tuple[str, Look]] = [
        ("system", _system),
        ("packages", _packages),
        ("GPU", lambda: _gpus(machine)),
        ("talking", lambda: _talking(machine)),
        ("main memory", _main_memory),
        ("model", lambda: _model(machine)),
        ("sound", lambda: _sound(choice)),
        ("echo canceller", _echo_canceller),
        ("terminal", _terminal),
        ("settings", lambda: _settings(options)),
    ]
    if with_sound:
        looks.append(("echo", lambda: _echo(choice, listen)))
    found = [discreet(finding) for name, look in looks for finding in _looked(name, look)]
    # One trouble may spoil several looks: it is told once.
    return [each for index, each in enumerate(found) if each.kind == OK or not _told(each, found[:index])]


def _told(finding: Finding, before: Sequence[Finding]) -> bool:
    return any((each.kind, each.found) == (finding.kind, finding.found) for each in before)


def exit_code(findings: Sequence[Finding]) -> int:
    """0 if `chat` could work here, else the code of the first thing that is wrong."""
    return next((each.exit_code for each in findings if each.kind == WRONG), 0)


def report(findings: Sequence[Finding]) -> dict[str, Any]:
    """All of it as plain values, for a bug report."""
    return {
        "personaplex": __version__,
        "exit_code": exit_code(findings),
        "findings": [asdict(finding) for finding in findings],
    }


def rows(findings: Sequence[Finding]) -> list[tuple[str, str, str, str]]:
    return [(each.kind, each.name, each.found, each.advice) for each in findings]


def discreet(finding: Finding) -> Finding:
    """The same without the home folder and the login name."""
    return Finding(**_discreet(asdict(finding)))


def _discreet(value: Any) -> Any:
    if isinstance(value, str):
        for pattern, replacement in _private():
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, dict):
        return {key: _discreet(each) for key, each in value.items()}
    return [_discreet(each) for each in value] if isinstance(value, list | tuple) else value


def _private() -> Iterator[tuple[re.Pattern[str], str]]:
    home = Path.home()
    for folder in {str(home), str(home.resolve())}:
        if folder != home.anchor:
            yield re.compile(rf"{re.escape(folder)}(?![\w.-])"), "~"
    try:
        login = getpass.getuser()
    except (KeyError, OSError, ImportError):  # there is none
        return
    if login.lower() not in EVERYBODYS_LOGINS:
        yield re.compile(rf"(?<!\w){re.escape(login)}(?!\w)", re.IGNORECASE), "(user)"


def _looked(name: str, look: Look) -> list[Finding]:
    """What a look found, or why it found nothing: whatever goes wrong is a finding, too."""
    found = []
    try:
        for finding in look():
            found.append(finding)
    except PersonaplexError as error:
        found.append(Finding(WRONG, name, str(error), error.hint, exit_code=error.exit_code))
    except Exception as error:
        # Something else than what is looked for: a package that is missing or broken, a system that nobody tried.
        lines = str(error).splitlines() or [""]
        found.append(Finding(WARNING, name, f"This could not be looked at: {type(error).__name__}: {lines[0]}"))
    return found


def _system() -> Iterator[Finding]:
    version = platform.python_version()
    figures = {
        "python": version,
        "implementation": platform.python_implementation(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }
    yield Finding(OK, "system", f"Python {version} on {platform.system()} {platform.machine()}", figures=figures)


def _packages() -> Iterator[Finding]:
    versions = {name: _version(name) for name in (*PACKAGES, *EXTRAS)}
    missing = [name for name in PACKAGES if versions[name] is None]
    told = f"personaplex {__version__}, torch {versions['torch']}, moshi {versions['moshi']}"
    if missing:
        advice = f"`pip install {' '.join(missing)}`, or install this program anew."
        yield Finding(
            WRONG, "packages", f"{' and '.join(missing)} not installed", advice, versions, PersonaplexError.exit_code
        )
    else:
        yield Finding(OK, "packages", told, figures=versions)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus(machine: Machine) -> Iterator[Finding]:
    from personaplex_cli.loader.preflight import built_for, gpus

    found, said = gpus()
    build = f"this PyTorch is built for {built_for()}"
    for index, gpu in enumerate(found):
        memory = f"{gpu.free / GIGABYTE:.1f} of {gpu.total / GIGABYTE:.1f} GB free"
        told = f"{gpu.name}, compute capability {gpu.capability}, {memory}; {build}"
        yield Finding(OK, f"GPU {index}", told, figures=asdict(gpu) | {"built_for": built_for(), "said": said})
    if not found:
        figures = {"built_for": built_for(), "said": said, "nvidia_smi": shutil.which("nvidia-smi") is not None}
        told = f"none that PyTorch can use by CUDA; {'; '.join([build, *said])}"
        advice = ""
        if figures["nvidia_smi"]:
            advice = (
                "`nvidia-smi` is here: install a PyTorch that suits its driver, see https://pytorch.org/get-started."
            )
        yield Finding(WARNING if advice else OK, "GPU", told, advice, figures)


def _talking(machine: Machine) -> Iterator[Finding]:
    """Whether the model could talk here, and how much of the talk it would remember."""
    from personaplex_cli.engine.quantised import why_no_kernels
    from personaplex_cli.loader.preflight import outlook

    if machine.model == DEMO:
        yield Finding(OK, "talking", "the demo model is fast enough on any machine; what it says is noise")
        return
    told: list[Event] = []
    expected = outlook(machine.device, machine.precision, told.append)
    figures = asdict(expected)
    if expected.device == "cpu":
        advice = "Use a GPU elsewhere (--server HOST, see README), or try the machinery with --model demo."
        yield Finding(WRONG, "talking", "the 7B model needs a GPU to talk", advice, figures, DeviceError.exit_code)
        return
    if expected.device == "mps":
        advice = "On a Mac, https://github.com/benob/personaplex-mlx is made for it."
        yield Finding(WARNING, "talking", "a Mac's GPU; nobody has measured the 7B model on it", advice, figures)
        return
    why = why_no_kernels()
    notes = [event.text for event in told if isinstance(event, Note)]
    remembers = f"{expected.precision}, and {expected.remembers:.0f} s of the talk are remembered"
    yield Finding(OK, "talking", remembers, " ".join(notes), figures)
    found = f"cannot be used: {why}" if why else "can be used"
    advice = "int8 and int4 then save memory, but take more time than bf16." if why else ""
    kind = WARNING if why and expected.is_quantised else OK
    yield Finding(kind, "Triton kernels", found, advice, {"why_not": why})


def _main_memory() -> Iterator[Finding]:
    total, free = _memory()
    if free is None:
        yield Finding(OK, "main memory", f"{total / GIGABYTE:.1f} GB" if total else "this system does not tell")
        return
    short = free < MAIN_MEMORY_BYTES
    told = f"{free / GIGABYTE:.1f} GB free"
    told += f" of {total / GIGABYTE:.1f}" if total else ""
    advice = f"Loading takes about {MAIN_MEMORY_BYTES / GIGABYTE:.0f} GB: close other programs." if short else ""
    yield Finding(WARNING if short else OK, "main memory", told, advice, {"total": total, "free": free})


def _memory() -> tuple[int | None, int | None]:
    """Bytes of main memory, and of them those that are free to be used; None for what the system does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        lines = Path("/proc/meminfo").read_text().splitlines()
    except AttributeError:  # Windows
        return None, None
    except (OSError, ValueError):
        return total, None
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return total, 1024 * int(kilobytes[0]) if kilobytes else None


def _model(machine: Machine) -> Iterator[Finding]:
    from personaplex_cli.library.inventory import inventory_of_folder, inventory_of_repo

    if machine.model == DEMO:
        yield Finding(OK, "model", "demo: made here when it is needed, nothing to download")
        return
    folder = Path(machine.model).expanduser()
    own = folder.is_dir() or machine.model.startswith((".", "/", "~"))
    stock = inventory_of_folder(folder) if own else inventory_of_repo(machine.model, machine.revision)
    yield _files(machine.model_name, stock, own)
    if not own:
        yield _token(machine.model, stock)
        yield from _disk(stock)


def _files(name: str, stock: "Inventory", own: bool) -> Finding:
    size = sum(stock.here.values())
    figures = asdict(stock)
    get = "Copy what is missing into the folder." if own else "Run `personaplex download`."
    if stock.is_whole:
        return Finding(OK, "model", f"{name} is here, {size / GIGABYTE:.1f} GB, every file whole", figures=figures)
    if stock.damaged:
        # The download asks only whether there is something by this name.
        spoilt = " and ".join(str(Path(stock.folder) / each) for each in stock.damaged)
        advice = f"Delete {spoilt}, then {'copy it there again' if own else 'run `personaplex download`'}."
        told = f"{name}: damaged, or cut short: {', '.join(stock.damaged)}"
        return Finding(WRONG, "model", told, advice, figures, ModelError.exit_code)
    begun = f"; {(size + stock.begun) / GIGABYTE:.1f} GB of it are" if size + stock.begun else ""
    what = f"{name} is not here{begun}" if not stock.here else f"{name} lacks {', '.join(stock.missing)}{begun}"
    return Finding(WRONG, "model", what, get, figures, ModelError.exit_code)


def _token(name: str, stock: "Inventory") -> Finding:
    from personaplex_cli.library.inventory import has_token

    there = has_token()
    found = "there is a Hugging Face token" if there else "there is no Hugging Face token"
    if there or stock.is_whole:
        return Finding(
            OK, "token", found if there else f"{found}, and none is needed any more", figures={"token": there}
        )
    advice = "Run `hf auth login`, or set HF_TOKEN."
    if name == DEFAULT_MODEL:
        advice = f"Accept the licence at https://huggingface.co/{name}, then run `hf auth login` or set HF_TOKEN."
    return Finding(WARNING, "token", found, advice, {"token": there})


def _disk(stock: "Inventory") -> Iterator[Finding]:
    from personaplex_cli.library.inventory import cache_folder, free_bytes

    folder, own = cache_folder(), platformdirs.user_cache_path("personaplex")
    free, free_own = free_bytes(folder), free_bytes(own)
    missing = 0 if stock.is_whole else MODEL_BYTES - sum(stock.here.values()) - stock.begun
    figures = {"model": {"free": free, "needed": missing}, "int8": {"free": free_own, "needed": INT8_BYTES}}
    told = f"{free / GIGABYTE:.1f} GB free at {folder}"
    if free_own != free:
        told += f", {free_own / GIGABYTE:.1f} GB at {own}"
    if free < missing:
        advice = f"The model needs {missing / GIGABYTE:.1f} GB there: make room, or set HF_HOME to another disk."
        yield Finding(WRONG, "disk", told, advice, figures, ModelError.exit_code)
    elif free_own < INT8_BYTES:
        advice = f"int8 keeps {INT8_BYTES / GIGABYTE:.1f} GB; without that room it is made anew each time."
        yield Finding(WARNING, "disk", told, advice, figures)
    else:
        yield Finding(OK, "disk", told, figures=figures)


def _sound(choice: "CardChoice") -> Iterator[Finding]:
    """PortAudio, and the devices that a talk would take: opened as for a talk, and closed again, nothing is heard."""
    from personaplex_cli.audio.devices import devices, open_card, portaudio, quiet_portaudio

    with quiet_portaudio():
        listed = devices()
        number, text = portaudio().get_portaudio_version()
        figures = {"version": number, "devices": [asdict(each) for each in listed]}
        systems = ", ".join(dict.fromkeys(each.host_api for each in listed))
        version = text.split(",")[0].removeprefix("PortAudio ")
        count = f"{len(listed)} device{'s' * (len(listed) != 1)}"
        yield Finding(OK, "PortAudio", f"{version}; {count}{f' ({systems})' if systems else ''}", figures=figures)
        card = open_card(choice, "low", lambda *_: None)
        card.close()
    for kind, side in (("microphone", card.microphone), ("speaker", card.speaker)):
        own = next((each.default_rate for each in listed if each.name == side.name), side.rate)
        figures = {**asdict(side), "own_rate": own}
        told = str(side) + ("" if side.rate == SAMPLE_RATE else ", resampled to 24 kHz")
        if min(own, side.rate) <= TELEPHONE_RATE:
            advice = f"{own / 1000:g} kHz sounds like a telephone: with Bluetooth, use another microphone."
            yield Finding(WARNING, kind, told, advice, figures)
        else:
            yield Finding(OK, kind, told, figures=figures)


def _echo_canceller() -> Iterator[Finding]:
    version = _version("pywebrtc-audio")
    told = version or "not installed; it is for loudspeakers only (`pip install pywebrtc-audio`)"
    yield Finding(OK, "echo canceller", told, figures={"version": version})


def _terminal() -> Iterator[Finding]:
    columns, lines = shutil.get_terminal_size()
    figures = {
        "is_terminal": sys.stdout.isatty(),
        "columns": columns,
        "lines": lines,
        "colours": _colours(),
        "encoding": sys.stdout.encoding,
        "TERM": os.environ.get("TERM", ""),
    }
    if not figures["is_terminal"]:
        yield Finding(OK, "terminal", "none on standard output: a talk is shown as plain lines", figures=figures)
        return
    told = f"{columns} columns, {lines} lines, {figures['colours']}, {sys.stdout.encoding}"
    advice = f"The panel looks best with {NARROW} columns or more." if columns < NARROW else ""
    yield Finding(WARNING if advice else OK, "terminal", told, advice, figures)


def _colours() -> str:
    term = os.environ.get("TERM", "")
    if os.environ.get("NO_COLOR"):
        return "no colours (NO_COLOR is set)"
    if term in ("dumb", "unknown"):
        return f"no colours (TERM is {term})"
    if os.environ.get("COLORTERM", "") in ("truecolor", "24bit"):
        return "16 million colours"
    return "256 colours" if "256color" in term else "16 colours"


def _settings(options: Options) -> Iterator[Finding]:
    """The files that settings come from. The names of what is set are told, never the values."""
    path = settings.config_path()
    settings.load_dotenv_file()
    contents = settings.read_toml(path, missing_ok=True)
    settings.default_map(path, options.of)
    used = [str(path)] if path.exists() else []
    if dotenv := find_dotenv(usecwd=True):
        used.append(dotenv)
    known = options.variables
    in_force = sorted(name for name in known if os.environ.get(name))
    unknown = sorted(name for name in os.environ if name.startswith("PERSONAPLEX_") and name not in known)
    figures = {"files": used, "config": sorted(contents), "variables": in_force, "unknown": unknown}
    told = f"{' and '.join(used)}" if used else "no config.toml and no .env: everything as it comes"
    if in_force:
        told += f"; in the environment: {', '.join(in_force)}"
    yield Finding(OK, "settings", told, figures=figures)
    for name in unknown:
        near = get_close_matches(name, known, n=1, cutoff=0.8)
        advice = f"Did you mean {near[0]}?" if near else "Nothing reads it."
        yield Finding(WARNING, "settings", f"there is no setting {name}", advice, {"unknown": name})


def _echo(choice: "CardChoice", listen: Listener) -> Iterator[Finding]:
    """Play chirps, and tell what the microphone made of them."""
    from personaplex_cli.audio.loopback import measure_loopback

    listen(Note("You should hear five chirps. Please be quiet for eight seconds."))
    came = measure_loopback(choice)
    figures = {**asdict(came), "median": came.delay if came.heard else None}
    if came.glitches:
        lost = ", ".join(f"{count} {kind}" for kind, count in came.glitches.items())
        yield Finding(WARNING, "sound card", f"lost or filled in within eight seconds: {lost}", _BUSY, came.glitches)
    yield _noise(came)
    if not came.heard:
        told = "none heard: headphones, or the microphone is muted"
        yield Finding(OK, "echo", told, figures=figures)
        return
    told = f"the speaker comes back at {round(came.level)} dB of what was played"
    if came.level > DISTURBING_ECHO:
        advice = "The microphone hears the speaker: use headphones or --echo-cancel."
        yield Finding(WARNING, "echo", told, advice, figures)
    else:
        yield Finding(OK, "echo", f"{told}: too soft to disturb", figures=figures)
    yield _round_trip(came)


def _noise(came: "LoopbackResult") -> Finding:
    figures = {"dbfs": came.noise, "silent": came.silent}
    if came.silent:
        advice = "Is it switched off, or is this program not allowed to use it (privacy settings of the system)?"
        return Finding(WARNING, "noise", "the microphone delivers nothing but silence", advice, figures)
    if came.noise > NOISY_ROOM:
        return Finding(WARNING, "noise", f"{came.noise:.0f} dBFS, which is loud", "The agent hears it, too.", figures)
    return Finding(OK, "noise", f"{came.noise:.0f} dBFS when nobody speaks", figures=figures)


def _round_trip(came: "LoopbackResult") -> Finding:
    told = f"{came.delay:.0f} ms from the agent's voice back to its ears (spread {came.spread:.0f} ms"
    told += f", {len(came.delays)} chirps; the system says {came.reported:.0f} ms)"
    figures = {"milliseconds": came.delay, "spread": came.spread, "reported": came.reported}
    if came.delay > SLOW_CARD:
        return Finding(WARNING, "round trip", told, "Is this Bluetooth? A cable is faster.", figures)
    return Finding(OK, "round trip", told, figures=figures)


_BUSY = "Close other programs, or try --device-rate 48000."
