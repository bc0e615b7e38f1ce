"""Attribute matching, PS3.4 Section C.2.2.2."""

import pytest

from federation.pacs.matching import matches


@pytest.mark.parametrize(
    ("keyword", "wanted", "value", "expected"),
    [
        ("PatientID", "", "anything", True),
        ("PatientID", "*", "", True),
        ("PatientID", "P1", "P1", True),
        ("PatientID", "P1", "p1", False),
        ("PatientID", "P1", "P12", False),
        ("PatientID", "IODEEP.MR.5366008.*", "IODEEP.MR.5366008.0.unet", True),
        ("PatientID", "IODEEP.MR.5366008.*", "IODEEPxMR.5366008.0", False),
        ("PatientID", "P?", "P1", True),
        ("PatientID", "P?", "P12", False),
        ("PatientID", "P[1]", "P1", False),
        ("PatientName", "test^*", "Test^Person", True),
        ("StudyDate", "20200101-20200131", "20200115", True),
        ("StudyDate", "20200101-20200131", "20200201", False),
        ("StudyDate", "20200101-", "20990101", True),
        ("StudyDate", "-20200101", "20200101", True),
        ("StudyDate", "20200101-20200131", "", False),
        ("SeriesNumber", "7", "07", True),
        ("SeriesNumber", "7", "", False),
        ("StudyInstanceUID", "1.2\\1.3", "1.3", True),
        ("StudyInstanceUID", "1.2\\1.3", "1.4", False),
        ("StudyInstanceUID", "1.*", "1.4", False),
        ("Modality", "MR", "MR", True),
        ("ModalitiesInStudy", "SEG", "MR\\SEG", True),
    ],
)
def test_matching(keyword: str, wanted: str, value: str, expected: bool) -> None:
    assert matches(keyword, wanted, value) is expected
