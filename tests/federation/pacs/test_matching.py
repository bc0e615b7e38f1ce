"""Attribute matching, PS3.4 Section C.2.2.2."""

import fnmatch
import random
import time

import pytest

from federation.errors import ConfigError
from federation.pacs.gateway import Level
from federation.pacs.matching import check_keys, check_uids, matches


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
        ("SeriesNumber", "7", "seven", False),
        ("MagneticFieldStrength", "3", "3.0", True),
        ("MagneticFieldStrength", "3.0", "3", True),
        ("MagneticFieldStrength", "1.5", "3\\15e-1", True),
        ("MagneticFieldStrength", "3", "2.9999999999", False),
        ("MagneticFieldStrength", "3", "", False),
        ("MagneticFieldStrength", "nan", "3", False),
        ("NumberOfFrames", "7*", "7", False),
        ("PatientName", "山田^太郎", "Yamada^Tarou=山田^太郎", True),
        ("StudyInstanceUID", "1.2\\1.3", "1.3", True),
        ("StudyInstanceUID", "1.2\\1.3", "1.4", False),
        ("StudyInstanceUID", "1.*", "1.4", False),
        ("Modality", "MR", "MR", True),
        ("ModalitiesInStudy", "SEG", "MR\\SEG", True),
    ],
)
def test_matching(keyword: str, wanted: str, value: str, expected: bool) -> None:
    assert matches(keyword, wanted, value) is expected


def test_wildcards_match_what_a_shell_s_do() -> None:
    draw = random.Random(0)
    for _ in range(5000):
        wanted = "".join(draw.choice("ab*?") for _ in range(draw.randrange(1, 8)))
        value = "".join(draw.choice("ab") for _ in range(draw.randrange(10)))
        assert matches("PatientID", wanted, value) == fnmatch.fnmatchcase(value, wanted)


def test_many_stars_take_no_time() -> None:
    begin = time.perf_counter()
    assert not matches("PatientID", "*a" * 30 + "*b", "a" * 16_000)
    assert not matches("PatientID", "*?a" * 30 + "b", "a" * 16_000 + "ab?")
    assert time.perf_counter() - begin < 1


@pytest.mark.parametrize(
    ("level", "keys", "said"),
    [
        ("STUDY", {"PatientId": "P1"}, "did you mean 'PatientID'"),
        ("STUDY", {"StudyDate": "2020-01-01"}, "StudyDate must be a date"),
        ("SERIES", {"StudyInstanceUID": "1.2", "SeriesNumber": "1*"}, "whole number"),
        ("SERIES", {"SeriesInstanceUID": ""}, "needs StudyInstanceUID"),
        ("SERIES", {"StudyInstanceUID": "1.2\\1.3"}, "needs StudyInstanceUID"),
        ("IMAGE", {"StudyInstanceUID": "1.2"}, "and SeriesInstanceUID"),
    ],
)
def test_keys_that_cannot_be_answered_rightly_are_refused(
    level: Level, keys: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        check_keys(level, keys)


@pytest.mark.parametrize("uid", ["", "1", "../../etc", "1.2/3", "1.2\\1.3", "1." + "2" * 63, "1.٢"])
def test_what_is_no_uid_is_refused(uid: str) -> None:
    with pytest.raises(ConfigError):
        check_uids(uid)
