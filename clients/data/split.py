"""Which patients train, which validate, which test."""

import hmac
import os
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from federation.config import Split
from federation.errors import ConfigError
from federation.whole import make_private

_KEY_BYTES = 32
_DRAWN = 12  # hexadecimal digits of a hash that are the number drawn; the others are an order


class Part(StrEnum):
    """A patient's part in training."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def patient_hash(patient_id: str, key: bytes) -> str:
    """HMAC-SHA256 (RFC 2104) of a Patient ID, in hexadecimal: what may be kept of one."""
    return hmac.new(key, patient_id.encode(), sha256).hexdigest()


def part_of(patient_ids: Iterable[str], split: Split, key: bytes) -> Part:
    """The part of a patient, by all IDs that are known; see :func:`part_of_hashes`."""
    return part_of_hashes({patient_hash(one, key) for one in patient_ids}, split, key)


def part_of_hashes(hashes: Collection[str], split: Split, key: bytes) -> Part:
    """The part of a patient, a function of the Patient ID, the key and the fractions alone.

    hashes: :func:`patient_hash` of all IDs that are known of one patient, one at least

    HMAC-SHA256 of the Patient ID (RFC 2104), read as a number in [0, 1), is validation below
    ``split.validation`` and test from ``1 - split.test`` on. So a patient's part never changes
    when others arrive or leave, all studies of a patient share it, and changing one fraction
    does not move patients between the other two parts. Patient IDs that ``split.test`` or
    ``split.validation`` names are that whatever the number; a fraction beside is one of the others.
    Of several IDs one decides, picked by digits of its hash that are no part of the number: the
    least number would favour validation.

    Since each patient is drawn alone, a part of a small site can be larger or smaller than
    its fraction, or empty: of 16 patients at 0.15, no validation patient at all in 7 of 100
    keys. Nobody is moved to fill it, because the patient who would be could change with the
    next arrival, and a test patient must never have been trained on. Such a site trains and
    reports no validation metric; a larger fraction, or more patients, gives it one.
    """
    for part, share in ((Part.TEST, split.test), (Part.VALIDATION, split.validation)):
        if isinstance(share, tuple) and not _hashes(share, key).isdisjoint(hashes):
            return part
    deciding = min(hashes, key=lambda one: one[_DRAWN:])
    number = int(deciding[:_DRAWN], 16) / 16**_DRAWN
    if not isinstance(split.validation, tuple) and number < split.validation:
        return Part.VALIDATION
    if not isinstance(split.test, tuple) and number >= 1 - split.test:
        return Part.TEST
    return Part.TRAIN


@lru_cache(maxsize=4)
def _hashes(patient_ids: tuple[str, ...], key: bytes) -> frozenset[str]:
    return frozenset(patient_hash(one, key) for one in patient_ids)


def count_parts(patients: Iterable[tuple[str, ...]], split: Split) -> Mapping[Part, int] | None:
    """How many patients, by all IDs of each, are in each part; None without the split's key."""
    try:
        key = read_split_key(split.key)
    except ConfigError:
        return None
    counts = Counter(part_of(patient, split, key) for patient in set(patients))
    return {part: counts[part] for part in Part}


def read_split_key(path: Path) -> bytes:
    """The secret that keys a site's split. Raises :class:`ConfigError` where it is unusable.

    A missing key is never made here: a new key is a new split, and would let the test
    patients of earlier rounds into training.
    """
    try:
        key = path.read_bytes().strip()
    except FileNotFoundError:
        raise ConfigError(
            f"the split's key {path} does not exist; restore the site's key, or for a new site "
            f"write {_KEY_BYTES} random bytes there"
        ) from None
    except OSError as error:
        raise ConfigError(f"the split's key {path} cannot be read: {error.strerror}") from error
    if not key:
        raise ConfigError(f"the split's key {path} is empty; restore the site's key")
    return key


def create_split_key(path: Path) -> None:
    """Write a new random key, readable by its owner only. Raises where one is there already."""
    make_private(path.parent)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists; a site keeps its split's key") from None
    with os.fdopen(file, "w", encoding="ascii") as key:
        key.write(secrets.token_hex(_KEY_BYTES) + "\n")
