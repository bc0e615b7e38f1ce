"""Files and folders that come to be whole, or not at all."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from federation.errors import ConfigError

PUBLIC = 0o644
SECRET = 0o600


def write_new(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """A file that was not there. Raises :class:`ConfigError` where it is."""
    try:
        _write(path, data, mode, os.link)
    except FileExistsError:
        raise ConfigError(f"{path} is there already, and is not overwritten") from None


def write_over(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """A file in place of the one that may be there."""
    _write(path, data, mode, os.replace)


def _write(path: Path, data: bytes, mode: int, put: Callable[[Path, Path], None]) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        put(part, path)
    finally:
        part.unlink(missing_ok=True)


def append(path: Path, data: bytes) -> None:
    """Put data behind what is in a file; one that is made is its owner's alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with os.fdopen(os.open(path, flags, SECRET), "ab") as file:
        file.write(data)


def make_private(folder: Path) -> None:
    """A folder, and those above it that are missing, which their owner alone can look into.

    One that is there stays as it is.
    """
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def whole_folder(folder: Path, *, last: str) -> Iterator[Path]:
    """Fill a new or an empty folder: what is written into the one given here lies there after.

    The folder is filled from within, as it may be all that is ours: a mount, or below another's.
    The file ``last``, without which it is nothing, comes at the end; after an error nothing is
    left. Raises :class:`ConfigError` for a folder that is not empty.
    """
    made = not folder.exists()
    scratch = folder / f".making-{secrets.token_hex(4)}"
    moved: list[Path] = []
    _check_empty(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        scratch.mkdir(mode=0o700)
        _check_empty(folder, but=scratch.name)  # for somebody else who does the same now
        yield scratch
        _keep(scratch)
        for entry in sorted(scratch.iterdir(), key=lambda entry: entry.name == last):
            moved.append(entry.rename(folder / entry.name))
        scratch.rmdir()
        _flush(folder)
    except BaseException:
        for entry in (*reversed(moved), scratch):
            _remove(entry)
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _check_empty(folder: Path, *, but: str = "") -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file; expected an empty folder, or a new one")
    held = sorted(entry.name for entry in folder.iterdir() if entry.name != but)
    if held:
        raise ConfigError(
            f"{folder} is not empty: it holds {held[0]!r:.60}. Nothing is overwritten; name a new "
            "folder, or delete what an interrupted command left there"
        )


def _keep(folder: Path) -> None:
    """On the disk, before the last file says that all is there."""
    for path in folder.rglob("*"):
        _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
