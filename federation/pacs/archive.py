"""The embedded PACS' store: a folder of Part 10 files and an index over them.

What is not in the index is not there. An instance goes into a file of its own in the same
file system, is made durable, and becomes visible when file and row are committed together;
a kill at any moment leaves at most files that nobody sees, which the next start removes.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pynetdicom.dsutils import split_dataset

from federation.closing import Closing
from federation.errors import PacsError, StorageError
from federation.pacs.attributes import read_attributes
from federation.pacs.gateway import Level
from federation.pacs.index import Index
from federation.pacs.receiving import IncomingFile, remove_abandoned

_COPY_BYTES = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredInstance:
    """An instance in the archive, and the file it lies in."""

    uid: str
    sop_class: str
    transfer_syntax: str
    path: Path


class DuplicateError(StorageError):
    """Another instance has this SOP Instance UID already; the one there is kept."""


class Archive(Closing):
    """A folder with an embedded PACS in it. Close it, or use it as a context manager.

    May be open in several processes and used from several threads at once.

    folder:   index.sqlite, and instances/xx/UID.dcm
    incoming: in the folder too; files that are being received
    """

    def __init__(self, folder: Path, *, create: bool = True) -> None:
        """Raises :class:`PacsError` where ``folder`` is no archive and none may be made."""
        self.folder = folder
        self.incoming = folder / "incoming"
        self._instances = folder / "instances"
        index = folder / "index.sqlite"
        if not create and not index.exists():
            raise PacsError(
                f"{folder} is no archive; expected the folder of `iodeep pacs serve` or of a run"
            )
        try:
            for path in (folder, self.incoming, self._instances):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PacsError(f"{folder} cannot hold an archive: {error.strerror}") from error
        self._index = Index(index)

    # --- storing --------------------------------------------------------------------------

    def ingest(self, path: Path) -> None:
        """Keep a copy of a Part 10 file, durably; the same instance again changes nothing.

        Raises :class:`~federation.pacs.attributes.NotStorable` for a file that is no composite
        instance, :class:`DuplicateError` where its UID is taken by other content, and
        :class:`StorageError` where it cannot be read or written; then nothing of it stays.
        """
        with IncomingFile(self.incoming) as copy:
            try:
                with path.open("rb") as original:
                    shutil.copyfileobj(original, copy, _COPY_BYTES)
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
                    if self._index.holds(uid):
                        if not _same_dataset(file.path, target):
                            raise DuplicateError(
                                f"instance {uid} is stored with other content, which is kept"
                            )
                        return
                    self._index.insert(row)
                    if not target.parent.exists():
                        target.parent.mkdir(exist_ok=True)
                        _sync_folder(self._instances)
                    file.move(target)
                    _sync_folder(target.parent)
            except BaseException:
                if not file.path.exists():
                    self._withdraw(uid)
                raise

    def _withdraw(self, uid: str) -> None:
        """Remove a file whose row was not committed; where that fails, the next start does."""
        with suppress(StorageError, OSError), self._index.transaction():
            if not self._index.holds(uid):
                self._path(uid).unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = "the disk is full" if error.errno in _FULL else (error.strerror or str(error))
            raise StorageError(
                f"an instance cannot be written to {self.folder}: {why}; nothing was stored"
            ) from error

    def remove_leftovers(self) -> int:
        """Delete files of ingests that ended without a row; returns how many.

        What another process is storing at the moment stays.
        """
        with self._index.transaction():
            indexed = self._index.uids()
            strays = [p for p in self._instances.glob("*/*.dcm") if p.stem not in indexed]
            for path in strays:
                path.unlink(missing_ok=True)
        return len(strays) + remove_abandoned(self.incoming)

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
                uid=uid, sop_class=sop_class, transfer_syntax=syntax, path=self._path(uid)
            )
            for uid, sop_class, syntax in self._index.instances(
                study=study, series=series, instance=instance
            )
        ]

    def _path(self, uid: str) -> Path:
        return self._instances / f"{sum(uid.encode()) % 256:02x}" / f"{uid}.dcm"

    def close(self) -> None:
        """Close the index. Closing twice is harmless."""
        self._index.close()


def _same_dataset(one: Path, other: Path) -> bool:
    """Whether two files hold the same data set; preamble and file meta may differ."""
    with one.open("rb") as a, other.open("rb") as b:
        for path, file in ((one, a), (other, b)):
            _, offset = split_dataset(path)
            file.seek(offset)
        while chunk := a.read(_COPY_BYTES):
            if chunk != b.read(len(chunk)):
                return False
        return not b.read(1)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
