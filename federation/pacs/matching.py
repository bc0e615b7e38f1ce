"""Attribute matching (PS3.4 Section C.2.2.2), shared by the archive and by whoever asks one.

An archive may ignore a key that it does not support and answer too much; answers are
filtered again with the same rules.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from pydicom import Dataset
from pydicom.datadict import dictionary_VR

UIDS = {
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}

_RANGED = frozenset({"DA", "TM", "DT"})
_WHOLE = frozenset({"DA", "TM", "DT", "UI", "IS", "DS", "US", "SS", "UL", "SL", "FD", "FL"})


def matches(keyword: str, wanted: str, value: str) -> bool:
    """Whether an attribute's value, as text, matches a key's.

    Universal (empty or ``*``), list of UID, range of dates or times, wildcard, single value;
    person names without regard to case. A value that is absent matches universally only.
    """
    if wanted in ("", "*"):
        return True
    vr = dictionary_VR(keyword)
    if vr == "UI":
        return value in wanted.split("\\")
    if vr in _RANGED and "-" in wanted:
        first, _, last = wanted.partition("-")
        return bool(value) and (not first or value >= first) and (not last or value <= last + "~")
    if vr == "IS":
        return bool(value) and int(value) == int(wanted)
    values = value.split("\\")
    if vr == "PN":
        wanted, values = wanted.casefold(), [one.casefold() for one in values]
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


def text_of(ds: Dataset, keyword: str) -> str:
    """An attribute's value as text; several values joined by backslashes; "" when absent."""
    value = ds.get(keyword)
    if value is None:
        return ""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return str(value)
    return "\\".join(str(one) for one in value)


@lru_cache(maxsize=256)
def _wildcard(wanted: str) -> re.Pattern[str]:
    pattern = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in wanted)
    return re.compile(pattern, re.DOTALL)
