from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from clients.data.census import Census, find_labelled_series
from clients.data.quarantine import Reason
from federation.config import DataTable
from federation.pacs import Gateway
from federation.samples.phantom import phantom_cases
from tests.clients.data.conftest import WrittenCase, edit, table, write


@pytest.fixture
def data(tmp_path: Path) -> DataTable:
    return table(tmp_path / "split.key", Modality="MR", BodyPartExamined="BRAIN")


def reasons(census: Census) -> list[Reason]:
    return [entry.reason for entry in census.quarantined]


def set_all(paths: list[Path], **attributes: object) -> None:
    for path in paths:
        edit(path, lambda ds: [setattr(ds, key, value) for key, value in attributes.items()])


def test_a_labelled_series_is_found_with_its_seg(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    gateway.store([*written.series, written.seg])

    census = find_labelled_series(gateway, data)

    (found,) = census.labelled
    image, seg = pydicom.dcmread(written.series[0]), pydicom.dcmread(written.seg)
    assert found.study == image.StudyInstanceUID
    assert found.image_series == image.SeriesInstanceUID
    assert found.image_instances == len(written.series)
    assert (found.seg_series, found.seg_instance) == (seg.SeriesInstanceUID, seg.SOPInstanceUID)
    assert found.patient_id == written.case.patient_id
    assert written.case.patient_id not in repr(census)
    assert census.quarantined == ()


def test_an_empty_archive_has_nothing(gateway: Gateway, data: DataTable) -> None:
    assert find_labelled_series(gateway, data) == Census(labelled=(), quarantined=())


@pytest.mark.parametrize(
    "query",
    [
        {"Modality": "CT"},
        {"Modality": "MR", "BodyPartExamined": "LIVER"},
        {"PatientID": "SOMEONE-ELSE"},
        {"Modality": "MR", "StudyDate": "19990101"},
    ],
)
def test_what_the_query_leaves_out_is_no_business_of_ours(
    gateway: Gateway, tmp_path: Path, written: WrittenCase, query: dict[str, str]
) -> None:
    gateway.store([*written.series, written.seg])

    census = find_labelled_series(gateway, table(tmp_path / "split.key", **query))

    assert census == Census(labelled=(), quarantined=())


def test_a_query_without_modality_takes_no_seg_for_an_image(
    gateway: Gateway, tmp_path: Path, written: WrittenCase
) -> None:
    gateway.store([*written.series, written.seg])

    census = find_labelled_series(gateway, table(tmp_path / "split.key"))

    assert len(census.labelled) == 1
    assert census.quarantined == ()


def test_an_image_without_seg_is_quarantined(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    gateway.store(written.series)

    assert reasons(find_labelled_series(gateway, data)) == [Reason.NO_SEGMENTATION]


def test_a_seg_without_images_is_quarantined(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    gateway.store([written.seg])

    assert reasons(find_labelled_series(gateway, data)) == [Reason.IMAGES_ABSENT]


def test_a_seg_of_other_structures_without_images_is_no_business_of_ours(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    edit(written.seg, lambda ds: [setattr(s, "SegmentLabel", "x") for s in ds.SegmentSequence])
    gateway.store([written.seg])

    assert reasons(find_labelled_series(gateway, data)) == []


def test_a_seg_with_other_names_is_quarantined(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    edit(written.seg, lambda ds: setattr(ds.SegmentSequence[1], "SegmentLabel", "something"))
    gateway.store([*written.series, written.seg])

    census = find_labelled_series(gateway, data)

    assert reasons(census) == [Reason.SEGMENT_MISSING]
    assert "outer structure" in census.quarantined[0].detail


def test_a_fractional_seg_is_quarantined(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    edit(written.seg, lambda ds: setattr(ds, "SegmentationType", "FRACTIONAL"))
    gateway.store([*written.series, written.seg])

    assert reasons(find_labelled_series(gateway, data)) == [Reason.SEGMENTATION_UNDECODABLE]


def test_a_study_without_patient_id_is_quarantined(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    set_all([*written.series, written.seg], PatientID="")
    gateway.store([*written.series, written.seg])

    assert reasons(find_labelled_series(gateway, data)) == [Reason.NO_PATIENT_ID]


def another_seg(written: WrittenCase, change: Callable[[Dataset], object] | None = None) -> Path:
    path = written.seg.with_name("another.dcm")
    path.write_bytes(written.seg.read_bytes())

    def rename(dataset: Dataset) -> None:
        dataset.SOPInstanceUID += ".1"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.SeriesInstanceUID += ".1"
        if change is not None:
            change(dataset)

    edit(path, rename)
    return path


def test_two_segs_of_the_same_structures_are_ambiguous(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    gateway.store([*written.series, written.seg, another_seg(written)])

    assert reasons(find_labelled_series(gateway, data)) == [Reason.SEVERAL_SEGMENTATIONS]


def test_a_seg_of_other_structures_beside_ours_does_not_disturb(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    def rename_segments(dataset: Dataset) -> None:
        for segment in dataset.SegmentSequence:
            segment.SegmentLabel = "something else"

    gateway.store([*written.series, written.seg, another_seg(written, rename_segments)])

    census = find_labelled_series(gateway, data)

    assert [found.seg_instance for found in census.labelled] == [
        pydicom.dcmread(written.seg).SOPInstanceUID
    ]
    assert census.quarantined == ()


def test_remembered_headers_spare_the_fetch(
    gateway: Gateway, data: DataTable, written: WrittenCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.store([*written.series, written.seg])
    known: dict[str, object] = {}
    first = find_labelled_series(gateway, data, known=known)  # type: ignore[arg-type]

    monkeypatch.setattr(type(gateway), "fetch", None)

    assert find_labelled_series(gateway, data, known=known) == first  # type: ignore[arg-type]


def test_many_studies_come_in_an_order_of_their_own(
    gateway: Gateway, data: DataTable, tmp_path: Path
) -> None:
    cases = [write(case, tmp_path / case.name) for case in phantom_cases("A", 3, 0)]
    for case in reversed(cases):
        gateway.store([*case.series, case.seg])

    found = find_labelled_series(gateway, data).labelled

    assert len(found) == 3
    assert [series.image_series for series in found] == sorted(s.image_series for s in found)
