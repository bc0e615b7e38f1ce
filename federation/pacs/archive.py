"""The embedded PACS' store: a folder of Part 10 files and an sqlite index over them.

What is not in the index is not there. An instance goes into a file of its own in the same
file system, is made durable, and becomes visible when file and row are committed together;
a kill at any moment leaves at most files that nobody sees, which the next start removes.
"""

import errno
import os
import re
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread
from pynetdicom.dsutils import split_dataset

from federation.closing import Closing
from federation.errors import PacsError, StorageError
from federation.pacs.gateway import Level
from federation.pacs.matching import UIDS, matches, text_of

_STUDY = (
    "PatientID",
    "PatientName",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_SERIES = (
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "SeriesDate",
    "SeriesTime",
    "Modality",
    "BodyPartExamined",
    "Manufacturer",
)
_IMAGE = (
    "SOPInstanceUID",
    "SOPClassUID",
    "InstanceNumber",
    "ContentLabel",
    "ContentDate",
    "ContentTime",
    "Rows",
    "Columns",
    "NumberOfFrames",
)
INDEXED = (*_STUDY, *_SERIES, *_IMAGE)

_LEVEL_OF = {
    "STUDY": frozenset(_STUDY),
    "SERIES": frozenset((*_STUDY, *_SERIES)),
    "IMAGE": frozenset(INDEXED),
}
_COUNTED = {
    "STUDY": {
        "NumberOfStudyRelatedSeries": "COUNT(DISTINCT SeriesInstanceUID)",
        "NumberOfStudyRelatedInstances": "COUNT(*)",
        "ModalitiesInStudy": "REPLACE(GROUP_CONCAT(DISTINCT Modality), ',', '\\')",
    },
    "SERIES": {"NumberOfSeriesRelatedInstances": "COUNT(*)"},
    "IMAGE": {},
}
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_DEFER_BYTES = 1024
_BUSY_S = 30.0
_COPY_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredInstance:
    """An instance in the archive, and the file it lies in."""

    uid: str
    sop_class: str
    transfer_syntax: str
    path: Path


class DuplicateError(StorageError):
    """Another instance has this SOP Instance UID already; the one there is kept."""


class NotStorable(StorageError):
    """The data set cannot be understood as a composite instance."""


class Archive(Closing):
    """A folder with an embedded PACS in it. Close it, or use it as a context manager.

    May be open in several processes and used from several threads at once.
    """

    def __init__(self, folder: Path, *, create: bool = True) -> None:
        """Raises :class:`PacsError` where ``folder`` is no archive and none may be made."""
        self.folder = folder
        index = folder / "index.sqlite"
        if not create and not index.exists():
            raise PacsError(
                f"{folder} is no archive; expected the folder of `iodeep pacs serve` or of a run"
            )
        self._incoming = folder / "incoming"
        self._instances = folder / "instances"
        for path in (folder, self._incoming, self._instances):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            index, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        self._prepare()

    def _prepare(self) -> None:
        columns = ", ".join(f"{keyword} TEXT NOT NULL" for keyword in INDEXED)
        with self._translated("opening the archive"), self._lock:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(
                f"CREATE TABLE IF NOT EXISTS instance ({columns}, transfer_syntax TEXT NOT NULL, "
                "UNIQUE (SOPInstanceUID))"
            )
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
                self._database.execute(
                    f"CREATE INDEX IF NOT EXISTS by_{keyword} ON instance ({keyword})"
                )

    # --- storing --------------------------------------------------------------------------

    def ingest(self, path: Path) -> None:
        """Keep a copy of a Part 10 file, durably; the same instance again changes nothing.

        Raises :class:`NotStorable` for a file that is no composite instance,
        :class:`DuplicateError` where its UID is taken by other content, and
        :class:`StorageError` where it cannot be written; then nothing of it stays.
        """
        row = _read_row(path)
        uid = row["SOPInstanceUID"]
        with self._written(path, uid) as copy, self._transaction():
            if self._holds(uid):
                if not _same_dataset(copy, self._path(uid)):
                    raise DuplicateError(
                        f"instance {uid} is stored with other content, which is kept"
                    )
                return
            self._insert(row)
            target = self._path(uid)
            target.parent.mkdir(exist_ok=True)
            copy.replace(target)
            _sync_folder(target.parent)

    def remove_leftovers(self) -> int:
        """Delete files of ingests that never ended; returns how many. Only while nobody stores."""
        removed = 0
        with self._transaction():
            indexed = {
                uid for (uid,) in self._database.execute("SELECT SOPInstanceUID FROM instance")
            }
            for path in [*self._incoming.iterdir(), *self._instances.glob("*/*.dcm")]:
                if path.parent == self._incoming or path.stem not in indexed:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    @contextmanager
    def _written(self, source: Path, uid: str) -> Iterator[Path]:
        """A durable copy among the incoming files; gone afterwards unless moved away."""
        copy: Path | None = None
        try:
            with (
                source.open("rb") as original,
                tempfile.NamedTemporaryFile(dir=self._incoming, delete=False) as file,
            ):
                copy = Path(file.name)
                self._copy(original, file)
                file.flush()
                os.fsync(file.fileno())
            yield copy
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "the disk is full" if full else (error.strerror or str(error))
            raise StorageError(
                f"instance {uid} cannot be written to {self.folder}: {why}; nothing was stored"
            ) from error
        finally:
            if copy is not None:
                copy.unlink(missing_ok=True)

    def _copy(self, original: BinaryIO, file: "tempfile._TemporaryFileWrapper[bytes]") -> None:
        shutil.copyfileobj(original, file, _COPY_BYTES)

    def _insert(self, row: Mapping[str, str]) -> None:
        names = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        self._database.execute(
            f"INSERT INTO instance ({names}) VALUES ({marks})", list(row.values())
        )

    def _holds(self, uid: str) -> bool:
        found = self._database.execute("SELECT 1 FROM instance WHERE SOPInstanceUID = ?", [uid])
        return found.fetchone() is not None

    # --- finding --------------------------------------------------------------------------

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        """The entities of a level that match (PS3.4 Section C.2.2.2), with the keys asked for.

        Keys that the archive does not index are left out of the answer and do not match
        anything away, as the Standard allows.
        """
        known = _LEVEL_OF[level]
        wanted = {keyword: value for keyword, value in keys.items() if keyword in known}
        counted = {keyword: sql for keyword, sql in _COUNTED[level].items() if keyword in keys}
        names = list(dict.fromkeys([UIDS[level], *wanted]))
        selected = ", ".join([*names, *(f"{sql} AS {keyword}" for keyword, sql in counted.items())])
        where, values = _where(wanted)
        query = (
            f"SELECT {selected}, MIN(rowid) FROM instance {where} "
            f"GROUP BY {UIDS[level]} ORDER BY MIN(rowid)"
        )
        with self._translated("searching the archive"), self._lock:
            rows = self._database.execute(query, values).fetchall()
        answers = []
        for row in rows:
            found = dict(zip([*names, *counted], map(str, row), strict=False))
            if all(matches(keyword, value, found[keyword]) for keyword, value in wanted.items()):
                answers.append(_answer(found))
        return answers

    def instances(
        self, *, study: str = "", series: str = "", instance: str = ""
    ) -> list[StoredInstance]:
        """The instances below the given UIDs (each one or several, joined by backslashes)."""
        where, values = _where(
            {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": instance}
        )
        columns = "SOPInstanceUID, SOPClassUID, transfer_syntax"
        query = f"SELECT {columns} FROM instance {where} ORDER BY rowid"
        with self._translated("searching the archive"), self._lock:
            rows = self._database.execute(query, values).fetchall()
        return [
            StoredInstance(
                uid=uid, sop_class=sop_class, transfer_syntax=syntax, path=self._path(uid)
            )
            for uid, sop_class, syntax in rows
        ]

    # --- the index ------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One writer at a time, among threads and processes; all or nothing."""
        with self._translated("writing the archive's index"), self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"{doing} in {self.folder} failed: {error}") from error

    def _path(self, uid: str) -> Path:
        return self._instances / f"{sum(uid.encode()) % 256:02x}" / f"{uid}.dcm"

    def close(self) -> None:
        """Close the index. Closing twice is harmless."""
        with self._lock:
            self._database.close()


def _read_row(path: Path) -> dict[str, str]:
    """The indexed attributes of a file, as text. Raises :class:`NotStorable`."""
    try:
        ds = dcmread(path, defer_size=_DEFER_BYTES, specific_tags=[*INDEXED])
        row = {keyword: text_of(ds, keyword) for keyword in INDEXED}
        row["transfer_syntax"] = str(ds.file_meta.TransferSyntaxUID)
        meta_uid = str(ds.file_meta.MediaStorageSOPInstanceUID)
    except Exception as error:  # pydicom raises anything on malformed data
        raise NotStorable(f"a data set cannot be understood: {type(error).__name__}") from error
    for keyword in (*UIDS.values(), "SOPClassUID"):
        if len(row[keyword]) > 64 or not _UID.fullmatch(row[keyword]):
            raise NotStorable(f"a data set has no valid {keyword}")
    if row["SOPInstanceUID"] != meta_uid:
        raise NotStorable("a data set's SOP Instance UID is not the one it was sent under")
    return row


def _where(keys: Mapping[str, str]) -> tuple[str, list[str]]:
    """UIDs narrow the search in the index; everything else is matched on the rows."""
    clauses, values = [], []
    for keyword in UIDS.values():
        if wanted := keys.get(keyword, "").strip():
            uids = wanted.split("\\")
            clauses.append(f"{keyword} IN ({', '.join('?' for _ in uids)})")
            values += uids
    return (f"WHERE {' AND '.join(clauses)}" if clauses else ""), values


def _answer(found: Mapping[str, str]) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in found.items():
        setattr(ds, keyword, int(value) if keyword in _NUMERIC and value else value or None)
    return ds


_NUMERIC = frozenset({"Rows", "Columns"})


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
