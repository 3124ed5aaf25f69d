"""The live conversation, whole: a random model, real callback, a card made of numbers. See fakecard.py."""

import errno
import json
import os
import sys
import threading
import time
import wave
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakecard import FakeCard, plug_in
from heldchat import NO_ONE, Held, Nothing
from parrot import Parrot

from personaplex_cli.audio.recording import Recording
from personaplex_cli.character import Character, Sampling
from personaplex_cli.cli import main as cli
from personaplex_cli.conversation import converse
from personaplex_cli.engine.engine import LocalEngine
from personaplex_cli.errors import AudioError, ModelError
from personaplex_cli.events import Began, Finished, Glitch, Hushed, Muted, Note, State, Step
from personaplex_cli.loader.load import load
from personaplex_cli.lookup import find_character
from personaplex_cli.options import CharacterOptions, ModelOptions
from personaplex_cli.programs.chat import Chat
from personaplex_cli.recorder import Recorder
from personaplex_cli.samples import FRAME, SAMPLE_RATE, Samples

CHARACTER = find_character(CharacterOptions(), Sampling(seed=3))


def speech(frames: int) -> Samples:
    random = np.random.default_rng(0)
    return (random.standard_normal(frames * FRAME) * 0.1).astype(np.float32)


def held_chat(
    fake: FakeCard, model: Path | str, record: Path | None = None, favourites: Mapping[str, Character] = NO_ONE
) -> Held:
    options = ModelOptions(str(model), device="cpu")
    return Held(fake, lambda listen: load(options, listen, CHARACTER), CHARACTER, record, favourites)


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCard]:
    return lambda **settings: plug_in(FakeCard(**settings), monkeypatch)


def offline(model: Path, recording: Samples) -> tuple[Samples, str]:
    """The same conversation with a recording."""
    engine = load(ModelOptions(str(model), device="cpu"))
    audio = Recording(recording)
    text = "".join(step.text for step in converse(engine, audio, CHARACTER))
    return audio.answer, text.strip()


def kept_sound(folder: Path) -> np.ndarray[Any, Any]:
    with wave.open(str(next(folder.glob("*/conversation.wav")))) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2) / 32767


def test_live_is_the_same_conversation_as_with_a_recording(
    plug: Callable[..., FakeCard], random_folder: Path, tmp_path: Path
) -> None:
    sound = speech(60)
    held = held_chat(plug(microphone=sound, blocks=(480, 77)), random_folder, tmp_path).run()
    answer, text = offline(random_folder, sound)
    assert held.chat.error is None
    kept = kept_sound(tmp_path)
    assert np.allclose(kept[:, 0], np.clip(sound, -1, 1), atol=1e-4)
    assert np.allclose(kept[:, 1], answer, atol=1e-4)
    finished = held.of(Finished)[-1]
    assert finished.text == text and finished.seconds == pytest.approx(60 * 0.08)
    assert all(Path(name).exists() for name in finished.files)


def test_it_says_what_it_does_in_order(plug: Callable[..., FakeCard], random_folder: Path) -> None:
    held = held_chat(plug(microphone=speech(10)), random_folder).run()
    assert [event.name for event in held.of(State) if event.name != "loading"] == [
        "warming up",
        "priming",
        "live",
        "ended",
    ]
    began = held.of(Began)
    assert [(each.persona, each.voice, each.device, each.seed) for each in began] == [("teacher", "NATF2", "cpu", 3)]
    assert 24 < began[0].prompt_frames < began[0].context == 3000
    assert [step.index for step in held.of(Step)] == list(range(10))


def test_the_microphone_opens_only_when_the_model_is_ready(
    plug: Callable[..., FakeCard], random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = plug(microphone=speech(3))
    begin = LocalEngine._begin
    opened: list[int] = []
    monkeypatch.setattr(LocalEngine, "_begin", lambda *rest: (opened.append(len(fake.opened)), begin(*rest))[1])
    held_chat(fake, random_folder).run()
    assert set(opened) == {0} and len(fake.opened) == 1


def test_no_event_holds_a_tensor(plug: Callable[..., FakeCard], random_folder: Path) -> None:
    held = held_chat(plug(microphone=speech(5)), random_folder).run()
    assert not any(isinstance(value, torch.Tensor) for event in held.events for value in vars(event).values())


def test_muted_the_agent_hears_silence_and_the_clock_runs_on(
    plug: Callable[..., FakeCard], random_folder: Path
) -> None:
    held = held_chat(plug(microphone=speech(30)), random_folder)
    held.at = {10: lambda: held.chat.press("m"), 20: lambda: held.chat.press("m")}
    held.run()
    silent = [step.index for step in held.of(Step) if step.heard == -100]
    assert silent == list(range(10, 20)) and len(held.of(Step)) == 30
    assert held.of(Muted) == [Muted(True), Muted(False)]


def test_told_to_stop_talking_it_is_silent_until_the_user_speaks(
    plug: Callable[..., FakeCard], random_folder: Path
) -> None:
    sound = speech(60)
    sound[: 40 * FRAME] = 0
    held = held_chat(plug(microphone=sound), random_folder)
    held.at = {5: lambda: held.chat.press("s")}
    held.run()
    steps = held.of(Step)
    assert not any(step.text for step in steps[5:42])
    # Told at once, and again when the third frame of speech has ended the silence.
    changes = [(event.on, held.events[:index]) for index, event in enumerate(held.events) if isinstance(event, Hushed)]
    assert [on for on, _ in changes] == [True, False]
    assert [sum(isinstance(event, Step) for event in before) for _, before in changes] == [5, 43]


def test_restarted_it_begins_anew_without_what_was_waiting(
    plug: Callable[..., FakeCard], random_folder: Path, tmp_path: Path
) -> None:
    sound = np.tile(speech(20), 2)
    held = held_chat(plug(microphone=sound), random_folder, tmp_path)
    held.at = {20: lambda: held.chat.press("r")}
    held.run()
    steps = held.of(Step)
    assert [step.index for step in steps] == [*range(20), *range(20)]
    said = [(step.text, step.said) for step in steps]
    assert said[:20] == said[20:]
    assert len(held.of(Began)) == 2
    assert len(kept_sound(tmp_path)) == 40 * FRAME  # one recording of it all


def chef() -> Character:
    return find_character(CharacterOptions(persona="chef"), CHARACTER.sampling)


def test_a_key_switches_to_a_favourite_who_says_what_it_always_says(
    plug: Callable[..., FakeCard], random_folder: Path, tmp_path: Path
) -> None:
    sound = np.tile(speech(20), 3)
    held = held_chat(plug(microphone=sound), random_folder, tmp_path, {"2": chef()})
    held.at = {20: lambda: held.chat.press("2"), 40: lambda: held.chat.press("r")}
    held.run()
    engine = load(ModelOptions(str(random_folder), device="cpu"))
    alone = [(step.text, step.said) for step in converse(engine, Recording(sound[: 20 * FRAME]), chef())]
    said = [(step.text, step.said) for step in held.of(Step)]
    assert said[:20] != alone and said[20:40] == said[40:] == alone
    assert [(each.persona, each.voice) for each in held.of(Began)] == [("teacher", "NATF2"), *[("chef", "NATM3")] * 2]
    marks = [mark["text"] for mark in json.loads(next(tmp_path.glob("*/transcript.json")).read_text())["marks"]]
    assert marks == [
        "First teacher speaks, with the voice NATF2.",
        "From here on chef speaks, with the voice NATM3.",
        "The conversation begins again.",
    ]


def test_a_favourite_who_cannot_speak_does_not_end_the_talk(
    plug: Callable[..., FakeCard], random_folder: Path, tmp_path: Path
) -> None:
    favourites = {"2": replace(chef(), sound="NOPE.pt"), "3": replace(chef(), prompt="word " * 9000)}
    held = held_chat(plug(microphone=np.tile(speech(20), 3)), random_folder, tmp_path, favourites)
    held.at = {20: lambda: held.chat.press("2"), 40: lambda: held.chat.press("3")}
    held.run()
    said = [(step.text, step.said) for step in held.of(Step)]
    assert held.chat.error is None and said[:20] == said[20:40] == said[40:]
    assert {each.persona for each in held.of(Began)} == {"teacher"}
    notes = [
        note.text for note in held.of(Note) if note.text.startswith("chef cannot speak, so teacher begins again. ")
    ]
    assert "There is no voice named 'NOPE'" in notes[0] and "The prompt takes" in notes[1] and len(notes) == 2
    assert len(kept_sound(tmp_path)) == 60 * FRAME


def test_a_prompt_that_was_not_filled_in_is_named_when_it_begins(plug: Callable[..., FakeCard]) -> None:
    favourites = {"1": replace(chef(), prompt="You are ...")}
    held = Held(plug(microphone=speech(20)), lambda _: Parrot(1), chef(), favourites=favourites)
    held.at = {5: lambda: held.chat.press("1")}
    held.run()
    (note,) = (note.text for note in held.of(Note) if "leaves open" in note.text)
    assert note.startswith("The prompt of chef ") and note.endswith(": ...")


def test_keys_of_no_favourite_do_nothing(plug: Callable[..., FakeCard], random_folder: Path) -> None:
    held = held_chat(plug(microphone=speech(20)), random_folder, favourites={"2": chef()})
    held.at = {index: partial(held.chat.press, key) for index, key in enumerate("0134567890 \x1bx", start=1)}
    held.run()
    assert len(held.of(Step)) == 20 and len(held.of(Began)) == 1
    nobody = [note.text for note in held.of(Note) if note.text.startswith("Nobody")]
    assert nobody == [f"Nobody is on key {key}." for key in "13456789"]


def test_q_ends_it(plug: Callable[..., FakeCard], random_folder: Path) -> None:
    held = held_chat(plug(microphone=speech(500)), random_folder)
    held.at = {7: lambda: held.chat.press("q")}
    held.run()
    assert len(held.of(Step)) == 7 and held.chat.error is None
    assert held.of(State)[-1] == State("ended")


def test_a_slow_disk_is_waited_for(
    plug: Callable[..., FakeCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that writes is a daemon: who ended the program before it was done would lose what was said."""
    append = Recorder._append
    monkeypatch.setattr("personaplex_cli.programs.live.END_TIMEOUT", 0.0)
    held = Held(plug(microphone=speech(20)), lambda _: Parrot(1), chef(), tmp_path)

    def slowly(self: Recorder, *rest: Any) -> None:
        held.chat._stopping.wait()
        time.sleep(0.1)
        append(self, *rest)

    monkeypatch.setattr(Recorder, "_append", slowly)
    held.chat.run(Nothing(), Nothing())
    ended = held.chat.end()
    assert len(kept_sound(tmp_path)) == 20 * FRAME
    while not ended:
        ended = held.chat.end()


def test_ctrl_c_ends_every_thread(plug: Callable[..., FakeCard], random_folder: Path, tmp_path: Path) -> None:
    class Impatient(Nothing):
        def poll(self, seconds: float) -> str | None:
            if held.of(Step):
                raise KeyboardInterrupt
            return super().poll(seconds)

    before = threading.active_count()
    # The card never runs dry here: it repeats itself until somebody stops.
    fake = plug(microphone=speech(5))
    held = held_chat(fake, random_folder, tmp_path)

    def refill() -> None:
        fake.microphone = speech(5)

    fake.at_end = refill
    with pytest.raises(KeyboardInterrupt):
        held.chat.run(Impatient(), Impatient())
    assert held.chat.end()
    assert threading.active_count() == before
    assert not any(stream.running for stream in fake.opened)
    assert (next(tmp_path.glob("*/conversation.wav"))).stat().st_size > 44


def test_what_fails_in_the_model_thread_ends_it_with_its_error(
    plug: Callable[..., FakeCard], random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = held_chat(plug(microphone=speech(5)), "./nowhere").run()
    assert isinstance(held.chat.error, ModelError) and held.of(State)[-1] == State("ended")
    monkeypatch.setattr(LocalEngine, "step", lambda *_: 1 / 0)
    held = held_chat(plug(microphone=speech(5)), random_folder).run()
    assert isinstance(held.chat.error, ZeroDivisionError)


def test_a_card_that_dies_for_good_ends_it_with_an_audio_error(
    plug: Callable[..., FakeCard], random_folder: Path, tmp_path: Path
) -> None:
    from collections import deque

    fake = plug(microphone=speech(500), lifetimes=deque([1.0] + [0.0] * 20))
    held = held_chat(fake, random_folder, tmp_path).run()
    assert isinstance(held.chat.error, AudioError)
    assert held.of(Finished)[-1].files and len(kept_sound(tmp_path)) == len(held.of(Step)) * FRAME
    assert State("reconnecting", "the sound card has stopped") in held.of(State)


def test_stopped_before_it_is_live_it_opens_no_microphone(plug: Callable[..., FakeCard], random_folder: Path) -> None:
    fake = plug(microphone=speech(5))
    held = held_chat(fake, random_folder)
    held.chat.stop()
    held.run()
    assert not fake.opened and not held.of(Step) and held.chat.error is None


class TestCommand:
    """The command line around it."""

    @pytest.fixture
    def chat(self, plug: Callable[..., FakeCard], random_folder: Path) -> Callable[..., int]:
        def run(*arguments: str, **settings: Any) -> int:
            fake = plug(**{"microphone": speech(30), **settings})
            fake.at_end = lambda: stop_the_chat()
            return cli.program(["chat", "--model", str(random_folder), "--device", "cpu", "--seed", "3", *arguments])

        def stop_the_chat() -> None:
            for each in chats:
                each.stop()

        chats: list[Chat] = []
        original = Chat.__init__

        def remembered(self: Chat, *rest: Any) -> None:
            original(self, *rest)
            chats.append(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Chat, "__init__", remembered)
            yield run

    def test_plain_lines_where_there_is_no_terminal(
        self, chat: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert chat() == 0
        out = capsys.readouterr().out
        for line in ("Warming up", "Priming", "Live", "teacher, voice NATF2, seed 3", "Talked for 00:02"):
            assert line in out
        assert "\x1b" not in out

    def test_json_lines(self, chat: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
        assert chat("--json") == 0
        out, err = capsys.readouterr()
        kinds = [json.loads(line)["event"] for line in out.splitlines()]
        assert kinds.count("step") == 30 and kinds[-1] == "state" and "latency" in kinds and "began" in kinds
        assert err == ""

    @pytest.mark.parametrize(("arguments", "last"), [(["--json"], '"step"'), ([], "Live")])
    @pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 4), (errno.EPIPE, 0)])
    def test_an_output_that_takes_no_more_ends_it_and_what_was_said_is_kept(
        self,
        number: int,
        code: int,
        arguments: list[str],
        last: str,
        chat: Callable[..., int],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        class Filling(StringIO):
            def write(self, text: str) -> int:
                if last in text:
                    raise OSError(number, os.strerror(number))
                return super().write(text)

        monkeypatch.setattr(sys, "stdout", Filling())
        assert chat(*arguments, "--record", str(tmp_path)) == code
        err = capsys.readouterr().err
        assert err == ("Standard output cannot be written (No space left on device).\n" if code else "")
        json.loads(next(tmp_path.glob("*/transcript.json")).read_text())
        kept_sound(tmp_path)

    def test_a_full_disk_under_the_log_file_does_not_end_it(
        self, chat: Callable[..., int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert chat("--log-file", "/dev/full") == 0
        out, err = capsys.readouterr()
        assert out.count("The log file cannot be written any more (No space left on device).") == 1
        assert "Talked for" in out and err == ""

    def test_a_log_file_beside_the_screen(self, chat: Callable[..., int], tmp_path: Path) -> None:
        assert chat("--log-file", str(tmp_path / "log")) == 0
        assert "Live" in (tmp_path / "log").read_text()

    @pytest.mark.parametrize(
        ("arguments", "settings", "code", "said"),
        [
            (["--theme", "pink"], {}, 2, "no theme named 'pink'"),
            (["--input-device", "nothing"], {}, 2, "no input device 'nothing'"),
            (["--log-file", "/nowhere/log"], {}, 2, "cannot be written"),
            ([], {"listed": []}, 4, "There is no microphone"),
            ([], {"rates": ()}, 4, "cannot be opened"),
            (["--record", "/proc/nowhere"], {}, 4, "cannot be written"),
        ],
    )
    def test_what_is_wrong_is_told(
        self,
        arguments: list[str],
        settings: dict[str, Any],
        code: int,
        said: str,
        chat: Callable[..., int],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert chat(*arguments, **settings) == code
        err = capsys.readouterr().err
        assert said in err and "Traceback" not in err


def test_what_is_wrong_with_the_devices_is_told_before_the_model_is_loaded(
    plug: Callable[..., FakeCard], random_folder: Path
) -> None:
    held = held_chat(plug(microphone=speech(2), listed=[]), random_folder).run()
    assert isinstance(held.chat.error, AudioError) and not held.of(Note)


@pytest.mark.slow
def test_losses_are_counted_and_told(plug: Callable[..., FakeCard], random_folder: Path) -> None:
    """A stall of the model: what the card heard meanwhile is not said twice, and nothing stays late."""
    fake = plug(microphone=speech(200))
    held = held_chat(fake, random_folder)
    held.at = {20: lambda: [fake.pass_time() for _ in range(150)] and None}  # three seconds pass in one step
    held.run()
    dropped = [event for event in held.of(Glitch) if event.kind == "dropped"]
    assert dropped
    heard = len(held.of(Step)) * FRAME / SAMPLE_RATE
    assert 200 * 0.08 - 3.0 < heard < 200 * 0.08 - 2.0
