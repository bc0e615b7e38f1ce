"""Attribute matching (PS3.4 Section C.2.2.2), shared by the archive and by whoever asks one.

An archive may ignore a key that it does not support and answer too much; answers are
filtered again with the same rules.
"""

import difflib
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from pydicom import Dataset
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR, tag_for_keyword

from federation.errors import ConfigError
from federation.pacs.attributes import UIDS, is_uid, text_of
from federation.pacs.gateway import Level

_ABOVE: Mapping[Level, tuple[Level, ...]] = {
    "STUDY": (),
    "SERIES": ("STUDY",),
    "IMAGE": ("STUDY", "SERIES"),
}
MAX_MATCHES = 200_000
"""Of one search: they come into memory, and are hours of an archive's work."""

_RANGED = frozenset({"DA", "TM", "DT"})
_NUMBERS = frozenset({"IS", "DS"})
_WHOLE = frozenset({"DA", "TM", "DT", "UI", "IS", "DS", "US", "SS", "UL", "SL", "FD", "FL"})
_SPELLING = {
    "DA": (r"(\d{8}|\d{8}-(\d{8})?|-\d{8})", "a date YYYYMMDD or a range with a hyphen"),
    "TM": (r"[\d.]*-?[\d.]*", "a time HHMMSS or a range with a hyphen"),
    "IS": (r"[+-]?\d{1,12}", "a whole number"),
    "US": (r"\d{1,5}", "a whole number"),
}


def matches(keyword: str, wanted: str, value: str) -> bool:
    """Whether an attribute's value, as text, matches a key's.

    Universal (empty or ``*``), list of UID, range of dates or times, wildcard, single value;
    numbers by what they are worth (3 is 3.0), person names without regard to case. A value that
    is absent matches universally only.
    """
    if wanted in ("", "*"):
        return True
    vr = dictionary_VR(keyword)
    if vr == "UI":
        return value in wanted.split("\\")
    if vr in _RANGED and "-" in wanted:
        first, _, last = wanted.partition("-")
        return bool(value) and (not first or value >= first) and (not last or value <= last + "~")
    values = value.split("\\")
    if vr in _NUMBERS:
        return _number(wanted) in map(_number, values)
    if vr == "PN":
        wanted, values = wanted.casefold(), [one.casefold() for one in values]
        # A name's alphabetic, ideographic and phonetic forms may be asked for one by one.
        values += [form for one in values if "=" in one for form in one.split("=")]
    if vr not in _WHOLE and ("*" in wanted or "?" in wanted):
        return any(_wildcard(wanted).fullmatch(one) for one in values)
    return wanted in values


def matches_all(keys: Mapping[str, str], found: Dataset) -> bool:
    """Whether an answer matches every key it has an attribute for.

    An attribute that an archive did not return cannot be checked here: it counts as a match
    where the key is one that archives may leave out, never for the level's UIDs.
    """
    return all(
        matches(keyword, wanted, text_of(found, keyword))
        for keyword, wanted in keys.items()
        if wanted and (keyword in found or keyword in UIDS.values())
    )


def upper_keys(level: Level) -> list[str]:
    """The unique keys of the levels above (PS3.4 Section C.4.1.3.1.1)."""
    return [UIDS[upper] for upper in _ABOVE[level]]


def has_upper_keys(level: Level, keys: Mapping[str, str]) -> bool:
    """Whether one UID is there for each level above."""
    return all(is_uid(keys.get(keyword, "")) for keyword in upper_keys(level))


def check_keys(level: Level, keys: Mapping[str, str]) -> None:
    """Refuse keys that no archive could answer rightly. Raises :class:`ConfigError`."""
    for keyword, wanted in keys.items():
        if tag_for_keyword(keyword) is None:
            names = [entry[4] for entry in DicomDictionary.values()]
            nearest = difflib.get_close_matches(keyword, names, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigError(f"{keyword!r} is no attribute's keyword{hint}")
        spelling, expected = _SPELLING.get(dictionary_VR(keyword), ("", ""))
        if wanted not in ("", "*") and spelling and not re.fullmatch(spelling, wanted):
            raise ConfigError(f"the key {keyword} must be {expected}")
    if not has_upper_keys(level, keys):
        missing = " and ".join(upper_keys(level))
        raise ConfigError(f"a search at {level} level needs {missing}, one UID each")


def check_uids(*uids: str) -> None:
    """Refuse what is no UID before it names a file or widens a request: ConfigError."""
    for uid in uids:
        if not is_uid(uid):
            raise ConfigError(f"{uid!r} is no UID; expected digits and dots, 64 at most")


def _number(text: str) -> Decimal | str:
    """Exact, and the text itself where it is no number."""
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return text
    return number if number.is_finite() else text


@lru_cache(maxsize=256)
def _wildcard(wanted: str) -> re.Pattern[str]:
    """As a pattern that goes back nowhere: many stars would take it for ever (``*a*a*a*a*b``)."""
    first, *others = (
        "".join("." if c == "?" else re.escape(c) for c in p) for p in wanted.split("*")
    )
    if not others:
        return re.compile(first, re.DOTALL)
    between = "".join(f"(?>.*?{part})" for part in others[:-1])
    return re.compile(f"{first}{between}.*{others[-1]}", re.DOTALL)
