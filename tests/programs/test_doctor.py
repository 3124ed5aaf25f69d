"""The doctor: what it finds is true, every look stands for itself, and nothing private is in it."""

import importlib.metadata
import json
import os
import shutil
import struct
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakecard import FakeCard, device, plug_in
from fakehub import FakeHub
from fakemodel import MIMI, TOKENIZER, VOICES, WEIGHTS
from huggingface_hub.utils import reset_sessions
from rich.console import Console

from personaplex_cli.cli import main as cli
from personaplex_cli.errors import AudioError, DeviceError, ModelError, UsageError
from personaplex_cli.events import ignore
from personaplex_cli.findings import OK, WARNING, WRONG, Finding
from personaplex_cli.library.settings import variable
from personaplex_cli.library.spec import PERSONAPLEX
from personaplex_cli.library.weights import download
from personaplex_cli.loader.find import find_files
from personaplex_cli.options import DEFAULT_MODEL, DeviceOptions, SoundCardOptions
from personaplex_cli.programs import doctor
from personaplex_cli.programs.doctor import discreet, examine, exit_code, report
from personaplex_cli.screen.tables import show_findings

CARD = SoundCardOptions()
SETTABLE = {
    "chat": {name: variable(name) for name in ("model", "voice", "seed", "token")},
    "run": {"tail": ["PERSONAPLEX_TAIL"], "server": ["PERSONAPLEX_SERVER_URL", "MOSHI_WS_URL"]},
}
TOKEN = "hf_" + "aBcDeFgHiJ" * 4


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCard:
    """An empty folder to be in, an empty cache, a sound card made of numbers."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    fake = FakeCard()
    fake.get_portaudio_version = lambda: (1246720, "PortAudio V19.7.0, revision 1")  # type: ignore[attr-defined]
    return plug_in(fake, monkeypatch)


def found(model: str = "demo", card: SoundCardOptions = CARD, sound: bool = False) -> list[Finding]:
    return examine(DeviceOptions(model), card, SETTABLE, sound, ignore)


def named(findings: list[Finding], name: str) -> Finding:
    return next(each for each in findings if each.name == name)


def kinds(findings: list[Finding]) -> dict[str, str]:
    return {each.name: each.kind for each in findings}


def put_into_cache(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """As huggingface_hub keeps a repository; returns the folder of its files."""
    repo = tmp_path / "hub/models--nvidia--personaplex-7b-v1"
    folder = repo / "snapshots" / ("f00d" * 10)
    for path, content in {repo / "refs/main": b"f00d" * 10, **{folder / n: c for n, c in files.items()}}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def safetensors(size: int) -> bytes:
    header = json.dumps({"__metadata__": {"a": "b"}, "x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    return struct.pack("<Q", len(header)) + header.encode() + bytes(size)


WHOLE = {WEIGHTS: safetensors(100), MIMI: safetensors(0), TOKENIZER: b"t", VOICES: b"v"}


def test_the_demo_model_can_talk_here_and_nothing_is_played(machine: FakeCard) -> None:
    findings = found()
    assert not machine.played and machine.calls == 0
    assert exit_code(findings) == 0 and WRONG not in kinds(findings).values()
    assert {"system", "packages", "talking", "main memory", "model", "PortAudio", "settings"} <= set(kinds(findings))
    assert named(findings, "packages").figures["torch"] == torch.__version__.split("+")[0]


def test_every_advice_belongs_to_something_and_every_exit_code_to_something_wrong() -> None:
    for finding in [*found(), *found(DEFAULT_MODEL), *found("./nowhere"), *found("a//b")]:
        assert finding.found and "\n" not in finding.found
        assert (finding.exit_code > 0) == (finding.kind == WRONG)
        assert finding.advice or finding.kind == OK


def test_a_look_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_system", "_packages", "_main_memory", "_terminal"):
        monkeypatch.setattr(doctor, name, lambda: 1 / 0)
    monkeypatch.setattr("personaplex_cli.loader.preflight.check_gpus", lambda: 1 / 0)
    findings = found()
    assert kinds(findings)["system"] == WARNING and "ZeroDivisionError" in named(findings, "system").found
    assert exit_code(findings) == 0 and kinds(findings)["model"] == OK
    told = [each.found for each in findings if each.kind != OK]
    assert len(told) == len(set(told)), "the same trouble is told once"


def test_both_devices_are_told_though_they_look_alike() -> None:
    findings = found()
    assert named(findings, "microphone").found == named(findings, "speaker").found == "Fake (24 kHz, mono)"


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("sphn", "triton"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    finding = named(found(), "packages")
    assert (finding.kind, finding.found, finding.exit_code) == (WRONG, "sphn not installed", 1)


def test_nvidias_own_moshi_is_told_once(tmp_path: Path) -> None:
    other = tmp_path / "site/moshi_personaplex-0.1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: moshi-personaplex\nVersion: 0.1.0\n")
    command = [sys.executable, "-m", "personaplex_cli", "doctor", "--json"]
    environment = {**os.environ, "PYTHONPATH": f"{other.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == ModelError.exit_code and not done.stderr
    told = [each for each in json.loads(done.stdout)["findings"] if "moshi-personaplex" in each["found"]]
    assert [each["kind"] for each in told] == [WRONG] and "pip uninstall" in told[0]["advice"]


# The GPU.


def gpu(monkeypatch: pytest.MonkeyPatch, free: float, capability: tuple[int, int] = (8, 6), kernels: str = "") -> None:
    """A CUDA GPU as torch tells of it, with so many GB free."""
    about = SimpleNamespace(name="NVIDIA Test", major=capability[0], minor=capability[1], total_memory=24 * 10**9)
    answers: dict[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "get_device_properties": about,
        "get_device_capability": capability,
        "get_device_name": about.name,
        "get_arch_list": ["sm_80", "sm_86", "sm_90", "sm_75"],
        "mem_get_info": (int(free * 1e9), 24 * 10**9),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr("personaplex_cli.loader.memory_plan.bandwidth", lambda device: 900e9)
    for place in ("preflight", "memory_plan"):
        for name in ("why_no_kernels", "why_plain"):
            monkeypatch.setattr(f"personaplex_cli.loader.{place}.{name}", lambda device, dtype: kernels)


@pytest.mark.parametrize(
    ("free", "capability", "precision", "seconds"),
    [(23, (8, 6), "bf16", 240), (23, (7, 5), "fp16", 240), (14, (8, 6), "int8", 240), (7.6, (8, 6), "int4", 240)],
)
def test_what_a_gpu_would_run(
    monkeypatch: pytest.MonkeyPatch, free: float, capability: tuple[int, int], precision: str, seconds: float
) -> None:
    gpu(monkeypatch, free, capability)
    findings = found(DEFAULT_MODEL)
    talking = named(findings, "talking")
    assert talking.kind == OK and talking.figures["precision"] == precision
    assert talking.figures["remembers"] == seconds and f"{seconds} s" in talking.found
    card = named(findings, "GPU 0")
    assert "NVIDIA Test" in card.found and f"{free:.1f} of 24.0 GB" in card.found
    assert card.figures["capability"] == ".".join(map(str, capability))
    assert kinds(findings)["Triton kernels"] == OK


def test_a_gpu_that_is_too_small_or_that_this_torch_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, 3)
    finding = named(found(DEFAULT_MODEL), "talking")
    assert (finding.kind, finding.exit_code) == (WRONG, DeviceError.exit_code) and "3.0 GB are free" in finding.found
    gpu(monkeypatch, 20, capability=(5, 0))
    findings = found(DEFAULT_MODEL)
    assert kinds(findings)["GPU 0"] == OK and "sm_50" in named(findings, "talking").found
    assert exit_code(findings) == DeviceError.exit_code


def test_without_kernels_int8_is_slow_and_bf16_does_not_care(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, kind in ((14, WARNING), (23, OK), (7.6, WRONG)):
        gpu(monkeypatch, free, kernels="no C compiler")
        finding = named(found(DEFAULT_MODEL), "Triton kernels")
        assert finding.kind == kind and "no C compiler" in finding.found


def test_without_a_gpu_talking_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    findings = found(DEFAULT_MODEL)
    assert kinds(findings)["talking"] == WRONG and exit_code(findings) == DeviceError.exit_code
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert kinds(found(DEFAULT_MODEL))["GPU"] == WARNING  # there is a driver: torch could see a GPU


# The model.


def test_a_model_that_is_not_here(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    findings = found(DEFAULT_MODEL)
    assert named(findings, "model").exit_code == ModelError.exit_code and kinds(findings)["token"] == WARNING
    assert "personaplex download" in named(findings, "model").advice
    assert sorted(tmp_path.rglob("*")) == before, "nothing is changed on the disk"


@pytest.mark.parametrize("name", PERSONAPLEX.needed_files)
def test_a_model_that_is_whole_lacks_a_file_or_is_cut_short(tmp_path: Path, name: str) -> None:
    folder = put_into_cache(tmp_path, WHOLE)
    findings = found(DEFAULT_MODEL)
    assert kinds(findings)["model"] == OK and kinds(findings)["token"] == OK  # no token is needed any more
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    finding = named(found(DEFAULT_MODEL), "model")
    assert finding.kind == WRONG and finding.figures["damaged"] == [name] and str(folder / name) in finding.advice
    (folder / name).unlink()
    finding = named(found(DEFAULT_MODEL), "model")
    assert finding.kind == WRONG and finding.figures["missing"] == [name] and name in finding.found


def test_the_advice_for_a_damaged_file_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    origin = tmp_path / "origin"
    origin.mkdir()
    for name, content in WHOLE.items():
        (origin / name).write_bytes(content)
    with FakeHub(origin):
        files = download(DEFAULT_MODEL, None, ignore)
        files.weights.resolve().write_bytes(WHOLE[WEIGHTS][:-1])
        assert "Run `personaplex download`, which repairs it" in named(found(DEFAULT_MODEL), "model").advice
        find_files(DEFAULT_MODEL, None, ignore, verify=True)  # as that command does
    reset_sessions()
    assert kinds(found(DEFAULT_MODEL))["model"] == OK


def test_what_has_begun_to_come_is_counted(tmp_path: Path) -> None:
    put_into_cache(tmp_path, {})
    blob = tmp_path / "hub/models--nvidia--personaplex-7b-v1/blobs/abc.incomplete"
    blob.parent.mkdir(parents=True)
    with blob.open("wb") as file:
        file.truncate(3 * 10**9)
    finding = named(found(DEFAULT_MODEL), "model")
    assert "3.0 GB of it are" in finding.found and finding.figures["begun"] == 3 * 10**9


def test_a_folder_of_ones_own(random_folder: Path, tmp_path: Path) -> None:
    assert kinds(found(str(random_folder)))["model"] == OK
    copy = shutil.copytree(random_folder, tmp_path / "copy")
    (copy / WEIGHTS).write_bytes(b"\xff" * 20)
    assert named(found(str(copy)), "model").figures["damaged"] == [WEIGHTS]
    shutil.rmtree(copy)
    assert set(named(found(str(copy)), "model").figures["missing"]) == set(PERSONAPLEX.needed_files)


def test_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for free, kind, whole in ((10, WRONG, {}), (19, OK, {}), (10, OK, WHOLE), (5, WARNING, WHOLE)):
        put_into_cache(tmp_path, whole)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free * 10**9))
        finding = named(found(DEFAULT_MODEL), "disk")
        assert finding.kind == kind and f"{free}.0 GB free" in finding.found


# The sound card.


def test_a_card_that_is_resampled(machine: FakeCard) -> None:
    closed: list[None] = []
    machine.rates, machine.at_abort = (48_000,), lambda: closed.append(None)
    assert named(found(), "microphone").found == "Fake (48 kHz, mono), resampled to 24 kHz"
    assert len(closed) == len(machine.opened) == 1


def test_a_headset_that_sounds_like_a_telephone(machine: FakeCard) -> None:
    machine.listed = [device("Headset", rate=16_000)]
    assert kinds(found())["microphone"] == WARNING


def test_no_sound_card_or_one_that_cannot_be_opened(machine: FakeCard) -> None:
    assert named(found(card=SoundCardOptions("nothing")), "sound").exit_code == UsageError.exit_code
    machine.rates = ()
    findings = found()
    assert exit_code(findings) == AudioError.exit_code and kinds(findings)["PortAudio"] == OK
    machine.listed, machine.default = [], SimpleNamespace(device=(-1, -1))
    assert "no microphone" in named(found(), "sound").found


def test_the_chirps_are_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from personaplex_cli.audio.loopback import LoopbackResult

    def told(came: LoopbackResult) -> dict[str, Finding]:
        monkeypatch.setattr("personaplex_cli.audio.loopback.measure_loopback", lambda choice: came)
        return {each.name: each for each in found(sound=True)}

    loud = told(LoopbackResult((91.0,) * 5, (-12.0,) * 5, -60.0, reported=88.0, card="Fake"))
    assert loud["echo"].kind == WARNING and "--echo-cancel" in loud["echo"].advice and "-12 dB" in loud["echo"].found
    assert loud["round trip"].kind == OK and loud["round trip"].found.startswith("91 ms")
    soft = told(LoopbackResult((400.0, 410.0, 420.0), (-50.0,) * 3, -30.0, glitches={"underrun": 2}))
    assert soft["echo"].kind == OK and soft["round trip"].kind == WARNING and "spread 20 ms" in soft["round trip"].found
    assert soft["noise"].kind == WARNING and "2 underrun" in soft["sound card"].found
    none = told(LoopbackResult((), (), -60.0))
    assert none["echo"].found.startswith("none heard") and "round trip" not in none
    assert told(LoopbackResult((), (), -100.0, silent=True))["noise"].kind == WARNING
    copy = told(LoopbackResult((40.0,) * 5, (3.0,) * 5, -100.0))  # the monitor of the speaker
    assert "speaker's own sound" in copy["input"].found and "--input-device" in copy["input"].advice
    assert copy["input"].kind == WARNING and "input" not in loud


# Settings, and what is nobody's business.


def test_settings_are_told_by_name_only(user_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ["XDG_CONFIG_HOME"]) / "personaplex"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('voice = "SECRET1"\n[run]\ntail = 2')
    Path(".env").write_text("PERSONAPLEX_TOKEN=SECRET2\nPERSONAPLEX_VOCIE=SECRET3\n")
    monkeypatch.setenv("PERSONAPLEX_TOKEN", "SECRET4")
    monkeypatch.setenv("PERSONAPLEX_VOCIE", "SECRET5")
    monkeypatch.setenv("PERSONAPLEX_SERVER_URL", "SECRET6")  # of --server
    findings = [each for each in found() if each.name in ("settings", "variable")]
    assert [each.kind for each in findings] == [OK, WARNING]
    assert findings[0].figures["config"] == ["run", "voice"] and len(findings[0].figures["files"]) == 2
    assert findings[0].figures["variables"] == ["PERSONAPLEX_SERVER_URL", "PERSONAPLEX_TOKEN"]
    assert findings[1].advice == "Did you mean PERSONAPLEX_VOICE?"
    assert "SECRET" not in json.dumps(report(findings))


def test_a_config_file_that_makes_no_sense_is_a_finding(user_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(os.environ["XDG_CONFIG_HOME"]) / "personaplex"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('voise = "NATF2"')
    assert cli.program(["doctor", "--model", "demo", "--json"]) == UsageError.exit_code
    told = json.loads(capsys.readouterr().out)
    wrong = [each for each in told["findings"] if each["kind"] == WRONG]
    assert len(wrong) == 1 and "voise" in wrong[0]["found"] and "voice" in wrong[0]["advice"]


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_nothing_private_is_told(
    arguments: list[str],
    tmp_path: Path,
    machine: FakeCard,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "homes" / "anneliese"
    (home / ".config/personaplex").mkdir(parents=True)
    (home / "work").mkdir()
    monkeypatch.chdir(home / "work")
    (home / ".config/personaplex/config.toml").write_text('prompt = "Our little secret."\n')
    (home / "work/.env").write_text(f"HF_TOKEN={TOKEN}\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "data/anneliese/cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("LOGNAME", "anneliese")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / ".cache/huggingface/hub"))
    machine.listed = [device("Anneliese's Headset")]
    for model in (DEFAULT_MODEL, str(home / "nowhere"), "demo"):
        cli.program(["doctor", "--model", model, *arguments])
        told = "".join(capsys.readouterr())
        assert "~/.config/personaplex/config.toml" in told and "(user)'s Headset" in told
        for secret in (str(home), "anneliese", TOKEN, "little secret"):
            assert secret.lower() not in told.lower()
        if model == DEFAULT_MODEL:
            assert "there is a Hugging Face token" in told


def test_names_that_only_look_private_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    monkeypatch.setenv("LOGNAME", "ann")
    text = f"{tmp_path}/anna/x, {tmp_path}/ann, channel Ann, {tmp_path}/ann/y"
    finding = discreet(Finding(OK, "x", text, figures={"paths": [f"{tmp_path}/ann/z"], "count": 3}))
    assert finding.found == f"{tmp_path}/anna/x, ~, channel (user), ~/y"
    assert finding.figures == {"paths": ["~/z"], "count": 3}
    monkeypatch.setenv("LOGNAME", "nvidia")
    assert discreet(Finding(OK, "x", DEFAULT_MODEL)).found == DEFAULT_MODEL


def test_on_a_terminal_names_stay_as_they_are_and_nothing_is_too_wide(machine: FakeCard) -> None:
    machine.listed = [device("HDA Intel: ALC257 [hw:0,0] \x1b[31m")]
    for width in (40, 80, 200):
        console = Console(file=StringIO(), force_terminal=True, width=width, no_color=True, color_system=None)
        show_findings(console, found(DEFAULT_MODEL))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, shown.splitlines())) <= width and "\x1b" not in shown
    assert "ALC257 [hw:0,0]" in shown and "wrong" in shown
