"""The demo: a tiny model of the 7B's classes that greets, listens, answers in English and can be interrupted.

It comes with the program as an archive, is unpacked into the cache on first use, and is then a model folder like any:
nothing that loads or runs it knows that it is the demo. The archive also holds what it can say (`sentences.json`) and
from what its voices were made (`NOTICE.txt`).
"""

import atexit
import hashlib
import io
import lzma
import os
import shutil
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from platformdirs import user_cache_path

from personaplex_cli.errors import ModelError
from personaplex_cli.events import Listener, Notice
from personaplex_cli.files import atomic_path, keep_newest
from personaplex_cli.library.spec import spec_of_folder
from personaplex_cli.library.weights import ModelFiles
from personaplex_cli.options import DEMO, DEMO_NOTE

ARCHIVE = Path(__file__).with_name("speaking.tar.xz")
KEPT = 2  # unpacked: this one, and that of another version of the program


def demo_files(listen: Listener) -> ModelFiles:
    """The demo's files, unpacked now if they are not there yet, and mended if they are not as they should be.

    Where the cache is full or cannot be written they are put into a temporary folder. Raises ModelError if that fails.
    """
    listen(Notice(DEMO_NOTE))
    name, files = packed()
    cache_folder = user_cache_path("personaplex")
    folder = cache_folder / name
    try:
        put(files, folder)
        os.utime(folder)  # in use: the newest
        keep_newest(cache_folder.glob("demo-*/"), KEPT)
    except OSError:
        folder = _temporary_demo()
    return ModelFiles(DEMO, folder, name, spec_of_folder(folder))


def packed() -> tuple[str, dict[str, bytes]]:
    """The name of the demo's folder, which is that of its content, and its files. Raises ModelError."""
    try:
        content = ARCHIVE.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(content, lzma.FORMAT_XZ))) as archive:
            members = [(each.name, archive.extractfile(each)) for each in archive]
            files = {name: file.read() for name, file in members if file}
    except (OSError, lzma.LZMAError, tarfile.TarError) as error:
        raise ModelError(f"The demo model is damaged ({error}).", "Install the program again.") from error
    return f"demo-{hashlib.sha256(content).hexdigest()[:16]}", files


def put(files: Mapping[str, bytes], folder: Path) -> None:
    """Write those that are not there as they should be, each whole or not at all. Raises OSError.

    Several programs may do it at once: all write the same.
    """
    for name, content in files.items():
        path = folder / name
        if not (path.is_file() and path.read_bytes() == content):
            with atomic_path(path) as partial:
                partial.write_bytes(content)


@cache
def _temporary_demo() -> Path:
    """A folder with the demo that is removed when the program ends."""
    try:
        folder = Path(mkdtemp(prefix="personaplex-demo-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        put(packed()[1], folder)
    except OSError as error:
        raise ModelError(
            f"The demo model cannot be unpacked: neither the cache nor the temporary folder can be written ({error}).",
            "Make room, or set XDG_CACHE_HOME or TMPDIR to a folder that can be written.",
        ) from error
    return folder
