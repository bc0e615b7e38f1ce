import warnings

import pytest

from federation.pacs.attributes import text_of
from federation.pacs.web.dicomjson import NotDicomJson, read_dataset


@pytest.mark.parametrize(
    ("keyword", "tag", "vr", "values", "expected"),
    [
        ("PatientName", "00100010", "PN", [{"Alphabetic": "Ä^B", "Phonetic": "c"}], "Ä^B==c"),
        ("PatientName", "00100010", "PN", ["A^B"], "A^B"),
        ("PatientID", "00100020", "LO", [12], "12"),
        ("PatientComments", "00104000", "LT", ["a\\b"], "a\\b"),
        ("SeriesNumber", "00200011", "IS", [3], "3"),
        ("SeriesNumber", "00200011", "IS", ["3"], "3"),
        ("SeriesNumber", "00200011", "IS", ["three"], ""),
        ("Rows", "00280010", "US", [512], "512"),
        ("PixelSpacing", "00280030", "DS", [0.5, "0.25"], "0.5\\0.25"),
        ("StudyDate", "00080020", "DA", ["no date"], "no date"),
        ("SOPInstanceUID", "00080018", "UI", ["no UID"], "no UID"),
        ("Modality", "00080060", "CS", [None], ""),
        ("Modality", "00080060", "CS", [], ""),
        ("Modality", "00080060", "CS", "MR", ""),
        ("Modality", "00080060", "??", ["MR"], "MR"),
    ],
)
def test_values_are_read_as_they_are(
    keyword: str, tag: str, vr: str, values: object, expected: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they would repeat what they complain about
        ds = read_dataset({tag: {"vr": vr, "Value": values}})
        assert text_of(ds, keyword) == expected
    assert keyword in ds


def test_sequences_and_binary_values_are_read_and_what_lies_elsewhere_is_not() -> None:
    item = {"00081155": {"vr": "UI", "Value": ["1.2.3"]}}
    ds = read_dataset(
        {
            "00081199": {"vr": "SQ", "Value": [item, item]},
            "00081198": {"vr": "SQ"},
            "00420011": {"vr": "OB", "InlineBinary": "AAEC"},
            "7FE00010": {"vr": "OW", "BulkDataURI": "http://elsewhere/"},
        }
    )
    assert [one.ReferencedSOPInstanceUID for one in ds.ReferencedSOPSequence] == ["1.2.3"] * 2
    assert len(ds.FailedSOPSequence) == 0
    assert ds.EncapsulatedDocument == b"\0\1\2"
    assert not ds.PixelData


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "Doe",
        {"Doe": {"vr": "PN"}},
        {"-1": {"vr": "PN"}},
        {"FFFFFFFFF": {"vr": "PN"}},
        {"00100010": "Doe"},
        {"00100010": {"Value": ["Doe"]}},
        {"00081199": {"vr": "SQ", "Value": ["Doe"]}},
    ],
)
def test_what_is_no_dicom_json_is_refused_and_not_repeated(document: object) -> None:
    with pytest.raises(NotDicomJson) as caught:
        read_dataset(document)
    assert "Doe" not in str(caught.value)
