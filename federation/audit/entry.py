"""An entry of an audit log, and the head that stands for all entries up to it.

A line is canonical JSON (RFC 8785), whose first member is the entry's digest: SHA-256 over the
canonical JSON of the others. So a digest is checked over the line's own bytes.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import rfc8785

from federation.errors import AuditError, CodecError, ConfigError
from federation.iodeep.signature import PublicKey, Signature, SigningKey

MAX_ENTRY_BYTES = 2**16
MAX_HEAD_BYTES = 4096

_START = "0" * 64
_HEAD = re.compile(r"([0-9]{1,15}):([0-9a-f]{64})")
_DIGEST = re.compile(rb'\{"digest":"([0-9a-f]{64})",')
_PURPOSE = b"iodeep audit head\0"


@dataclass(frozen=True, slots=True)
class Head:
    """The number and digest of an entry; as text ``NUMBER:DIGEST``."""

    number: int
    digest: str

    def __str__(self) -> str:
        return f"{self.number}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` gives. Raises :class:`ConfigError`."""
        found = _HEAD.fullmatch(text.strip())
        if found is None:
            raise ConfigError(
                f"{text!r:.80} is no head of an audit log; expected NUMBER:DIGEST, with a digest "
                "of 64 hexadecimal digits"
            )
        return cls(int(found[1]), found[2])

    def encode(self, key: SigningKey | None) -> bytes:
        """What stands in the file beside the log, signed where there is a key."""
        signature = key.sign(self._signed).encode().hex() if key else None
        return json.dumps(
            {"number": self.number, "digest": self.digest, "signature": signature}
        ).encode()

    @property
    def _signed(self) -> bytes:
        return _PURPOSE + str(self).encode()

    def check(self, signature: Signature | None, key: PublicKey) -> None:
        """Raises :class:`AuditError` where ``key`` did not sign this head."""
        if signature is None:
            raise AuditError("it is not signed")
        try:
            key.verify(signature, self._signed)
        except CodecError:
            raise AuditError("the site's key did not sign it") from None


START = Head(0, _START)
"""Of a log without entries."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of a log.

    number:   from 1
    time:     ISO 8601, UTC
    previous: the digest of the entry before
    digest:   as the line claims it; ``is_sound`` says whether it fits the line
    """

    number: int
    time: str
    event: str
    facts: Mapping[str, Any]
    previous: str
    digest: str
    is_sound: bool = True

    @property
    def head(self) -> Head:
        return Head(self.number, self.digest)

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.time)


def write_entry(after: Head, at: datetime, event: str, facts: Mapping[str, Any]) -> bytes:
    """The line of the entry that follows ``after``, with its end of line.

    Raises :class:`AuditError` for what has no canonical form, or is too long.
    """
    entry: dict[str, Any] = {
        "number": after.number + 1,
        "time": at.isoformat(timespec="milliseconds"),
        "event": event,
        "facts": dict(facts),
        "previous": after.digest,
    }
    try:
        body = rfc8785.dumps(entry)
    except (ValueError, RecursionError) as error:
        raise AuditError(f"an entry {event!r:.40} has no canonical form: {error}") from error
    line = b'{"digest":"' + hashlib.sha256(body).hexdigest().encode() + b'",' + body[1:] + b"\n"
    if len(line) > MAX_ENTRY_BYTES:
        raise AuditError(f"an entry {event!r:.40} has {len(line)} bytes, over {MAX_ENTRY_BYTES}")
    return line


def read_entry(line: bytes) -> Entry:
    """An entry out of its line, without its end. Raises :class:`AuditError` where it is none."""
    found = _DIGEST.match(line)
    if found is None or len(line) > MAX_ENTRY_BYTES:
        raise AuditError("it is no entry")
    try:
        document = json.loads(line.decode())
    except (ValueError, RecursionError):
        raise AuditError("it is no JSON") from None
    match document:
        case {
            "number": int(number),
            "time": str(time),
            "event": str(event),
            "facts": dict(facts),
            "previous": str(previous),
            "digest": str(digest),
        } if len(document) == 6 and number > 0:
            entry = Entry(
                number=number, time=time, event=event, facts=facts, previous=previous, digest=digest
            )
        case _:
            raise AuditError("it has not the members of an entry")
    try:
        is_utc = entry.at.tzinfo is not None
    except ValueError:
        is_utc = False
    if not is_utc:
        raise AuditError("its time is none")
    body = b"{" + line[found.end() :]
    return replace(entry, is_sound=hashlib.sha256(body).hexdigest().encode() == found[1])


def head_path(log: Path) -> Path:
    """Where the head of a log lies: beside it."""
    return log.with_name(log.name + ".head")


def read_head(log: Path) -> tuple[Head, Signature | None] | None:
    """The head beside a log, and its signature; None where there is no such file.

    Raises :class:`AuditError` where it cannot be read.
    """
    path = head_path(log)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_HEAD_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AuditError(f"{path} cannot be read: {error.strerror}") from error
    try:
        document = json.loads(data)
        head = Head.parse(f"{document['number']}:{document['digest']}")
        signature = document["signature"]
        return head, Signature.decode(bytes.fromhex(signature)) if signature else None
    except (ValueError, KeyError, TypeError, RecursionError, ConfigError, CodecError):
        raise AuditError(f"{path} is no head of an audit log: it was changed") from None
