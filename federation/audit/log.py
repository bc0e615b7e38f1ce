"""Writing to an audit log, and reading it from its end."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from federation.audit.entry import (
    MAX_ENTRY_BYTES,
    START,
    Entry,
    Head,
    head_path,
    read_entry,
    read_head,
    write_entry,
)
from federation.errors import AuditError
from federation.iodeep.signature import SigningKey
from federation.whole import SECRET, make_private, write_over

TORN = "torn"
"""The event that notes what a kill left of an entry."""

_BLOCK_BYTES = 2**16


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AuditLog:
    """A log that several processes may append to at the same time.

    Beside it lies its head, ``NAME.head``, signed where the site has a key. It is there before the
    first entry is, as the head of none. After that the entry is on the disk before its head is
    written, so after a kill between the two the log is one entry ahead.

    Where the site has a key, nothing is appended behind a head that the key did not sign. So a site
    that gets a key, or another one, puts its log and head away and begins a new one.
    """

    def __init__(
        self, path: Path, key: SigningKey | None, *, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self.path = path
        self._key = key
        self._now = now

    def append(self, event: str, /, **facts: Any) -> Head:
        """Add an entry; on return it is on the disk.

        What a kill in the middle of a write left of an entry is kept in a file of its own,
        ``NAME.torn.NUMBER``, and noted as entry NUMBER. Raises :class:`AuditError` where the log
        cannot be written, where its last entry was changed, where its head is missing or not signed
        by the site's key, or where it is not what its head says: nothing is appended to a log that
        was tampered with.
        """
        try:
            with self._held() as file:
                last = self._end(file)
                aside = self._aside(last.number + 1)
                if aside.exists():
                    last = self._add(file, last, TORN, _kept(aside))
                return self._add(file, last, event, facts)
        except OSError as error:
            raise AuditError(
                f"the audit log {self.path} cannot be written: {error.strerror}"
            ) from error

    def newest(self, *, most_bytes: int | None = None) -> Iterator[Entry]:
        """Entries from the last to the first, or those within the last ``most_bytes``.

        Each is taken as it stands: :func:`verify` says whether the log is whole. Raises
        :class:`AuditError` for what is no entry.
        """
        for line in self._lines_from_end(most_bytes):
            yield read_entry(line)

    def has(self, event: str, *, most_bytes: int, **facts: str) -> bool:
        """Whether an entry with these facts is among those within the last ``most_bytes``."""
        for line in self._lines_from_end(most_bytes):
            if not all(text.encode() in line for text in facts.values()):
                continue  # nearly all; the others are read
            entry = read_entry(line)
            if entry.event == event and facts.items() <= dict(entry.facts).items():
                return True
        return False

    @contextmanager
    def _held(self) -> Iterator[int]:
        """The log's file while nobody else writes; the system lets go when the process ends."""
        make_private(self.path.parent)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, SECRET)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)

    def _add(self, file: int, last: Head, event: str, facts: dict[str, Any]) -> Head:
        line = write_entry(last, self._now().astimezone(UTC), event, facts)
        left = memoryview(line)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
        head = read_entry(line[:-1]).head
        self._put(head)
        return head

    def _put(self, head: Head) -> None:
        write_over(head_path(self.path), head.encode(self._key), SECRET)

    def _end(self, file: int) -> Head:
        """The last entry's head, once what is behind it is out of the way."""
        size = os.fstat(file).st_size
        begin = max(0, size - 2 * MAX_ENTRY_BYTES)
        tail = os.pread(file, size - begin, begin)
        cut = tail.rfind(b"\n") + 1
        torn = tail[cut:]
        start = tail.rfind(b"\n", 0, max(0, cut - 1)) + 1
        if len(torn) > MAX_ENTRY_BYTES or (begin and (not cut or not start)):
            raise self._changed("its last line is too long to be an entry")
        last = self._checked(tail[start : cut - 1]) if cut else None
        self._check_head(last)
        if last is None:
            self._put(START)  # so that a first entry without a head is none of ours
        head = last.head if last else START
        if torn:
            write_over(self._aside(head.number + 1), torn, SECRET)
            os.ftruncate(file, size - len(torn))
            os.fsync(file)
        return head

    def _checked(self, line: bytes) -> Entry:
        try:
            entry = read_entry(line)
        except AuditError as error:
            raise self._changed(f"of its last line, {error}") from None
        if not entry.is_sound:
            raise self._changed(f"the digest of its last entry, {entry.number}, does not fit it")
        return entry

    def _check_head(self, last: Entry | None) -> None:
        """Whether the log ends where its head says, or one entry later, and the head counts."""
        found = read_head(self.path)
        number = last.number if last else 0
        if found is None:
            if last is not None:
                raise self._changed(f"it ends with entry {number}, and has no head beside it")
            return
        head, signature = found
        if self._key is not None:
            try:
                head.check(signature, self._key.public)
            except AuditError as error:
                raise self._changed(
                    f"the head beside it does not count: {error} (a site that had no key until "
                    "now, or another one, begins a new log)"
                ) from None
        if number not in (head.number, head.number + 1):
            raise self._changed(f"it ends with entry {number}, and its head is of {head.number}")
        if last is None:
            return
        if head.digest != (last.digest if number == head.number else last.previous):
            raise self._changed(f"entry {head.number} is not what its head says")

    def _changed(self, what: str) -> AuditError:
        return AuditError(
            f"nothing is appended to the audit log {self.path}: {what}. See what `iodeep site "
            "audit` says; keep the log and its head in another place, and a new one begins"
        )

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.torn.{number}")

    def _lines_from_end(self, most_bytes: int | None) -> Iterator[bytes]:
        """Whole lines without their ends, the last one first; what is torn is left out."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            left = file.seek(0, os.SEEK_END)
            floor = max(0, left - most_bytes) if most_bytes is not None else 0
            rest = b""
            is_torn = True
            while left > floor:
                begin = max(floor, left - _BLOCK_BYTES)
                file.seek(begin)
                first, *lines = (file.read(left - begin) + rest).split(b"\n")
                left = begin
                if lines and is_torn:
                    lines.pop()  # empty, unless what came last is torn
                    is_torn = False
                rest = first
                yield from reversed(lines)
            if not floor and not is_torn and rest:
                yield rest


def _kept(aside: Path) -> dict[str, Any]:
    data = aside.read_bytes()
    return {
        "file": aside.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
