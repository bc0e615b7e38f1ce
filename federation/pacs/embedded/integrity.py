"""Whether an embedded archive's index and files agree, and an index made anew from the files."""

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from federation.closing import Closing
from federation.errors import PacsError, StorageError
from federation.pacs.attributes import read_attributes
from federation.pacs.embedded.files import all_files, file_of, sync_folder
from federation.pacs.embedded.index import Held, Index
from federation.sizes import size_text

INDEX = "index.sqlite"
INSTANCES = "instances"

_FILES = ("", "-wal", "-shm")  # what sqlite keeps beside a database
_MAX_STRAYS = 100
"""A kill leaves one file without a row, if any. So many are no leftovers: the index is another."""
_MAX_NAMED = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What a check found.

    held:    what is there and served
    lost:    UIDs of instances whose files are gone or have another size; they are not served
    removed: files of ingests that had not ended
    """

    held: Held
    lost: tuple[str, ...]
    removed: int

    def __str__(self) -> str:
        """In one sentence, for whoever runs the archive."""
        one = self.held.instances == 1
        text = f"{self.held.instances} instance{'' if one else 's'}, {size_text(self.held.bytes)}"
        if self.removed:
            text += f"; files of stores that had not ended, now deleted: {self.removed}"
        if self.lost:
            more = len(self.lost) - _MAX_NAMED
            named = ", ".join(self.lost[:_MAX_NAMED]) + (f" and {more} others" if more > 0 else "")
            text += (
                f"; not served, as their files are gone or have another size: {len(self.lost)} "
                f"({named}); put the files back and start again, or store them again"
            )
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Rebuilt:
    """What became of an archive's files: instances in the new index, and files set aside."""

    instances: int
    unreadable: int

    def __str__(self) -> str:
        """In one sentence, for whoever runs the archive."""
        one = self.instances == 1
        text = f"{self.instances} instance{' is' if one else 's are'} in it"
        if self.unreadable:
            text += f"; files set aside in the folder unreadable: {self.unreadable}"
        return text


class FolderLock(Closing):
    """Many may have an archive open, or one may make its index anew. Close it."""

    def __init__(self, folder: Path, *, alone: bool = False) -> None:
        """Raises :class:`PacsError` where another process stands in the way."""
        self._descriptor = os.open(folder, os.O_RDONLY)
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise PacsError(
                f"the archive {folder} is open in another process; end that one first"
                if alone
                else f"the index of {folder} is being made anew by another process; wait for it"
            ) from None

    def close(self) -> None:
        """Closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def check(index: Index, instances: Path) -> Condition:
    """Compare rows with files; delete files of ingests that ended without a row.

    What another process is storing at the moment stays. Raises
    :class:`~federation.pacs.embedded.index.DamagedIndex`, and :class:`PacsError` where more
    files have no row than could be leftovers.
    """
    index.check()
    with index.transaction():
        rows, lost = index.sizes(), index.lost_sizes()
        files = {uid: (size, path) for uid, size, path in all_files(instances)}
        strays = [path for uid, (_, path) in files.items() if uid not in rows and uid not in lost]
        if len(strays) > _MAX_STRAYS:
            raise PacsError(
                f"{len(strays)} files in {instances} are not in the archive's index; was it "
                f"replaced? Make it anew: iodeep pacs serve {instances.parent} --rebuild"
            )
        for path in strays:
            path.unlink(missing_ok=True)
        on_disk = {uid: size for uid, (size, _) in files.items()}
        index.regain([uid for uid, size in lost.items() if on_disk.get(uid) == size])
        index.lose([uid for uid, size in rows.items() if on_disk.get(uid) != size])
        return Condition(
            held=index.held(), lost=tuple(sorted(index.lost_sizes())), removed=len(strays)
        )


def require_index(folder: Path) -> None:
    """Raises :class:`PacsError` for instances without an index: an empty one would lose them."""
    instances = folder / INSTANCES
    if instances.exists() and not (folder / INDEX).exists() and any(all_files(instances)):
        raise PacsError(
            f"{folder} holds instances, and no index of them; make one: "
            f"iodeep pacs serve {folder} --rebuild"
        )


def rebuild(folder: Path) -> Rebuilt:
    """Make the index of an archive anew from its files, in the order they came.

    The old index stays beside it, as ``index.sqlite.old``. Files that are no instance, or not the
    one they are named after, go to the folder ``unreadable``. Raises :class:`PacsError` where
    the archive is open elsewhere, :class:`StorageError` where something cannot be written.
    """
    instances = folder / INSTANCES
    if not instances.is_dir():
        raise PacsError(f"{folder} is no archive; there are no instances to make an index of")
    with FolderLock(folder, alone=True):
        try:
            made = _index_files(folder / f"{INDEX}.new", instances, folder / "unreadable")
            for suffix in _FILES:
                with suppress(FileNotFoundError):
                    (folder / f"{INDEX}{suffix}").replace(folder / f"{INDEX}.old{suffix}")
            (folder / f"{INDEX}.new").replace(folder / INDEX)
            sync_folder(folder)
        except OSError as error:
            raise StorageError(
                f"the index of {folder} cannot be made anew: {error.strerror}"
            ) from error
    return made


def _index_files(new: Path, instances: Path, unreadable: Path) -> Rebuilt:
    for suffix in _FILES:
        Path(f"{new}{suffix}").unlink(missing_ok=True)
    files = sorted(all_files(instances), key=lambda file: file[2].stat().st_mtime_ns)
    aside = 0
    with Index(new, size_of=lambda _: 0) as index, index.transaction():
        for uid, size, path in files:
            try:
                row = read_attributes(path)
            except StorageError:
                row = {}
            if row.get("SOPInstanceUID") == uid and path == file_of(instances, uid):
                index.insert({**row, "size": size})
            else:
                unreadable.mkdir(exist_ok=True)
                path.replace(unreadable / path.name)
                aside += 1
    return Rebuilt(instances=len(files) - aside, unreadable=aside)
