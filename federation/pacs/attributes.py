"""The attributes that the embedded archive indexes, and how their text is read.

Values are taken as they are encoded: an archive stores what it is sent, odd values included,
and pydicom's conversions would put the values they complain about into a log.
"""

from pathlib import Path
from typing import Final, cast

from pydicom import Dataset
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian
from pydicom.valuerep import PersonName

from federation.errors import StorageError
from federation.pacs.elements import Elements, NotWalkable, read_elements

_STUDY = (
    "PatientID",
    "PatientName",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_SERIES = (
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "SeriesDate",
    "SeriesTime",
    "Modality",
    "BodyPartExamined",
    "Manufacturer",
)
_IMAGE = (
    "SOPInstanceUID",
    "SOPClassUID",
    "InstanceNumber",
    "ContentLabel",
    "ContentDate",
    "ContentTime",
    "Rows",
    "Columns",
    "NumberOfFrames",
)
INDEXED: Final = (*_STUDY, *_SERIES, *_IMAGE)
KNOWN_AT: Final = {
    "STUDY": frozenset(_STUDY),
    "SERIES": frozenset((*_STUDY, *_SERIES)),
    "IMAGE": frozenset(INDEXED),
}
"""The indexed attributes that can be matched and returned at each level."""

UIDS: Final = {
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
"""Each level's unique key (PS3.4 Section C.6.2.1)."""

NO_IMAGES: Final = frozenset(
    {"SEG", "RTSTRUCT", "RTPLAN", "RTRECORD", "SR", "PR", "KO", "REG", "DOC"}
)
"""Modalities of series that hold no images (PS3.3 Section C.7.3.1.1.1), labels among them."""

_MAX_UID = 64
_WANTED = frozenset(
    cast(int, tag_for_keyword(keyword))
    for keyword in (
        *INDEXED,
        "SpecificCharacterSet",
        "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID",
    )
)


class NotStorable(StorageError):
    """The data set cannot be understood as a composite instance."""


class NotAsAnnounced(NotStorable):
    """The data set is another instance, or of another SOP class, than its file meta says."""


def is_uid(text: str) -> bool:
    """Whether ``text`` is a UID (PS3.5 Section 9.1), and so harmless in a file's name.

    Leading zeros are let pass: instances that have them are about.
    """
    parts = text.split(".")
    return (
        len(text) <= _MAX_UID
        and len(parts) > 1
        and all(part.isascii() and part.isdigit() for part in parts)
    )


def text_of(ds: Dataset, keyword: str) -> str:
    """An attribute's value as text; several values joined by backslashes; "" when absent."""
    tag = cast(int, tag_for_keyword(keyword))
    if tag not in ds:
        return ""
    element = ds.get_item(tag)
    if isinstance(element, RawDataElement):
        return _decoded(element, dictionary_VR(tag), ds)
    value = element.value
    if value is None:
        return ""
    if isinstance(value, str | PersonName) or not hasattr(value, "__iter__"):
        return str(value)
    return "\\".join(str(one) for one in value)


def read_attributes(path: Path) -> dict[str, str]:
    """The indexed attributes of a Part 10 file, and its ``transfer_syntax``, as text.

    Holds no other element, whatever the file has. Raises :class:`NotStorable`, and
    :class:`NotAsAnnounced` where the data set is not the instance that its file meta names.
    """
    try:
        meta, elements, syntax = read_elements(path, _WANTED)
        ds = _dataset(elements, is_little_endian=syntax != ExplicitVRBigEndian)
        row = {keyword: text_of(ds, keyword) for keyword in INDEXED}
        about = _dataset(meta, is_little_endian=True)
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror or error}") from error
    except NotWalkable as error:
        raise NotStorable(f"a data set cannot be understood: {error}") from error
    except Exception as error:  # pydicom raises anything on malformed values
        raise NotStorable(f"a data set cannot be understood: {type(error).__name__}") from error
    for keyword in (*UIDS.values(), "SOPClassUID"):
        if not is_uid(row[keyword]):
            raise NotStorable(f"a data set has no valid {keyword}")
    for keyword in ("SOPInstanceUID", "SOPClassUID"):
        expected = text_of(about, f"MediaStorage{keyword}")
        if row[keyword] != expected:
            raise NotAsAnnounced(
                f"instance {row['SOPInstanceUID']} says {keyword} {row[keyword]}; "
                f"its file meta says {expected!r:.70}"
            )
    return {**row, "transfer_syntax": syntax}


def _dataset(elements: Elements, *, is_little_endian: bool) -> Dataset:
    ds = Dataset()
    for number, value in elements.items():
        tag, vr = BaseTag(number), dictionary_VR(number)
        ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, is_little_endian)
    return ds


def _decoded(element: RawDataElement, vr: str, ds: Dataset) -> str:
    encoded = element.value or b""
    if vr == "US":
        if len(encoded) != 2:
            return ""
        return str(int.from_bytes(encoded, "little" if element.is_little_endian else "big"))
    encodings = convert_encodings(ds.get("SpecificCharacterSet"))
    delimiters = b"\\^=" if vr == "PN" else b"\\"  # each ends an escape to another character set
    text = decode_bytes(encoded, encodings, set(delimiters))
    return "\\".join(one.strip(" \0") for one in text.split("\\"))
