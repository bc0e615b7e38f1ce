"""Walking over data sets: what pydicom reads is walked, what is not whole is not."""

import resource
import struct
import zlib
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from federation.pacs import elements
from federation.pacs.attributes import NotStorable, read_attributes
from federation.pacs.elements import NotWalkable, read_elements
from tests.federation.pacs.conftest import Make

MODALITY, PATIENT_ID = 0x00080060, 0x00100020
WANTED = frozenset({MODALITY, PATIENT_ID})
SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian, RLELossless,
)  # fmt: skip
UNKNOWN = 0xFFFFFFFF


def nested(depth: int) -> Dataset:
    """Items and sequences of unknown length within each other; each names another patient."""
    ds = Dataset()
    ds.PatientID = f"within {depth}"
    ds.is_undefined_length_sequence_item = True  # type: ignore[attr-defined]  # pydicom's own
    if depth > 1:
        ds.ReferencedSeriesSequence = Sequence([nested(depth - 1), nested(depth - 1)])
        ds["ReferencedSeriesSequence"].is_undefined_length = True
    return ds


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("unknown", [False, True])
def test_elements_are_found_in_every_transfer_syntax(
    make: Make, syntax: str, unknown: bool
) -> None:
    path = make(syntax=syntax, PatientID="outside", Modality="MR", OtherPatientIDsSequence=[])
    ds = dcmread(path)
    ds.ReferencedSeriesSequence = Sequence([nested(3), nested(2)])
    ds["ReferencedSeriesSequence"].is_undefined_length = unknown
    ds.save_as(path)
    meta, found, read = read_elements(path, WANTED | {0x00020003})
    assert {tag: value.strip() for tag, value in found.items()} == {
        MODALITY: b"MR", PATIENT_ID: b"outside",
    }  # fmt: skip
    assert meta[0x00020003].rstrip(b"\0").decode() == ds.SOPInstanceUID
    assert read == syntax


def part_10(path: Path, data: bytes, syntax: str = ExplicitVRLittleEndian) -> Path:
    """A Part 10 file of any bytes."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    path.write_bytes(b"\0" * 128 + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid)
    with path.open("ab") as file:
        file.write(data)
    return path


def short(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def long(tag: int, vr: bytes, length: int) -> bytes:
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, length)


def delimiter(element: int, length: int = 0) -> bytes:
    return struct.pack("<HHL", 0xFFFE, element, length)


ITEM, ITEM_ENDS, SEQUENCE_ENDS = 0xE000, 0xE00D, 0xE0DD


def test_a_sequence_in_an_unknown_vr_is_implicit(tmp_path: Path) -> None:
    """PS3.5 Section 6.2.2: whatever the transfer syntax is."""
    within = struct.pack("<HHL", 0x0010, 0x0020, 2) + b"in"
    data = (
        long(0x00091001, b"UN", UNKNOWN) + delimiter(ITEM, UNKNOWN) + within
        + delimiter(ITEM_ENDS) + delimiter(SEQUENCE_ENDS) + short(PATIENT_ID, b"LO", b"P1")
    )  # fmt: skip
    assert read_elements(part_10(tmp_path / "un.dcm", data), WANTED)[1] == {PATIENT_ID: b"P1"}


def test_an_element_without_a_vr_among_others_is_read_as_pydicom_does(tmp_path: Path) -> None:
    implicit = struct.pack("<HHL", 0x0008, 0x0060, 2) + b"MR"
    path = part_10(tmp_path / "mixed.dcm", implicit + short(PATIENT_ID, b"LO", b"P1"))
    assert read_elements(path, WANTED)[1] == {MODALITY: b"MR", PATIENT_ID: b"P1"}


def test_every_cut_is_noticed(make: Make, tmp_path: Path) -> None:
    """But those between two elements: then what came is a data set. One byte may be padding."""
    for syntax in (ExplicitVRLittleEndian, RLELossless, DeflatedExplicitVRLittleEndian):
        whole = make(syntax=syntax).read_bytes()
        path = tmp_path / "cut.dcm"
        for cut in range(2, 120):
            path.write_bytes(whole[:-cut])
            with pytest.raises(NotWalkable):
                read_elements(path, WANTED)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (short(MODALITY, b"CS", b"MR") + b"\0\0\0", "cut short"),
        (long(0x7FE00010, b"OB", 2**32 - 2), "cut short"),
        (long(0x00081111, b"SQ", UNKNOWN) + short(MODALITY, b"CS", b"MR"), "no item"),
        (long(0x00081111, b"SQ", UNKNOWN) + delimiter(ITEM, UNKNOWN), "cut short"),
        (delimiter(ITEM_ENDS) + short(MODALITY, b"CS", b"MR"), "delimiter"),
        (long(PATIENT_ID, b"UT", 20000) + b" " * 20000, "longer"),
        ((long(0x00081111, b"SQ", UNKNOWN) + delimiter(ITEM, UNKNOWN)) * 100_000, "deep"),
    ],
)
def test_what_does_not_add_up_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(NotWalkable, match=why):
        read_elements(part_10(tmp_path / "bad.dcm", data), WANTED)


def test_what_follows_a_deflated_data_set_is_refused(make: Make) -> None:
    path = make(syntax=DeflatedExplicitVRLittleEndian)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(NotWalkable, match="follows"):
        read_elements(path, WANTED)


@pytest.mark.parametrize("content", [b"", b"DICM", b"\0" * 128 + b"DICM", b"\0" * 1000])
def test_what_is_no_part_10_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.dcm").write_bytes(content)
    with pytest.raises(NotWalkable):
        read_elements(tmp_path / "no.dcm", WANTED)


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_what_inflates_without_end_is_refused_and_never_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elements, "MAX_INFLATED_BYTES", 200 * 10**6)
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflate.compress(long(0x7FE00010, b"OB", 400 * 10**6))
    data += b"".join(deflate.compress(bytes(10**6)) for _ in range(400)) + deflate.flush()
    path = part_10(tmp_path / "bomb.dcm", data, DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 10**6
    before = megabytes()
    with pytest.raises(NotWalkable, match="inflates to more"):
        read_elements(path, WANTED)
    assert megabytes() - before < 20


def test_millions_of_elements_are_refused_and_never_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 300_000)
    path = part_10(tmp_path / "many.dcm", short(0x7FE11010, b"LO", b"") * 400_000)
    before = megabytes()
    with pytest.raises(NotWalkable, match="elements"):
        read_elements(path, WANTED)
    assert megabytes() - before < 20


def test_reading_attributes_says_why_a_data_set_is_refused(tmp_path: Path) -> None:
    path = part_10(tmp_path / "bad.dcm", long(0x7FE00010, b"OB", 2**32 - 2))
    with pytest.raises(NotStorable, match="cut short"):
        read_attributes(path)
