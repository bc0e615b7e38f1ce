"""The embedded PACS' store: a folder of Part 10 files and an index over them.

What is not in the index is not there. An instance goes into a file of its own in the same
file system, is made durable, and becomes visible when file and row are committed together;
a kill at any moment leaves at most files that nobody sees, which the next start removes.
"""

import errno
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import Dataset

from federation.closing import Closing
from federation.errors import PacsError, StorageError
from federation.pacs.attributes import read_attributes
from federation.pacs.embedded import integrity
from federation.pacs.embedded.files import COPY_BYTES, file_of, same_dataset, sync_folder
from federation.pacs.embedded.index import Held, Index
from federation.pacs.embedded.integrity import INDEX, INSTANCES, Condition, FolderLock
from federation.pacs.gateway import Level
from federation.pacs.incoming import IncomingFile, remove_abandoned
from federation.pacs.room import RESERVE_BYTES, NoRoom, Room

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredInstance:
    """An instance in the archive, and the file it lies in."""

    uid: str
    sop_class: str
    transfer_syntax: str
    size: int
    path: Path

    def is_whole(self) -> bool:
        """Whether the file is there and as long as it was."""
        with suppress(OSError):
            return self.path.stat().st_size == self.size
        return False


class DuplicateError(StorageError):
    """Another instance has this SOP Instance UID already; the one there is kept."""


class Archive(Closing):
    """A folder with an embedded PACS in it. Close it, or use it as a context manager.

    May be open in several processes and used from several threads at once.

    folder:   index.sqlite, and instances/xx/UID.dcm
    incoming: in the folder too; files that are being received
    """

    def __init__(
        self,
        folder: Path,
        *,
        create: bool = True,
        quota_bytes: int | None = None,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        """No more than ``quota_bytes`` of instances are kept, and ``reserve_bytes`` of the disk
        left free.

        Raises :class:`PacsError` where ``folder`` is no archive and none may be made, or where
        its index is gone, and :class:`~federation.pacs.embedded.index.DamagedIndex`.
        """
        self.folder = folder
        self.incoming = folder / "incoming"
        self._instances = folder / INSTANCES
        if not create and not (folder / INDEX).exists():
            raise PacsError(
                f"{folder} is no archive; expected the folder of `iodeep pacs serve` or of a run"
            )
        integrity.require_index(folder)
        try:
            for path in (folder, self.incoming, self._instances):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PacsError(f"{folder} cannot hold an archive: {error.strerror}") from error
        self._lock = FolderLock(folder)
        try:
            self._index = Index(folder / INDEX, size_of=self._size_of)
            self.room = Room(folder, quota_bytes=quota_bytes, reserve_bytes=reserve_bytes)
            self.room.held_bytes = self.held().bytes
        except BaseException:
            self._lock.close()
            raise

    # --- storing --------------------------------------------------------------------------

    def ingest(self, path: Path) -> None:
        """Keep a copy of a Part 10 file, durably; the same instance again changes nothing.

        Raises :class:`~federation.pacs.attributes.NotStorable` for a file that is no composite
        instance, :class:`DuplicateError` where its UID is taken by other content, and
        :class:`StorageError` where it cannot be read or written; then nothing of it stays.
        """
        with IncomingFile(self.incoming, self.room) as copy:
            try:
                with path.open("rb") as original:
                    shutil.copyfileobj(original, copy, COPY_BYTES)
            except OSError as error:
                raise StorageError(f"{path.name} cannot be read: {error.strerror}") from error
            self.take(copy)

    def take(self, file: IncomingFile) -> None:
        """Keep what was written into :attr:`incoming`, by moving it. Raises as :meth:`ingest`."""
        with self._explained():
            file.check()
            row = read_attributes(file.path)
            file.sync()
            uid = row["SOPInstanceUID"]
            target = self._path(uid)
            try:
                with self._index.transaction():
                    if self._holds_whole(uid):
                        if not same_dataset(file.path, target):
                            raise DuplicateError(
                                f"instance {uid} is stored with other content, which is kept"
                            )
                        return
                    self._index.insert({**row, "size": file.size()})
                    held = self._index.held().bytes
                    self.room.check(held)
                    if not target.parent.exists():
                        target.parent.mkdir(exist_ok=True)
                        sync_folder(self._instances)
                    file.move(target)
                    sync_folder(target.parent)
                self.room.held_bytes = held
            except BaseException:
                if not file.path.exists():
                    self._withdraw(uid)
                raise

    def _holds_whole(self, uid: str) -> bool:
        """Whether an instance is here; one whose file was lost since the start no longer is."""
        size = self._index.size_of(uid)
        if size is not None and size != self._size_of(uid):
            self._index.lose([uid])
            return False
        return size is not None

    def _withdraw(self, uid: str) -> None:
        """Remove a file whose row was not committed; where that fails, the next start does."""
        with suppress(StorageError, OSError), self._index.transaction():
            if self._index.size_of(uid) is None:
                self._path(uid).unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except NoRoom as error:
            raise StorageError(f"an instance was refused: {error.strerror}") from error
        except OSError as error:
            why = "the disk is full" if error.errno in _FULL else (error.strerror or str(error))
            raise StorageError(
                f"an instance cannot be written to {self.folder}: {why}; nothing was stored"
            ) from error

    def discard(self, uids: Iterable[str]) -> None:
        """Let go of instances, durably; those that are not here are passed over.

        For queues: an archive of a hospital keeps what it has. A file that a kill leaves behind is
        deleted by the next check. Raises :class:`StorageError`.
        """
        gone = list(uids)
        with self._index.transaction():
            self._index.forget(gone)
            held = self._index.held().bytes
        for uid in gone:
            self._path(uid).unlink(missing_ok=True)
        self.room.held_bytes = held

    # --- checking -------------------------------------------------------------------------

    def check(self) -> Condition:
        """Whether index and files agree; what does not is not served, and leftovers are deleted.

        Raises :class:`~federation.pacs.embedded.index.DamagedIndex`, and :class:`PacsError`
        where the index is not that of these files.
        """
        found = integrity.check(self._index, self._instances)
        self.room.held_bytes = found.held.bytes
        return replace(found, removed=found.removed + remove_abandoned(self.incoming))

    def held(self) -> Held:
        """How many instances there are, and the bytes of their files."""
        return self._index.held()

    # --- finding --------------------------------------------------------------------------

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        """The entities of a level that match (PS3.4 Section C.2.2.2), with the keys asked for.

        Keys that are not indexed are left out of the answer and do not match anything away,
        as the Standard allows.
        """
        return self._index.find(level, keys)

    def instances(
        self, *, study: str = "", series: str = "", instance: str = ""
    ) -> list[StoredInstance]:
        """The instances below the given UIDs (each one or several, joined by backslashes)."""
        return [
            StoredInstance(
                uid=uid,
                sop_class=sop_class,
                transfer_syntax=syntax,
                size=size,
                path=self._path(uid),
            )
            for uid, sop_class, syntax, size in self._index.instances(
                study=study, series=series, instance=instance
            )
        ]

    def _path(self, uid: str) -> Path:
        return file_of(self._instances, uid)

    def _size_of(self, uid: str) -> int:
        """0 where the file is gone."""
        with suppress(FileNotFoundError):
            return self._path(uid).stat().st_size
        return 0

    def close(self) -> None:
        """Close the index. Closing twice is harmless."""
        self._index.close()
        self._lock.close()
