"""Data sets from the DICOM JSON Model (PS3.18 Annex F).

Not by pydicom's own reader: it warns of odd values and repeats them, which may be a patient's
name, and stops at the first that it cannot convert.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from pydicom import Dataset, config
from pydicom.dataelem import DataElement
from pydicom.tag import Tag

_TEXT = frozenset(
    ("AE", "AS", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
)
_FORMS = ("Alphabetic", "Ideographic", "Phonetic")  # PS3.18 Section F.2.2


class NotDicomJson(Exception):
    """A document is no data set in DICOM JSON; the text repeats nothing of it."""


def read_dataset(document: object) -> Dataset:
    """A data set. A value that cannot be converted, or lies elsewhere, is left empty.

    Raises :class:`NotDicomJson`.
    """
    if not isinstance(document, Mapping):
        raise NotDicomJson("what should be a data set is none")
    ds = Dataset()
    for text, attribute in document.items():
        try:
            tag, vr = Tag(int(text, 16)), str(attribute["vr"])
        except (ValueError, TypeError, KeyError, OverflowError):
            raise NotDicomJson("what should be an attribute is none") from None
        ds[tag] = _element(tag, vr, attribute)
    return ds


def _element(tag: Any, vr: str, attribute: Mapping[str, Any]) -> DataElement:
    values = attribute.get("Value")
    values = values if isinstance(values, Sequence) and not isinstance(values, str) else []
    if vr == "SQ":
        return DataElement(tag, "SQ", [read_dataset(one) for one in values])
    try:
        if "InlineBinary" in attribute:
            value: Any = base64.b64decode(attribute["InlineBinary"])
        else:
            converted = [_converted(vr, one) for one in values]
            value = converted[0] if len(converted) == 1 else converted or None
        return DataElement(tag, vr, value, validation_mode=config.IGNORE)
    except Exception:  # pydicom raises anything on malformed values
        return DataElement(tag, "UN" if len(vr) != 2 else vr, None)


def _converted(vr: str, value: Any) -> Any:
    if value is None:
        return ""
    if vr == "PN" and isinstance(value, Mapping):
        return "=".join(str(value.get(form) or "") for form in _FORMS).rstrip("=")
    if vr == "AT":
        return Tag(int(value, 16))
    return str(value) if vr in _TEXT else value
