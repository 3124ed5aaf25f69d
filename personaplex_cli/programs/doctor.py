"""The program behind `personaplex doctor`: what is right and wrong on this machine, fit for a bug report.

The parts of the program check themselves; here are their order, what belongs to no part, and privacy. Every check is
independent of the others: one that fails becomes a finding. Nothing is downloaded and nothing changed; only Triton
keeps the kernels that it tries, in a cache of its own. No finding holds sound, a prompt, a token, the home folder or
the login name.
"""

import getpass
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from personaplex_cli import __version__
from personaplex_cli.errors import PersonaplexError
from personaplex_cli.events import Listener, Note
from personaplex_cli.files import GIGABYTE, main_memory
from personaplex_cli.findings import OK, WARNING, WRONG, Finding, warn_if
from personaplex_cli.library import settings
from personaplex_cli.options import DeviceOptions, SoundCardOptions

# What stays in main memory, and what is on its way to the GPU, torch included: an estimate, on the safe side.
MAIN_MEMORY_BYTES = 4 * GIGABYTE
PACKAGES = ("torch", "moshi", "huggingface-hub", "numpy", "safetensors", "sentencepiece", "sounddevice", "sphn", "soxr")
EXTRAS = ("triton", "pywebrtc-audio", "faster-whisper", "aiohttp", "typer", "rich")  # in a report only
NARROW = 72  # columns
DISTURBING_ECHO = -40.0  # dB: speech at -20 dBFS comes back at -60, below which it does not disturb the model
SLOW_CARD = 250.0  # milliseconds; above it people begin to talk at the same time
NOISY_ROOM = -40.0  # dBFS
NOISELESS = -90.0  # dBFS: less than any microphone in a room has
COMMON_LOGINS = {"", "root", "user", "admin", "ubuntu", "debian", "fedora", "pi", "nvidia"}  # of no one in particular

# For each command the options that settings files and the environment may set, with their environment variables.
Settable = Mapping[str, Mapping[str, Collection[str]]]
Check = Callable[[], Iterable[Finding]]


def examine(
    model: DeviceOptions, card: SoundCardOptions, settable: Settable, with_sound: bool, listen: Listener
) -> list[Finding]:
    """Check everything that a talk needs, in this order. With sound, chirps are played and listened for."""
    checks: list[tuple[str, Check]] = [
        ("system", _system),
        ("packages", _packages),
        ("GPU", lambda: _gpus(model)),
        ("talking", lambda: _talking(model)),
        ("main memory", _main_memory),
        ("model", lambda: _model(model)),
        ("sound", lambda: _sound(card)),
        ("echo canceller", _echo_canceller),
        ("terminal", _terminal),
        ("settings", lambda: _settings(settable)),
    ]
    if with_sound:
        checks.append(("echo", lambda: _echo(card, listen)))
    findings: dict[tuple[str, ...], Finding] = {}
    for name, check in checks:
        for each in map(discreet, _results(name, check)):
            # One cause may fail several checks: it is reported once.
            key = (each.kind, each.found, each.name) if each.kind == OK else (each.kind, each.found)
            findings.setdefault(key, each)
    return list(findings.values())


def exit_code(findings: Sequence[Finding]) -> int:
    """0 if `chat` could work here, else the code of the first thing that is wrong."""
    return next((each.exit_code for each in findings if each.kind == WRONG), 0)


def by_urgency(findings: Sequence[Finding]) -> list[Finding]:
    """What is wrong first, then warnings, then what is right; a token that is missing goes before what needs it."""

    def urgency(each: Finding) -> int:
        return 0 if each.kind == WRONG or (each.name == "token" and each.kind == WARNING) else 1 + (each.kind == OK)

    return sorted(findings, key=urgency)


def verdict(findings: Sequence[Finding], model: str) -> tuple[str, str]:
    """The kind of the whole, and a sentence: whether a talk with this model could work here, and what to do first."""
    urgent = [each for each in by_urgency(findings) if each.kind != OK]
    wrong, what = sum(each.kind == WRONG for each in urgent), f"for a talk with {_discreet(model)}"
    if wrong:
        amount = "one thing is" if wrong == 1 else f"{wrong} things are"
        first = f"{urgent[0].found.rstrip('.')}. {urgent[0].advice}".strip()
        return WRONG, f"Not ready {what}: {amount} wrong. First: {first}"
    if urgent:
        return WARNING, f"Ready {what}; worth a look: {', '.join(dict.fromkeys(each.name for each in urgent))}."
    return OK, f"Ready {what}: run `personaplex chat`."


def report(findings: Sequence[Finding]) -> dict[str, Any]:
    """All of it as plain values, for a bug report."""
    found = [asdict(finding) for finding in findings]
    return {"personaplex": __version__, "exit_code": exit_code(findings), "findings": found}


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
    login = ""
    with suppress(KeyError, OSError, ImportError):  # there is none
        login = getpass.getuser()
    if login.lower() not in COMMON_LOGINS:
        yield re.compile(rf"(?<!\w){re.escape(login)}(?!\w)", re.IGNORECASE), "(user)"


def _results(name: str, check: Check) -> Iterator[Finding]:
    """What a check found, its own failure included."""
    try:
        yield from check()
    except PersonaplexError as error:
        yield Finding(WRONG, name, str(error), error.hint, exit_code=error.exit_code)
    except Exception as error:
        # Not what was checked: a package that is missing or broken, a system that this was never tried on.
        lines = str(error).splitlines() or [""]
        yield Finding(WARNING, name, f"This could not be checked: {type(error).__name__}: {lines[0]}")


# The parts of the program are imported only now: the packages that they need may be missing or broken.


def _gpus(model: DeviceOptions) -> Iterable[Finding]:
    from personaplex_cli.loader.preflight import check_gpus

    return check_gpus(model)


def _talking(model: DeviceOptions) -> Iterable[Finding]:
    from personaplex_cli.loader.preflight import check_talking

    return check_talking(model)


def _model(model: DeviceOptions) -> Iterable[Finding]:
    from personaplex_cli.library.inventory import check

    return check(model)


def _sound(card: SoundCardOptions) -> Iterable[Finding]:
    from personaplex_cli.audio.devices import check

    return check(card)


def _system() -> Iterator[Finding]:
    version, python = platform.python_version(), platform.python_implementation()
    figures = {"python": version, "implementation": python, "system": platform.platform(), "cores": os.cpu_count()}
    yield Finding(OK, "system", f"Python {version} on {platform.system()} {platform.machine()}", figures=figures)


def _packages() -> Iterator[Finding]:
    versions = {name: _version(name) for name in (*PACKAGES, *EXTRAS)}
    if missing := [name for name in PACKAGES if versions[name] is None]:
        found, advice = f"{' and '.join(missing)} not installed", f"`pip install {' '.join(missing)}`."
        yield Finding(WRONG, "packages", found, advice, versions, PersonaplexError.exit_code)
    else:
        found = f"personaplex {__version__}, torch {versions['torch']}, moshi {versions['moshi']}"
        yield Finding(OK, "packages", found, figures=versions)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _main_memory() -> Iterator[Finding]:
    free, total = main_memory()
    figures = {"total": total, "free": free}
    sizes = [f"{free / GIGABYTE:.1f} GB free"] if free is not None else []
    found = " of ".join(sizes + ([f"{total / GIGABYTE:.1f} GB"] if total else [])) or "unknown on this system"
    advice = f"Loading takes about {MAIN_MEMORY_BYTES / GIGABYTE:.0f} GB: close other programs."
    yield warn_if(free is not None and free < MAIN_MEMORY_BYTES, "main memory", found, advice, figures)


def _echo_canceller() -> Iterator[Finding]:
    version = _version("pywebrtc-audio")
    found = version or "not installed; it is for loudspeakers only (`pip install pywebrtc-audio`)"
    yield Finding(OK, "echo canceller", found, figures={"version": version})


def _terminal() -> Iterator[Finding]:
    columns, lines = shutil.get_terminal_size()
    is_terminal, encoding, term = sys.stdout.isatty(), sys.stdout.encoding, os.environ.get("TERM")
    figures = {"is_terminal": is_terminal, "columns": columns, "lines": lines, "encoding": encoding, "TERM": term}
    shown = f"{columns} columns, {lines} lines, {encoding}"
    found = shown if is_terminal else "none on standard output: a talk is shown as plain lines"
    advice = f"The panel looks best with {NARROW} columns or more."
    yield warn_if(is_terminal and columns < NARROW, "terminal", found, advice, figures)


def _settings(settable: Settable) -> Iterator[Finding]:
    """The files that settings come from, and the names of what is set, never the values."""
    path = settings.config_path()
    dotenv = settings.load_dotenv_file()
    contents = settings.read_config(path)
    settings.default_map(path, settable)
    used = [str(each) for each in (path if path.exists() else "", dotenv.path) if each]
    variables = [names for options in settable.values() for names in options.values()]
    known = {"PERSONAPLEX_CONFIG"}.union(*variables)
    in_force = sorted(name for name in known if os.environ.get(name))
    unknown = sorted(name for name in os.environ if name.startswith("PERSONAPLEX_") and name not in known)
    figures = {"files": used, "config": sorted(contents), "variables": in_force, "unknown": unknown}
    found = " and ".join(used) or "no config.toml and no .env: all defaults"
    if in_force:
        found += f"; in the environment: {', '.join(in_force)}"
    yield Finding(OK, "settings", found, figures=figures)
    if dotenv.refused:
        found = f"{dotenv.path} may not set {', '.join(dotenv.refused)}"
        yield Finding(WARNING, "variable", found, "Set it in the environment, if you want it.")
    for name in unknown:
        near = get_close_matches(name, known, n=1, cutoff=0.8)
        advice = f"Did you mean {near[0]}?" if near else "Nothing reads it."
        yield Finding(WARNING, "variable", f"there is no setting {name}", advice, {"unknown": name})


def _echo(card: SoundCardOptions, listen: Listener) -> Iterator[Finding]:
    """Play chirps, and measure what the microphone hears of them."""
    from personaplex_cli.audio.loopback import measure_loopback

    listen(Note("You should hear five chirps. Please be quiet for eight seconds."))
    result = measure_loopback(card)
    if result.glitches:
        lost = ", ".join(f"{count} {kind}" for kind, count in result.glitches.items())
        advice = "Close other programs, or try --device-rate 48000."
        yield Finding(WARNING, "sound card", f"lost or filled in within eight seconds: {lost}", advice, result.glitches)
    found, advice = f"{result.noise:.0f} dBFS without speech", "That is loud, and the agent hears it, too."
    if result.silent:
        found = "the microphone delivers nothing but silence"
        advice = "Is it switched off, or is this program not allowed to use it (privacy settings of the system)?"
    figures = {"dbfs": result.noise, "silent": result.silent}
    yield warn_if(result.silent or result.noise > NOISY_ROOM, "noise", found, advice, figures)
    figures = asdict(result) | {"median": result.delay if result.heard else None}
    if not result.heard:
        yield Finding(OK, "echo", "none heard: headphones, or the microphone is muted", figures=figures)
        return
    if result.noise < NOISELESS:
        found = "the input is the speaker's own sound: it comes back without any noise, as in no room"
        yield Finding(WARNING, "input", found, "Choose a microphone: --input-device.")
    found = f"the speaker comes back at {round(result.level)} dB of what was played"
    advice = "The microphone hears the speaker: use headphones or --echo-cancel."
    yield warn_if(result.level > DISTURBING_ECHO, "echo", found, advice, figures)
    found = f"{result.delay:.0f} ms from the agent's voice back to its ears (spread {result.spread:.0f} ms"
    found += f", {len(result.delays)} chirps; the system reports {result.reported:.0f} ms)"
    figures = {"milliseconds": result.delay, "spread": result.spread, "reported": result.reported}
    yield warn_if(result.delay > SLOW_CARD, "round trip", found, "Is this Bluetooth? A cable is faster.", figures)
