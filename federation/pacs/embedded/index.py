"""The embedded archive's index: one row an instance, in sqlite.

May be open in several processes and used from several threads at once.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from federation.closing import Closing
from federation.errors import PacsError, StorageError
from federation.pacs.attributes import INDEXED, KNOWN_AT, UIDS
from federation.pacs.gateway import Level
from federation.pacs.matching import matches

_VERSION = 2
_BUSY_S = 30.0
_COUNTED: Mapping[Level, Mapping[str, str]] = {
    "STUDY": {
        "NumberOfStudyRelatedSeries": "COUNT(DISTINCT SeriesInstanceUID)",
        "NumberOfStudyRelatedInstances": "COUNT(*)",
        "ModalitiesInStudy": "REPLACE(GROUP_CONCAT(DISTINCT Modality), ',', '\\')",
    },
    "SERIES": {"NumberOfSeriesRelatedInstances": "COUNT(*)"},
    "IMAGE": {},
}
_UTF_8 = "ISO_IR 192"
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_COLUMNS = f"{', '.join(f'{keyword} TEXT NOT NULL' for keyword in INDEXED)}, " + (
    "transfer_syntax TEXT NOT NULL, size INTEGER NOT NULL, UNIQUE (SOPInstanceUID)"
)
# `lost` has the rows of instances whose files are not what they were. `held` adds up the others,
# so that nobody needs to.
_SCHEMA = (
    f"CREATE TABLE IF NOT EXISTS instance ({_COLUMNS})",
    f"CREATE TABLE IF NOT EXISTS lost ({_COLUMNS})",
    "CREATE INDEX IF NOT EXISTS by_StudyInstanceUID ON instance (StudyInstanceUID)",
    "CREATE INDEX IF NOT EXISTS by_SeriesInstanceUID ON instance (SeriesInstanceUID)",
    "CREATE TABLE held (instances INTEGER NOT NULL, bytes INTEGER NOT NULL)",
    "INSERT INTO held SELECT COUNT(*), COALESCE(SUM(size), 0) FROM instance",
    "CREATE TRIGGER adds AFTER INSERT ON instance BEGIN "
    "UPDATE held SET instances = instances + 1, bytes = bytes + NEW.size; END",
    "CREATE TRIGGER takes AFTER DELETE ON instance BEGIN "
    "UPDATE held SET instances = instances - 1, bytes = bytes - OLD.size; END",
)

Row = Mapping[str, str | int]
"""The indexed attributes of an instance by keyword, its ``transfer_syntax``, and the ``size`` of
its file in bytes."""


class DamagedIndex(StorageError):
    """The index cannot be read; it can be made anew from the instances' files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """How much there is in an archive."""

    instances: int
    bytes: int


class Index(Closing):
    """Rows of indexed attributes, by SOP Instance UID. Close it."""

    def __init__(self, path: Path, *, size_of: Callable[[str], int]) -> None:
        """``size_of`` gives the size of an instance's file, for an index that lacks it.

        Raises :class:`PacsError` for one of a later version, :class:`DamagedIndex` for a file
        that is no index or damaged.
        """
        self._path = path
        self._lock = threading.RLock()
        with self._translated("opening"):
            self._database = sqlite3.connect(
                path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
        try:
            self._prepare(size_of)
        except BaseException:
            self._database.close()
            raise

    def _prepare(self, size_of: Callable[[str], int]) -> None:
        with self._translated("opening"):
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            if self._version() == _VERSION:
                return
        with self.transaction():
            if self._version() != _VERSION:  # no other process did it in between
                if self._lacks_sizes():
                    self._add_sizes(size_of)
                for statement in _SCHEMA:
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {_VERSION}")

    def _version(self) -> int:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise PacsError(
                f"the archive's index {self._path} is of version {version}, from a later "
                f"release; this one reads version {_VERSION}"
            )
        return int(version)

    def _lacks_sizes(self) -> bool:
        columns = [name for _, name, *_ in self._database.execute("PRAGMA table_info(instance)")]
        return bool(columns) and "size" not in columns

    def _add_sizes(self, size_of: Callable[[str], int]) -> None:
        """From version 1."""
        self._database.execute("ALTER TABLE instance ADD COLUMN size INTEGER NOT NULL DEFAULT 0")
        self._database.executemany(
            "UPDATE instance SET size = ? WHERE SOPInstanceUID = ?",
            [(size_of(uid), uid) for uid in self.sizes()],
        )

    def check(self) -> None:
        """Raises :class:`DamagedIndex` where sqlite finds it so."""
        (found,) = self._rows("PRAGMA quick_check(1)", [])[0]
        if found != "ok":
            raise self._damaged(str(found))

    def held(self) -> Held:
        """How many instances there are, and the bytes of their files."""
        ((instances, size),) = self._rows("SELECT instances, bytes FROM held", [])
        return Held(instances=instances, bytes=size)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One writer at a time, among threads and processes; all or nothing, and durable.

        Raises :class:`StorageError`; then nothing of the transaction stays.
        """
        with self._translated("writing"), self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # sqlite may have rolled back by itself
                    self._database.execute("ROLLBACK")
                raise

    # --- within a transaction -------------------------------------------------------------

    def insert(self, row: Row) -> None:
        """Add an instance; what was lost under its UID is forgotten."""
        names = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        self._database.execute("DELETE FROM lost WHERE SOPInstanceUID = ?", [row["SOPInstanceUID"]])
        self._database.execute(
            f"INSERT INTO instance ({names}) VALUES ({marks})", list(row.values())
        )

    def size_of(self, uid: str) -> int | None:
        """The size of an instance's file; None where there is no such instance."""
        found = self._database.execute("SELECT size FROM instance WHERE SOPInstanceUID = ?", [uid])
        row = found.fetchone()
        return None if row is None else int(row[0])

    def sizes(self) -> dict[str, int]:
        """The sizes of all instances' files, by SOP Instance UID."""
        return dict(self._database.execute("SELECT SOPInstanceUID, size FROM instance"))

    def lost_sizes(self) -> dict[str, int]:
        """The sizes that lost instances' files should have."""
        return dict(self._database.execute("SELECT SOPInstanceUID, size FROM lost"))

    def forget(self, uids: Iterable[str]) -> None:
        """Remove instances, and do not remember them."""
        self._database.executemany(
            "DELETE FROM instance WHERE SOPInstanceUID = ?", [(uid,) for uid in uids]
        )

    def lose(self, uids: Iterable[str]) -> None:
        """Let nobody find these instances, but remember them."""
        self._move(uids, "instance", "lost")

    def regain(self, uids: Iterable[str]) -> None:
        """Take lost instances back."""
        self._move(uids, "lost", "instance")

    def _move(self, uids: Iterable[str], source: str, target: str) -> None:
        names = ", ".join((*INDEXED, "transfer_syntax", "size"))
        for uid in uids:
            self._database.execute(
                f"INSERT INTO {target} ({names}) "
                f"SELECT {names} FROM {source} WHERE SOPInstanceUID = ?",
                [uid],
            )
            self._database.execute(f"DELETE FROM {source} WHERE SOPInstanceUID = ?", [uid])

    # --- searching ------------------------------------------------------------------------

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        """The entities of a level that match (PS3.4 Section C.2.2.2), with the keys asked for.

        Keys that are not indexed are left out of the answer and do not match anything away,
        as the Standard allows.
        """
        wanted = {keyword: value for keyword, value in keys.items() if keyword in KNOWN_AT[level]}
        counted = {keyword: sql for keyword, sql in _COUNTED[level].items() if keyword in keys}
        names = list(dict.fromkeys([UIDS[level], *wanted]))
        selected = ", ".join([*names, *(f"{sql} AS {keyword}" for keyword, sql in counted.items())])
        where, values = _where(wanted)
        rows = self._rows(
            f"SELECT {selected}, MIN(rowid) FROM instance {where} "
            f"GROUP BY {UIDS[level]} ORDER BY MIN(rowid)",
            values,
        )
        answers = []
        for row in rows:
            found = dict(zip([*names, *counted], map(str, row), strict=False))
            if all(matches(keyword, keys.get(keyword, ""), found[keyword]) for keyword in found):
                answers.append(_answer(found))
        return answers

    def instances(
        self, *, study: str = "", series: str = "", instance: str = ""
    ) -> list[tuple[str, str, str, int]]:
        """UID, SOP class, transfer syntax and size, of the instances below the given UIDs."""
        where, values = _where(
            {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": instance}
        )
        columns = "SOPInstanceUID, SOPClassUID, transfer_syntax, size"
        return self._rows(f"SELECT {columns} FROM instance {where} ORDER BY rowid", values)

    def _rows(self, query: str, values: list[str]) -> list[Any]:
        with self._translated("searching"), self._lock:
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:  # the rest says where
                raise self._damaged(str(error)) from error
            raise StorageError(f"{doing} the archive's index {self._path} failed: {error}") from (
                error
            )

    def _damaged(self, why: str) -> DamagedIndex:
        return DamagedIndex(
            f"the archive's index {self._path} is damaged ({why}); nothing was changed. It can be "
            f"made anew from the instances' files: iodeep pacs serve {self._path.parent} --rebuild"
        )

    def close(self) -> None:
        """Closing twice is harmless."""
        with self._lock:
            self._database.close()


def _where(keys: Mapping[str, str]) -> tuple[str, list[str]]:
    """UIDs narrow the search in the index; everything else is matched on the rows."""
    clauses, values = [], []
    for keyword in UIDS.values():
        if (wanted := keys.get(keyword, "")) not in ("", "*"):
            uids = wanted.split("\\")
            clauses.append(f"{keyword} IN ({', '.join('?' for _ in uids)})")
            values += uids
    return (f"WHERE {' AND '.join(clauses)}" if clauses else ""), values


def _answer(found: Mapping[str, str]) -> Dataset:
    """Values as they were stored, odd ones included: nothing here judges them."""
    ds = Dataset()
    ds.set_original_encoding(None, None, convert_encodings(_UTF_8))
    ds.SpecificCharacterSet = _UTF_8
    for keyword, value in found.items():
        tag, vr = Tag(keyword), dictionary_VR(keyword)
        if vr == "US":
            encoded = int(value).to_bytes(2, "little") if value else b""
        else:
            encoded = value.encode()
        if len(encoded) % 2:
            encoded += b"\0" if vr == "UI" else b" "
        ds[tag] = RawDataElement(tag, vr, len(encoded), encoded, 0, False, True)
    return ds
