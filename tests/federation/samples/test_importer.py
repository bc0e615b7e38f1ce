import csv
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from federation.errors import StorageError
from federation.pacs import Archive, ArchiveServer, Gateway, open_gateway
from federation.samples import (
    Problem,
    Quarantined,
    Stored,
    import_cases,
    importer,
    phantom_cases,
    read_manifest,
)
from federation.samples.case import Case
from tests.federation.samples.conftest import write_manifest, write_nifti_case


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with (
        ArchiveServer(Archive(tmp_path / "pacs"), ae_title="PACS") as server,
        open_gateway(server.address) as opened,
    ):
        yield opened


def test_cases_are_stored_and_found(gateway: Gateway) -> None:
    outcomes = list(import_cases(phantom_cases("A", 2, 0), gateway))

    assert [type(outcome) for outcome in outcomes] == [Stored, Stored]
    studies = gateway.find("STUDY", {"StudyInstanceUID": "", "PatientID": "PHANTOM-0-A-*"})
    assert len(studies) == 2
    for study in studies:
        series = gateway.find(
            "SERIES", {"StudyInstanceUID": study.StudyInstanceUID, "Modality": ""}
        )
        assert sorted(row.Modality for row in series) == ["MR", "SEG"]


def test_a_bad_case_is_quarantined_and_the_others_are_stored(
    gateway: Gateway, nifti_folder: Path
) -> None:
    (nifti_folder / "case_001_label.nii.gz").unlink()

    outcomes = list(import_cases(read_manifest(nifti_folder), gateway))

    bad, good = outcomes
    assert isinstance(bad, Quarantined)
    assert bad.problem is Problem.FILE_MISSING
    assert isinstance(good, Stored)
    assert good.instances == 5 + 1
    assert len(gateway.find("STUDY", {"StudyInstanceUID": ""})) == 1


def test_two_cases_of_one_patient_are_one_study(gateway: Gateway, nifti_folder: Path) -> None:
    rows = [write_nifti_case(nifti_folder, f"case_00{number}") for number in (3, 4)]
    write_manifest(nifti_folder, rows)

    list(import_cases(read_manifest(nifti_folder), gateway))

    (study,) = gateway.find("STUDY", {"StudyInstanceUID": ""})
    series = gateway.find(
        "SERIES", {"StudyInstanceUID": study.StudyInstanceUID, "SeriesNumber": ""}
    )
    assert sorted(int(row.SeriesNumber) for row in series) == [1, 2, 101, 102]


def test_importing_again_adds_nothing(gateway: Gateway) -> None:
    for _ in range(2):
        list(import_cases(phantom_cases("A", 1, 0), gateway))

    (study,) = gateway.find("STUDY", {"StudyInstanceUID": ""})
    series = gateway.find(
        "SERIES", {"StudyInstanceUID": study.StudyInstanceUID, "SeriesInstanceUID": ""}
    )
    assert len(series) == 2


def test_what_was_stored_before_the_archive_failed_is_known(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = import_cases(phantom_cases("A", 3, 0), gateway)
    first = next(outcomes)

    def refuse(*_: object) -> None:
        raise StorageError("C-STORE of 1.2.3 returned 0xA700 (out of resources)")

    monkeypatch.setattr(type(gateway), "store", refuse)

    assert isinstance(first, Stored)
    with pytest.raises(StorageError):
        next(outcomes)


def test_the_manifest_of_a_case_is_checked_only_when_its_turn_comes(nifti_folder: Path) -> None:
    with (nifti_folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["image"] = "not-there.nii.gz"
    write_manifest(nifti_folder, rows)

    assert len(read_manifest(nifti_folder)) == 2


def test_whatever_a_case_raises_it_is_quarantined_and_the_others_are_stored(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pydicom does, for what it cannot encode: an OSError that is not the system's."""
    bad, good = phantom_cases("A", 2, 0)
    series_of = importer.image_series

    def image_series(case: Case, *rest: Any) -> list[Dataset]:
        series = series_of(case, *rest)
        if case is bad:
            series[0].Columns = 70_000
        return series

    monkeypatch.setattr("federation.samples.importer.image_series", image_series)
    with pytest.warns(UserWarning, match="VR US must be between"):
        first, second = import_cases([bad, good], gateway)

    assert isinstance(first, Quarantined)
    assert first.problem is Problem.UNEXPECTED
    assert first.detail.startswith("making it DICOM raised ")
    assert bad.patient_id not in first.detail
    assert isinstance(second, Stored)
    assert len(gateway.find("STUDY", {"StudyInstanceUID": ""})) == 1


def test_a_full_disk_is_no_fault_of_a_case(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_bytes(path: Path, _: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)

    with pytest.raises(OSError, match="No space left"):
        list(import_cases(phantom_cases("A", 1, 0), gateway))
