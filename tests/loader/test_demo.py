"""The demo model: honest, whole, the same every time, made once."""

import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from personaplex_cli.events import Event, Note
from personaplex_cli.library.catalog import voices
from personaplex_cli.library.weights import VOICES, open_folder
from personaplex_cli.loader.demo import build_demo, demo_files


def test_it_is_the_same_every_time(demo_folder: Path, tmp_path: Path) -> None:
    build_demo(tmp_path)
    for path in demo_folder.iterdir():
        if path.name != VOICES:  # an archive holds the time of packing
            assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_it_has_all_the_voices_of_the_catalog(demo_folder: Path) -> None:
    with tarfile.open(demo_folder / VOICES) as archive:
        packed = {Path(name).name for name in archive.getnames()}
    shipped = {voice.file for voice in voices()}
    assert packed == shipped and len(shipped) == 18


def test_it_is_made_once_and_says_what_it_is() -> None:
    said: list[Event] = []
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: demo_files(said.append), range(4)))
    assert len({files.folder for files in made}) == 1
    assert [path for path in made[0].folder.parent.iterdir() if path.name.startswith("demo-")] == [made[0].folder]
    assert open_folder(made[0].folder).weights.stat().st_size > 1_000_000
    assert any(isinstance(event, Note) and "noise" in event.text for event in said)
