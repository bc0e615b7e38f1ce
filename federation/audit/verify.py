"""Whether an audit log is whole: every entry as it was written, all of them, in order."""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from federation.audit.entry import (
    MAX_ENTRY_BYTES,
    START,
    Entry,
    Head,
    head_path,
    read_entry,
    read_head,
)
from federation.errors import AuditError
from federation.iodeep.signature import PublicKey, Signature

MAX_PROBLEMS = 100

Kind = Literal["changed", "removed", "reordered", "inserted", "truncated", "head"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is wrong, and where: a line of the file, an entry by its number; None where neither.

    kind: an entry was ``changed``, or some were ``removed`` before it, it was ``reordered`` or
          ``inserted``; the last ones are ``truncated``; the ``head`` cannot be believed
    """

    kind: Kind
    line: int | None
    entry: int | None
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What a log came to.

    head:     of its last entry; None of an empty one
    problems: the first hundred; ``more`` counts the others
    torn:     bytes behind the last entry, which a kill left; the next append keeps them aside
    ahead:    whether the log is one entry ahead of the head beside it, as after a kill
    """

    entries: int
    head: Head | None
    problems: tuple[Problem, ...]
    more: int
    torn: int
    ahead: bool

    @property
    def is_whole(self) -> bool:
        return not self.problems


def verify(path: Path, key: PublicKey | None = None, known: Head | None = None) -> Verified:
    """Read a log once, from the beginning, a line at a time.

    There must be a head beside any entry, and ``key`` must have signed it, where it is given: what
    :class:`~federation.audit.AuditLog` asks for before it appends. ``known`` is a head that
    somebody else was told earlier: an entry that was there then must be there still. Others may
    append meanwhile. Raises :class:`AuditError` where the log cannot be read.
    """
    chain = _Chain()
    try:
        size, beside = _snapshot(path, chain)
        for head in (known, beside[0] if beside else None):
            if head is not None:
                chain.watched[head.number] = None
        torn = 0
        if size:
            with path.open("rb") as file:
                for number, line in enumerate(_lines(file, size), start=1):
                    if line.endswith(b"\n"):
                        chain.add(number, line[:-1])
                    else:
                        torn = len(line)
    except OSError as error:
        raise AuditError(f"the audit log {path} cannot be read: {error.strerror}") from error
    chain.close()
    if known is not None:
        chain.compare(known, "the head that is known")
    ahead = False
    if beside is not None:
        _check_signature(chain, beside, key)
        chain.compare(beside[0], f"its head in {head_path(path).name}")
        ahead = chain.check_length(beside[0])
    elif chain.last.number and not chain.is_head_unreadable:
        chain.note("head", None, None, f"{head_path(path).name} is missing")
    return Verified(
        entries=chain.entries,
        head=chain.last if chain.last.number else None,
        problems=tuple(chain.problems),
        more=chain.more,
        torn=torn,
        ahead=ahead,
    )


def _snapshot(path: Path, chain: "_Chain") -> tuple[int, tuple[Head, Signature | None] | None]:
    """How long the log is, and its head, while nobody appends."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0, _beside(path, chain)
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        return os.fstat(file).st_size, _beside(path, chain)
    finally:
        os.close(file)


def _beside(path: Path, chain: "_Chain") -> tuple[Head, Signature | None] | None:
    try:
        return read_head(path)
    except AuditError as error:
        chain.is_head_unreadable = True
        chain.note("head", None, None, str(error))
        return None


def _check_signature(
    chain: "_Chain", beside: tuple[Head, Signature | None], key: PublicKey | None
) -> None:
    if key is None:
        return
    head, signature = beside
    try:
        head.check(signature, key)
    except AuditError as error:
        chain.note("head", None, head.number, f"the head beside it does not count: {error}")


def _lines(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The lines of the first ``size`` bytes; of one that is too long only its beginning and end."""
    left = size
    while left:
        line = file.readline(min(left, MAX_ENTRY_BYTES + 1))
        if not line:
            return
        left -= len(line)
        while left and not line.endswith(b"\n"):
            more = file.readline(min(left, MAX_ENTRY_BYTES))
            if not more:
                break
            left -= len(more)
            line = line[:MAX_ENTRY_BYTES] + more[-1:]
        yield line


@dataclass(kw_only=True, slots=True)
class _Gap:
    """Numbers that were passed over, at a line."""

    first: int
    last: int
    line: int


@dataclass(kw_only=True, slots=True)
class _Chain:
    """Follows entries from the first on.

    unread:  lines since ``last`` whose number cannot be believed
    watched: the digests of entries that a head speaks of, when they come
    """

    last: Head = START
    entries: int = 0
    unread: int = 0
    gaps: list[_Gap] = field(default_factory=list)
    watched: dict[int, str | None] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    more: int = 0
    is_head_unreadable: bool = False

    def note(self, kind: Kind, line: int | None, entry: int | None, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(kind=kind, line=line, entry=entry, text=text))
        else:
            self.more += 1

    def add(self, number: int, line: bytes) -> None:
        """Take the next line of the file, the ``number``-th."""
        self.entries += 1
        place = self.last.number + 1 + self.unread
        try:
            entry = read_entry(line)
        except AuditError as error:
            self.note("changed", number, place, f"{error}: it was changed, or put there")
            self.unread += 1
            return
        if not entry.is_sound:
            self.note("changed", number, place, "its digest does not fit it")
            if entry.number == place and not self.unread:
                self._accept(entry)
            else:
                self.unread += 1
            return
        self._place(number, entry)

    def _place(self, line: int, entry: Entry) -> None:
        lowest = self.last.number + 1
        if entry.number < lowest:
            self._out_of_order(line, entry)
            return
        if entry.number > lowest + self.unread:
            if len(self.gaps) < MAX_PROBLEMS:
                self.gaps.append(_Gap(first=lowest + self.unread, last=entry.number - 1, line=line))
            else:
                self.more += 1
        elif entry.number == lowest and entry.previous != self.last.digest:
            self.note(
                "changed",
                line,
                entry.number,
                f"it was written after another entry {entry.number - 1} than stands before it: "
                "one of the two was changed",
            )
        self._accept(entry)

    def _accept(self, entry: Entry) -> None:
        self.last = entry.head
        self.unread = 0
        if entry.number in self.watched:
            self.watched[entry.number] = entry.digest

    def _out_of_order(self, line: int, entry: Entry) -> None:
        for gap in self.gaps:
            if gap.first <= entry.number <= gap.last:
                self.gaps.remove(gap)
                parts = ((gap.first, entry.number - 1), (entry.number + 1, gap.last))
                self.gaps += [
                    _Gap(first=first, last=last, line=gap.line)
                    for first, last in parts
                    if first <= last
                ]
                self.note(
                    "reordered", line, entry.number, f"it stands behind entry {self.last.number}"
                )
                return
        self.note("inserted", line, entry.number, "an entry of that number stands before it")

    def close(self) -> None:
        """All lines have come: what is missing stays missing."""
        for gap in self.gaps:
            which = (
                f"entry {gap.first}"
                if gap.first == gap.last
                else (f"entries {gap.first} to {gap.last}")
            )
            self.note("removed", gap.line, gap.first, f"{which} should stand before this line")

    def compare(self, head: Head, whose: str) -> None:
        """Whether the entry that a head speaks of is there, and is the one."""
        end = self.last.number + self.unread
        if head.number > end:
            self.note(
                "truncated",
                None,
                end + 1,
                f"entries {end + 1} to {head.number} are missing, says {whose}",
            )
        elif self.watched.get(head.number) not in (None, head.digest):
            self.note(
                "changed",
                None,
                head.number,
                f"it is not the one that {whose} speaks of: the log was written anew, in part or "
                "as a whole",
            )

    def check_length(self, head: Head) -> bool:
        """Whether the log is one entry ahead; more were added by somebody else."""
        ahead = self.last.number + self.unread - head.number
        if ahead > 1:
            self.note(
                "inserted",
                None,
                head.number + 2,
                f"{ahead - 1} entries stand behind those that the head beside the log speaks of",
            )
        return ahead == 1
