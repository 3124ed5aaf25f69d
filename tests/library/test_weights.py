"""A model in a local folder, and its voices."""

import gzip
import os
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakehub import FakeHub
from fakemodel import MIMI, TOKENIZER, VOICES, WEIGHTS, archive

from personaplex_cli.errors import ModelError, UsageError
from personaplex_cli.events import ignore
from personaplex_cli.library.spec import MOSHI, PERSONAPLEX, SPEC_FILE
from personaplex_cli.library.weights import (
    ModelFiles,
    cached,
    download,
    is_folder,
    open_folder,
    voice_file,
    voice_names,
)

# huggingface_hub leaves the connections of answers that it does not like to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("caches"),
]

# A folder of one's own


def test_open_folder(origin: Path) -> None:
    files = open_folder(origin)
    assert files == ModelFiles("origin", origin, "local", PERSONAPLEX)
    assert files.weights.is_file() and files.mimi.is_file() and files.tokenizer.is_file()


def test_open_folder_with_unpacked_voices(origin: Path) -> None:
    (origin / VOICES).unlink()
    (origin / "voices").mkdir()
    (origin / "voices" / "ME.pt").write_bytes(b"mine")
    assert voice_names(open_folder(origin)) == ["ME"]


@pytest.mark.parametrize("name", [WEIGHTS, MIMI, TOKENIZER, VOICES])
@pytest.mark.parametrize("state", ["missing", "empty"])
def test_open_folder_names_the_file_that_is_wrong(origin: Path, name: str, state: str) -> None:
    (origin / name).unlink()
    if state == "empty":
        (origin / name).touch()
    with pytest.raises(ModelError, match=name.replace(".", r"\.")) as caught:
        open_folder(origin)
    assert caught.value.hint


def test_open_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        open_folder(tmp_path / "nowhere")


def test_a_folder_that_is_closed_to_us_is_one_sentence(origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", closed)
    assert is_folder(str(origin))
    with pytest.raises(ModelError, match="cannot be used") as caught:
        open_folder(origin)
    assert caught.value.hint


def test_a_moshi_model_needs_no_voices_and_has_none(origin: Path) -> None:
    (origin / VOICES).unlink()
    (origin / SPEC_FILE).write_text('{"spec": "moshi"}')
    files = open_folder(origin)
    assert files.spec.name == MOSHI.name and voice_names(files) == []
    (origin / "voices").mkdir()
    (origin / "voices/NATF2.pt").write_bytes(b"a voice of another model")
    with pytest.raises(UsageError, match="NATF2") as caught:
        voice_file(files, "NATF2.pt")
    assert "has none" in caught.value.hint


def test_a_repository_that_is_known_to_hold_a_moshi_model(origin: Path) -> None:
    (origin / VOICES).unlink()
    with FakeHub(origin, repo="kyutai/moshika-pytorch-bf16") as hub:
        files = download(hub.repo, None, ignore)
    assert files.spec == MOSHI and cached(hub.repo) == files


@pytest.mark.parametrize(("model", "folder"), [("./x", True), ("/x", True), ("~/x", True), ("nvidia/x", False)])
def test_a_name_means_a_folder_or_a_repository(model: str, folder: bool, tmp_path: Path) -> None:
    assert is_folder(model) == folder
    assert is_folder(str(tmp_path))


# Voices


@pytest.fixture
def files(origin: Path) -> ModelFiles:
    return open_folder(origin)


def unpacked(tmp_path: Path) -> list[str]:
    """All that lies in our voice cache, by its path in there."""
    root = tmp_path / "cache" / "personaplex" / "voices"
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) if root.exists() else []


def test_voices_are_unpacked_once(files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = voice_file(files, "NATF2.pt")
    assert path.read_bytes() == b"a voice" and voice_names(files) == ["NATF2", "VARM0"]
    assert path.parent.parent == tmp_path / "cache" / "personaplex" / "voices" and len(path.parent.name) == 16
    monkeypatch.setattr(tarfile, "open", None)
    assert voice_file(files, "NATF2.pt") == path


def test_two_archives_do_not_mix(files: ModelFiles, tmp_path: Path) -> None:
    first = voice_file(files, "NATF2.pt")
    archive(files.folder / VOICES, "voices/NATF2.pt", content=b"another voice")
    assert voice_file(files, "NATF2.pt").read_bytes() == b"another voice" and first.read_bytes() == b"a voice"


def test_a_voice_in_the_folder_comes_first_and_those_of_the_archive_remain(files: ModelFiles) -> None:
    (files.folder / "voices").mkdir()
    (files.folder / "voices" / "NATF2.pt").write_bytes(b"mine")
    assert voice_file(files, "NATF2.pt").read_bytes() == b"mine"
    assert voice_file(files, "VARM0.pt").read_bytes() == b"a voice"
    assert voice_names(files) == ["NATF2", "VARM0"]


def test_an_absent_voice(files: ModelFiles) -> None:
    with pytest.raises(UsageError, match="NATF3") as caught:
        voice_file(files, "NATF3.pt")
    assert "Did you mean NATF2?" in caught.value.hint and "VARM0" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["../NATF2.pt", "/etc/passwd", "sub/NATF2.pt", "..", ".pt", "NATF2", "a\\b.pt", "\0.pt"]
)
def test_names_that_no_voice_has(files: ModelFiles, name: str) -> None:
    (files.folder / "NATF2.pt").write_bytes(b"beside voices/")
    with pytest.raises(UsageError):
        voice_file(files, name)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_wicked_archive_gives_its_voices_and_nothing_else(files: ModelFiles, tmp_path: Path) -> None:
    evil = str(tmp_path / "evil.pt")
    archive(
        files.folder / VOICES,
        "../evil.pt",
        evil,
        "voices/../../evil.pt",
        "voices/sub/evil.pt",
        "voices/evil.sh",
        "voices/..\\evil.pt",
        link("voices/LINK.pt", "/etc/passwd"),
        link("voices/OUT.pt", "../../../evil.pt"),
        link("voices/HARD.pt", "/etc/passwd", tarfile.LNKTYPE),
        link("voices/PIPE.pt", "", tarfile.FIFOTYPE),
        "./voices/NATF2.pt",
    )
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    assert voice_names(files) == ["NATF2"]
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    folder = voice_file(files, "NATF2.pt").parent
    assert unpacked(tmp_path) == [folder.name, f"{folder.name}/NATF2.pt"]


def test_a_link_in_place_of_the_folder_is_not_followed(files: ModelFiles, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    archive(files.folder / VOICES, link("voices", str(tmp_path / "outside")), "voices/NATF2.pt")
    assert voice_names(files) == ["NATF2"]
    assert not any((tmp_path / "outside").iterdir())


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "not gzip":
        path.write_bytes(b"<html>Please log in</html>")
    elif how == "not tar":
        path.write_bytes(gzip.compress(b"x" * 2000))
    elif how == "flipped":
        path.write_bytes(content[:60] + bytes(byte ^ 255 for byte in content[60:90]) + content[90:])
    elif how == "no voices":
        archive(path, "README.md")


@pytest.mark.parametrize("how", ["truncated", "not gzip", "not tar", "flipped", "no voices"])
def test_a_damaged_archive_leaves_nothing(files: ModelFiles, how: str, tmp_path: Path) -> None:
    archive(files.folder / VOICES, "voices/NATF2.pt", "voices/VARM0.pt", content=os.urandom(5000))
    spoil(files.folder / VOICES, how)
    with pytest.raises(ModelError, match=r"voices\.tgz is damaged") as caught:
        voice_file(files, "NATF2.pt")
    assert str(files.folder / VOICES) in caught.value.hint
    assert unpacked(tmp_path) == []


def zeros(path: Path, name: str, size: int, kind: bytes = tarfile.REGTYPE) -> Path:
    """An archive with one member of zeros: a thousandth of its size, or less."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
    return path


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("voices/BIG.pt", tarfile.REGTYPE, "BIG.pt is too large for a voice"),
        ("voices/HOLES.pt", tarfile.GNUTYPE_SPARSE, "voices.tgz is damaged"),
        ("notes.txt", tarfile.REGTYPE, "more than 256 MB"),
        ("././@LongLink", tarfile.GNUTYPE_LONGNAME, "more than 256 MB"),
        ("././@PaxHeader", tarfile.XHDTYPE, "more than 256 MB"),
    ],
)
def test_an_archive_that_swells_is_refused(
    files: ModelFiles, name: str, kind: bytes, said: str, tmp_path: Path
) -> None:
    path = zeros(files.folder / VOICES, name, 257 * 2**20, kind)
    assert path.stat().st_size < 2**21
    with pytest.raises(ModelError, match=said):
        voice_names(files)
    assert unpacked(tmp_path) == []


def test_an_archive_of_many_voices_that_are_large_together_is_refused(files: ModelFiles, tmp_path: Path) -> None:
    archive(files.folder / VOICES, *(f"voices/V{number}.pt" for number in range(9)), content=bytes(30 * 2**20))
    with pytest.raises(ModelError, match="more than 256 MB"):
        voice_names(files)
    assert unpacked(tmp_path) == []


def test_an_archive_of_very_many_members_is_refused_soon(files: ModelFiles, tmp_path: Path) -> None:
    archive(files.folder / VOICES, "voices/NATF2.pt", *(f"x{number}" for number in range(20_000)), content=b"")
    began = time.perf_counter()
    with pytest.raises(ModelError, match="more than 1000 members"):
        voice_names(files)
    assert time.perf_counter() - began < 5 and unpacked(tmp_path) == []


def test_what_was_unpacked_of_older_archives_is_removed_the_last_used_stay(files: ModelFiles, tmp_path: Path) -> None:
    folders = []
    for number in range(5):
        archive(files.folder / VOICES, "voices/NATF2.pt", content=bytes([number]))
        folders.append(voice_file(files, "NATF2.pt").parent)
        os.utime(folders[-1], (number, number))  # long ago
        if number == 3:
            archive(files.folder / VOICES, "voices/NATF2.pt", content=bytes([1]))
            assert voice_file(files, "NATF2.pt").parent == folders[1]  # used once more
    assert {folder for folder in folders if folder.exists()} == {folders[1], folders[3], folders[4]}


def test_many_may_unpack_at_once(files: ModelFiles, tmp_path: Path) -> None:
    archive(files.folder / VOICES, *(f"voices/V{index}.pt" for index in range(50)), content=os.urandom(2000))
    at_once = threading.Barrier(8)

    def use(index: int) -> bytes:
        at_once.wait(timeout=30)
        return voice_file(files, f"V{index}.pt").read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(use, range(8)))) == 1
    assert len([path for path in unpacked(tmp_path) if "/" not in path]) == 1


def test_a_cache_for_voices_that_cannot_be(files: ModelFiles, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ModelError, match="cannot be used") as caught:
        voice_names(files)
    assert "XDG_CACHE_HOME" in caught.value.hint
