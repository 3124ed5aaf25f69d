"""What Tab offers, asked as shells ask."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from personaplex_cli.audio import devices
from personaplex_cli.cli import completion
from personaplex_cli.errors import AudioError

CODE = (
    "import sys; from personaplex_cli.cli.main import program\n"
    "try: program(sys.argv[1:])\n"
    "finally: print({'torch', 'moshi', 'huggingface_hub'} & set(sys.modules), file=sys.stderr)"
)


def tab(line: str) -> list[str]:
    """What bash is offered for the last word of the line."""
    environment = {
        **os.environ,
        "_PERSONAPLEX_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    return done.stdout.split()


def test_names_are_completed(user_folders: Path) -> None:
    own = Path(os.environ["XDG_CONFIG_HOME"]) / "personaplex/personas"
    own.mkdir(parents=True)
    (own / "pirate.toml").write_text('prompt = "You enjoy having a good conversation."')
    assert tab("personaplex run a.wav --voice NATF") == ["NATF0", "NATF1", "NATF2", "NATF3"]
    assert tab("personaplex chat --persona ") == [
        "assistant", "astronaut", "chef", "customer_service", "pirate", "teacher"
    ]  # fmt: skip
    assert tab("personaplex personas show p") == tab("personaplex duet chef p") == ["pirate"]
    assert tab("personaplex d") == ["duet", "download", "doctor", "devices"]
    assert tab("personaplex serve --dev") == ["--device"]
    assert tab("personaplex chat --device c") == ["cuda", "cpu"]


def test_models_here_are_offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = tmp_path / "hub/models--me--my--model/snapshots/0123"
    here.mkdir(parents=True)
    (here / "voices.tgz").touch()
    (tmp_path / "hub/models--other--thing/snapshots/0123").mkdir(parents=True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert completion.OFFERS["model"]() == ["demo", "nvidia/personaplex-7b-v1", "me/my--model"]


def test_a_sound_device_is_offered_by_a_word_that_needs_no_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["HDA Intel: ALC257 (hw:0,0)", "HDA Intel: HDMI (hw:0,3)", "pipewire", "(null)", "USB PnP", "Loopback"]
    listed = [
        devices.DeviceInfo(index, name, "ALSA", 2 * (name != "Loopback"), 2, 48_000, False, False)
        for index, name in enumerate(names)
    ]
    monkeypatch.setattr(devices, "devices", lambda: listed)
    assert completion.OFFERS["input_device"]() == [
        ("0", "HDA Intel: ALC257 (hw:0,0), ALSA"),
        ("1", "HDA Intel: HDMI (hw:0,3), ALSA"),
        ("pipewire", "pipewire, ALSA"),
        ("3", "(null), ALSA"),
        ("USB", "USB PnP, ALSA"),
    ]
    assert completion.OFFERS["output_device"]()[-1] == ("Loopback", "Loopback, ALSA")


def test_what_fails_offers_nothing(monkeypatch: pytest.MonkeyPatch, user_folders: Path) -> None:
    def fail() -> None:
        raise AudioError("There is no PortAudio.")

    monkeypatch.setattr(devices, "devices", fail)
    complete = completion.completer("input_device")
    assert complete and complete() == []
    own = Path(os.environ["XDG_CONFIG_HOME"]) / "personaplex/personas"
    own.mkdir(parents=True)
    (own / "spoiled.toml").write_text("prompt = ")
    complete = completion.completer("persona")
    assert complete and len(complete()) == 5, "the others are offered"
    assert completion.completer("seed") is None
