import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag

from clients.data.census import Census, find_labelled_series
from clients.data.labels import Wanted
from clients.data.quarantine import Reason
from federation.config import DataLimits, DataTable
from federation.errors import PacsError
from federation.pacs import Gateway
from federation.pacs.attributes import UIDS
from federation.pacs.gateway import Level
from federation.samples.phantom import phantom_cases
from tests.clients.data.conftest import SEGMENTS, WANTED, WrittenCase, edit, table, write


@pytest.fixture
def data(tmp_path: Path) -> DataTable:
    return table(tmp_path / "split.key", Modality="MR", BodyPartExamined="BRAIN")


def reasons(census: Census) -> list[Reason]:
    return [entry.reason for entry in census.quarantined]


def instances(census: Census) -> list[list[str]]:
    return [[label.instance for label in found.labels] for found in census.labelled]


def dcmread_uid(path: Path) -> str:
    return str(pydicom.dcmread(path).SOPInstanceUID)


def set_all(paths: list[Path], **attributes: object) -> None:
    for path in paths:
        edit(path, lambda ds: [setattr(ds, key, value) for key, value in attributes.items()])


def test_a_labelled_series_is_found_with_its_seg(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    gateway.store([*written.series, written.seg])

    census = find_labelled_series(gateway, data, WANTED)

    (found,) = census.labelled
    image, seg = pydicom.dcmread(written.series[0]), pydicom.dcmread(written.seg)
    assert found.study == image.StudyInstanceUID
    assert found.image_series == image.SeriesInstanceUID
    assert found.image_instances == len(written.series)
    assert found.source == "SEG"
    (label,) = found.labels
    assert (label.series, label.instance) == (seg.SeriesInstanceUID, seg.SOPInstanceUID)
    assert found.patient_ids == (written.case.patient_id,)
    assert written.case.patient_id not in repr(census)
    assert census.quarantined == ()


def test_an_empty_archive_has_nothing(gateway: Gateway, data: DataTable) -> None:
    assert find_labelled_series(gateway, data, WANTED) == Census(labelled=(), quarantined=())


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

    census = find_labelled_series(gateway, table(tmp_path / "split.key", **query), WANTED)

    assert census == Census(labelled=(), quarantined=())


def test_a_query_without_modality_takes_no_seg_for_an_image(
    gateway: Gateway, tmp_path: Path, written: WrittenCase
) -> None:
    gateway.store([*written.series, written.seg])

    census = find_labelled_series(gateway, table(tmp_path / "split.key"), WANTED)

    assert len(census.labelled) == 1
    assert census.quarantined == ()


def test_an_image_without_seg_is_quarantined(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    gateway.store(written.series)

    assert reasons(find_labelled_series(gateway, data, WANTED)) == [Reason.NO_LABELS]


def test_a_seg_without_images_is_quarantined(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    gateway.store([written.seg])

    assert reasons(find_labelled_series(gateway, data, WANTED)) == [Reason.IMAGES_ABSENT]


def test_a_seg_of_other_structures_without_images_is_no_business_of_ours(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    edit(written.seg, lambda ds: [setattr(s, "SegmentLabel", "x") for s in ds.SegmentSequence])
    gateway.store([written.seg])

    assert reasons(find_labelled_series(gateway, data, WANTED)) == []


def test_a_seg_with_other_names_is_quarantined(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    edit(written.seg, lambda ds: setattr(ds.SegmentSequence[1], "SegmentLabel", "something"))
    gateway.store([*written.series, written.seg])

    census = find_labelled_series(gateway, data, WANTED)

    assert reasons(census) == [Reason.SEGMENT_MISSING]
    assert "outer structure" in census.quarantined[0].detail


def test_where_nobody_says_what_is_wanted_any_seg_of_somebody_will_do(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    """As a new site's document has neither a map nor a network yet."""
    gateway.store([*written.series, written.seg])
    anything = Wanted.of()
    assert instances(find_labelled_series(gateway, data, anything)) == [[dcmread_uid(written.seg)]]
    gateway.store([another_seg(written, proposed)])
    assert len(instances(find_labelled_series(gateway, data, anything))) == 1
    gateway.store([another_seg(written, suffix=".2")])
    assert reasons(find_labelled_series(gateway, data, anything)) == [Reason.SEVERAL_LABELS]


def test_a_seg_that_cannot_be_read_is_quarantined(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    edit(written.seg, lambda ds: setattr(ds, "SegmentationType", "CURVED"))
    gateway.store([*written.series, written.seg])

    assert reasons(find_labelled_series(gateway, data, WANTED)) == [Reason.LABELS_UNDECODABLE]


def test_a_study_without_patient_id_is_quarantined(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    set_all([*written.series, written.seg], PatientID="")
    gateway.store([*written.series, written.seg])

    assert reasons(find_labelled_series(gateway, data, WANTED)) == [Reason.NO_PATIENT_ID]


def another_seg(
    written: WrittenCase, change: Callable[[Dataset], object] | None = None, suffix: str = ".1"
) -> Path:
    path = written.seg.with_name(f"another{suffix}.dcm")
    path.write_bytes(written.seg.read_bytes())

    def rename(dataset: Dataset) -> None:
        dataset.SOPInstanceUID += suffix
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.SeriesInstanceUID += suffix
        if change is not None:
            change(dataset)

    edit(path, rename)
    return path


def test_two_segs_of_the_same_structures_are_ambiguous(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    gateway.store([*written.series, written.seg, another_seg(written)])

    assert reasons(find_labelled_series(gateway, data, WANTED)) == [Reason.SEVERAL_LABELS]


def test_a_seg_of_other_structures_beside_ours_does_not_disturb(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    def rename_segments(dataset: Dataset) -> None:
        for segment in dataset.SegmentSequence:
            segment.SegmentLabel = "something else"

    gateway.store([*written.series, written.seg, another_seg(written, rename_segments)])

    census = find_labelled_series(gateway, data, WANTED)

    assert instances(census) == [[pydicom.dcmread(written.seg).SOPInstanceUID]]
    assert census.quarantined == ()


def only(*labels: str) -> Callable[[Dataset], None]:
    """Calls all other segments something else."""

    def change(dataset: Dataset) -> None:
        for segment in dataset.SegmentSequence:
            if segment.SegmentLabel not in labels:
                segment.SegmentLabel = "something else"

    return change


def test_segs_of_one_structure_each_label_together(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    inner, outer = SEGMENTS
    other = another_seg(written, only(outer))
    edit(written.seg, only(inner))
    gateway.store([*written.series, written.seg, other])

    census = find_labelled_series(gateway, data, WANTED)

    assert instances(census) == [sorted(dcmread_uid(path) for path in (written.seg, other))]


def test_segs_that_share_a_structure_are_ambiguous(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    inner, outer = SEGMENTS
    third = another_seg(written, only(inner))
    fourth = another_seg(written, only(outer), suffix=".2")
    edit(written.seg, only(inner))
    gateway.store([*written.series, written.seg, third, fourth])

    assert reasons(find_labelled_series(gateway, data, WANTED)) == [Reason.SEVERAL_LABELS]


def test_a_seg_that_draws_one_structure_again_is_ambiguous(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    inner, _ = SEGMENTS
    gateway.store([*written.series, written.seg, another_seg(written, only(inner))])

    assert reasons(find_labelled_series(gateway, data, WANTED)) == [Reason.SEVERAL_LABELS]


def proposed(dataset: Dataset) -> None:
    """As a version of ours writes it."""
    for segment in dataset.SegmentSequence:
        segment.SegmentAlgorithmType = "AUTOMATIC"
        segment.SegmentAlgorithmName = "IODEEP.MR.12738006.0.unet"


def test_what_a_network_of_ours_proposed_is_no_label_until_it_is_accepted(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    edit(written.seg, proposed)
    gateway.store([*written.series, written.seg])
    assert reasons(find_labelled_series(gateway, data, WANTED)) == [Reason.PREDICTION]

    def accept(dataset: Dataset) -> None:
        proposed(dataset)
        for segment in dataset.SegmentSequence:
            segment.SegmentAlgorithmType = "SEMIAUTOMATIC"

    accepted = another_seg(written, accept)
    gateway.store([accepted])
    assert instances(find_labelled_series(gateway, data, WANTED)) == [[dcmread_uid(accepted)]]


@pytest.mark.parametrize(
    ("kind", "is_label"),
    [(None, False), ("", False), ("Automatic", False), ("MODEL", False), ("manual", True)],
)
def test_only_who_says_so_has_looked_at_a_prediction(
    gateway: Gateway, data: DataTable, written: WrittenCase, kind: str | None, *, is_label: bool
) -> None:
    def said(dataset: Dataset) -> None:
        proposed(dataset)
        for segment in dataset.SegmentSequence:
            del segment.SegmentAlgorithmType
            if kind is not None:
                element = DataElement(Tag("SegmentAlgorithmType"), "CS", kind, validation_mode=0)
                segment.add(element)

    edit(written.seg, said)
    gateway.store([*written.series, written.seg])

    expected = [] if is_label else [Reason.PREDICTION]
    assert reasons(find_labelled_series(gateway, data, WANTED)) == expected


def test_a_prediction_beside_a_label_does_not_disturb(
    gateway: Gateway, data: DataTable, written: WrittenCase
) -> None:
    gateway.store([*written.series, written.seg, another_seg(written, proposed)])

    assert instances(find_labelled_series(gateway, data, WANTED)) == [[dcmread_uid(written.seg)]]


@pytest.mark.parametrize(
    ("exclude", "is_left"),
    [
        ({"SeriesDescription": "phantom*"}, False),
        ({"SeriesDescription": "other*"}, True),
        ({"PatientID": "*"}, False),
        ({"PatientID": "*", "SeriesDescription": "other*"}, True),
        ({"ProtocolName": "*"}, True),  # which is not there
    ],
)
def test_what_is_excluded_is_no_business_of_ours(
    gateway: Gateway,
    data: DataTable,
    written: WrittenCase,
    exclude: dict[str, str],
    *,
    is_left: bool,
) -> None:
    set_all(written.series, SeriesDescription="phantom 1")
    gateway.store([*written.series, written.seg])

    census = find_labelled_series(gateway, data.model_copy(update={"exclude": (exclude,)}), WANTED)

    assert (len(census.labelled), census.quarantined) == (int(is_left), ())


@pytest.mark.parametrize(("wanted", "is_left"), [("1", True), ("5", False)])
def test_what_the_archive_does_not_answer_an_image_does(
    gateway: Gateway, data: DataTable, written: WrittenCase, *, wanted: str, is_left: bool
) -> None:
    """Our archive has no SliceThickness in its index, and says nothing of it."""
    set_all(written.series, SliceThickness="1")
    gateway.store([*written.series, written.seg])
    query = {**data.query, "SliceThickness": wanted}

    census = find_labelled_series(gateway, data.model_copy(update={"query": query}), WANTED)

    assert (len(census.labelled), census.quarantined) == (int(is_left), ())
    excluded = data.model_copy(update={"exclude": ({"SliceThickness": wanted},)})
    assert len(find_labelled_series(gateway, excluded, WANTED).labelled) == int(not is_left)


@pytest.mark.parametrize("query", [{"ProtocolName": "T1*"}, {"MagneticFieldStrength": "3"}])
def test_a_key_that_not_even_the_image_answers_is_no_match(
    gateway: Gateway, data: DataTable, written: WrittenCase, query: dict[str, str]
) -> None:
    gateway.store([*written.series, written.seg])
    assert all(key not in pydicom.dcmread(written.series[0]) for key in query)

    asked = data.model_copy(update={"query": {**data.query, **query}})

    assert find_labelled_series(gateway, asked, WANTED) == Census(labelled=(), quarantined=())


def test_a_study_s_key_that_the_archive_does_not_answer_is_asked_of_an_image(
    gateway: Gateway, data: DataTable, written: WrittenCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(written.series, AccessionNumber="A1")
    gateway.store([*written.series, written.seg])
    find = type(gateway).find

    def silent(self: Gateway, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        left = ("AccessionNumber", "ModalitiesInStudy")
        return find(self, level, {key: keys[key] for key in keys if key not in left})

    monkeypatch.setattr(type(gateway), "find", silent)
    for keys, is_met in (
        ({"AccessionNumber": "A1"}, True),
        ({"AccessionNumber": "A2"}, False),
        ({"ModalitiesInStudy": "SEG"}, True),
        ({"ModalitiesInStudy": "CT"}, False),
    ):
        asked = data.model_copy(update={"query": {**data.query, **keys}})
        assert len(find_labelled_series(gateway, asked, WANTED).labelled) == int(is_met)


def test_a_series_whose_image_does_not_come_is_not_taken(
    gateway: Gateway, data: DataTable, written: WrittenCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.store([*written.series, written.seg])
    excluding = data.model_copy(update={"exclude": ({"SliceThickness": "1"},)})

    def refused(*_: object, **__: object) -> list[Path]:
        raise PacsError("no")

    monkeypatch.setattr(type(gateway), "fetch", refused)

    census = find_labelled_series(gateway, excluding, WANTED)

    assert (census.labelled, reasons(census)) == ((), [Reason.NOT_RETRIEVED])


@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE"])
def test_what_has_no_uid_is_left_out_and_the_rest_goes_on(
    gateway: Gateway,
    data: DataTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    level: Level,
) -> None:
    """As Orthanc takes and answers it."""
    cases = [write(case, tmp_path / case.name) for case in phantom_cases("A", 2, 0)]
    for case in cases:
        gateway.store([*case.series, case.seg])
    first = pydicom.dcmread(cases[0].series[0]).StudyInstanceUID
    find = type(gateway).find

    def odd(self: Gateway, at: Level, keys: Mapping[str, str]) -> list[Dataset]:
        rows = find(self, at, keys)
        for row in rows:
            if at == level and first in (row.get("StudyInstanceUID"), keys["StudyInstanceUID"]):
                tag = Tag(UIDS[level])
                value = b"1.2.MUELLER^" + str(row.get("Modality")).encode()
                row[tag] = RawDataElement(tag, "UI", len(value), value, 0, False, True)
        return rows

    monkeypatch.setattr(type(gateway), "find", odd)

    census = find_labelled_series(gateway, data, WANTED)

    others = [one for one in census.labelled if one.study != first]
    assert len(others) == 1
    assert set(reasons(census)) == {Reason.NOT_RETRIEVED}
    assert "MUELLER" not in repr(census)


def test_the_images_uids_are_known(gateway: Gateway, data: DataTable, written: WrittenCase) -> None:
    gateway.store([*written.series, written.seg])
    uids = sorted(dcmread_uid(path) for path in written.series)

    (found,) = find_labelled_series(gateway, data, WANTED).labelled

    assert found.image_digest == hashlib.sha256("\n".join(uids).encode()).hexdigest()


@pytest.mark.parametrize("limits", [{"least_instances": 40}, {"most_instances": 20}])
def test_series_beyond_the_limits_are_left_out(
    gateway: Gateway, data: DataTable, written: WrittenCase, limits: dict[str, int]
) -> None:
    gateway.store([*written.series, written.seg])
    limited = data.model_copy(update={"limits": DataLimits(**limits)})

    assert reasons(find_labelled_series(gateway, limited, WANTED)) == [Reason.INSTANCES_LIMIT]


def test_nothing_is_asked_about_who_opted_out(
    gateway: Gateway, data: DataTable, written: WrittenCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.store([*written.series, written.seg])
    monkeypatch.setattr(type(gateway), "fetch", None)

    census = find_labelled_series(
        gateway, data, WANTED, opted_out=lambda patient: patient == written.case.patient_id
    )

    assert reasons(census) == [Reason.OPTED_OUT]


def test_remembered_headers_spare_the_fetch(
    gateway: Gateway, data: DataTable, written: WrittenCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.store([*written.series, written.seg])
    known: dict[str, object] = {}
    first = find_labelled_series(gateway, data, WANTED, known=known)  # type: ignore[arg-type]

    monkeypatch.setattr(type(gateway), "fetch", None)

    assert find_labelled_series(gateway, data, WANTED, known=known) == first  # type: ignore[arg-type]


def test_many_studies_come_in_an_order_of_their_own(
    gateway: Gateway, data: DataTable, tmp_path: Path
) -> None:
    cases = [write(case, tmp_path / case.name) for case in phantom_cases("A", 3, 0)]
    for case in reversed(cases):
        gateway.store([*case.series, case.seg])

    found = find_labelled_series(gateway, data, WANTED).labelled

    assert len(found) == 3
    assert [series.image_series for series in found] == sorted(s.image_series for s in found)
