"""Patients who do not take part, kept as keyed hashes of their IDs.

HMAC-SHA256 (RFC 2104) of the Patient ID: whoever sees the file, and not the key, learns nobody's
name from it, and cannot try all numbers either.
"""

import hmac
import os
import re
import tempfile
from collections.abc import Collection, Iterable
from hashlib import sha256
from pathlib import Path

from clients.data.split import read_split_key
from federation.config import OptOuts
from federation.errors import ConfigError

_HASH = re.compile(r"[0-9a-f]{64}")
_PURPOSE = b"iodeep opt-out\0"


class OptedOut:
    """Whether a patient, by ID, does not take part; also by the hash of one, as it is kept."""

    def __init__(self, hashes: Collection[str], key: bytes | None) -> None:
        """Without a key everybody takes part."""
        self._hashes = frozenset(hashes)
        self._key = key

    def __call__(self, patient_id: str) -> bool:
        return self._key is not None and _hash(patient_id, self._key) in self._hashes

    def hashes(self, patient_ids: Iterable[str]) -> tuple[str, ...] | None:
        """What may be kept of IDs, to know later who opted out; None without a key."""
        if self._key is None:
            return None
        return tuple(sorted({_hash(one, self._key) for one in patient_ids}))

    def has_any(self, hashes: Iterable[str]) -> bool:
        """Whether one of these, as :meth:`hashes` gives them, does not take part."""
        return not self._hashes.isdisjoint(hashes)

    @property
    def is_anybody_asked(self) -> bool:
        """Whether the site keeps a list at all."""
        return self._key is not None


def opted_out(table: OptOuts | None) -> OptedOut:
    """Who does not take part.

    Raises :class:`ConfigError` where file or key cannot be read: then nobody can be told apart.
    """
    if table is None:
        return OptedOut((), None)
    return OptedOut(_read(table.file), read_split_key(table.key))


def opt_out(table: OptOuts, patient_ids: Iterable[str]) -> int:
    """Add patients; how many are new. Raises :class:`ConfigError`."""
    key = read_split_key(table.key)
    known = set(_read(table.file)) if table.file.exists() else set()
    new = {_hash(patient_id, key) for patient_id in patient_ids} - known
    try:
        with tempfile.NamedTemporaryFile("w", dir=table.file.parent, delete=False) as file:
            file.writelines(f"{one}\n" for one in sorted(known | new))
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(table.file)
    except OSError as error:
        raise ConfigError(
            f"the list of opt-outs {table.file} cannot be written: {error.strerror}"
        ) from error
    return len(new)


def _hash(patient_id: str, key: bytes) -> str:
    return hmac.new(key, _PURPOSE + patient_id.strip().encode(), sha256).hexdigest()


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the list of opt-outs {path} cannot be read ({type(error).__name__}); without it "
            "nobody knows who takes part. Make an empty one if nobody has opted out"
        ) from error
    if not all(map(_HASH.fullmatch, lines)):
        raise ConfigError(
            f"the list of opt-outs {path} holds what is no hash: one of 64 hexadecimal digits a "
            "line, as `iodeep site opt-out` writes them"
        )
    return lines
