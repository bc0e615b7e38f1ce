"""The embedded archive's index: one row an instance, in sqlite.

May be open in several processes and used from several threads at once.
"""

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

_VERSION = 1
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


class Index(Closing):
    """Rows of indexed attributes, by SOP Instance UID. Close it."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`PacsError` for what is no index, or one of a later version."""
        self._path = path
        self._lock = threading.Lock()
        with self._translated("opening"):
            self._database = sqlite3.connect(
                path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
        try:
            self._prepare()
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        columns = ", ".join(f"{keyword} TEXT NOT NULL" for keyword in INDEXED)
        with self._translated("opening"), self._lock:
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise PacsError(
                    f"the archive's index {self._path} is of version {version}, from a later "
                    f"release; this one reads version {_VERSION}"
                )
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
            if version != _VERSION:
                self._database.execute(f"PRAGMA user_version = {_VERSION}")

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

    def insert(self, row: Mapping[str, str]) -> None:
        names = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        self._database.execute(
            f"INSERT INTO instance ({names}) VALUES ({marks})", list(row.values())
        )

    def holds(self, uid: str) -> bool:
        found = self._database.execute("SELECT 1 FROM instance WHERE SOPInstanceUID = ?", [uid])
        return found.fetchone() is not None

    def uids(self) -> set[str]:
        """The SOP Instance UIDs of all rows."""
        return {uid for (uid,) in self._database.execute("SELECT SOPInstanceUID FROM instance")}

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
    ) -> list[tuple[str, str, str]]:
        """UID, SOP class and transfer syntax of the instances below the given UIDs, if any."""
        where, values = _where(
            {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": instance}
        )
        columns = "SOPInstanceUID, SOPClassUID, transfer_syntax"
        return self._rows(f"SELECT {columns} FROM instance {where} ORDER BY rowid", values)

    def _rows(self, query: str, values: list[str]) -> list[Any]:
        with self._translated("searching"), self._lock:
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"{doing} the archive's index {self._path} failed: {error}") from (
                error
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
