"""Labels out of RT Structure Sets, by geometry that is computed here in another way."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage, generate_uid

from clients.data.labels import Wanted, read_header, read_labels
from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import LPS_TO_RAS, Volume, read_volume
from tests.clients.data.conftest import WrittenCase, edit
from tests.peers import shared_data

Points = list[tuple[float, float]]


def structure_set(
    volume: Volume, contours: dict[str, list[tuple[float, Points]]], path: Path, **of_contour: str
) -> Path:
    """A structure set of regions by name: each contour by its slice, and rows and columns."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    dataset.Modality = "RTSTRUCT"
    series = Dataset()
    series.SeriesInstanceUID = "1.2.3"
    study = Dataset()
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = volume.frame_of_reference
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    for number, (name, drawn) in enumerate(contours.items(), start=1):
        region, outlines, observed = Dataset(), Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        region.ReferencedFrameOfReferenceUID = volume.frame_of_reference
        outlines.ReferencedROINumber = observed.ReferencedROINumber = number
        outlines.ContourSequence = [_contour(volume, *one, **of_contour) for one in drawn]
        dataset.StructureSetROISequence.append(region)
        dataset.ROIContourSequence.append(outlines)
        dataset.RTROIObservationsSequence.append(observed)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


def _contour(volume: Volume, level: float, points: Points, kind: str = "CLOSED_PLANAR") -> Dataset:
    to_lps = LPS_TO_RAS @ volume.affine
    contour = Dataset()
    contour.ContourGeometricType = kind
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [
        f"{value:.6f}" for row, column in points for value in (to_lps @ [level, row, column, 1])[:3]
    ]
    return contour


def square(low: float, high: float) -> Points:
    return [(low, low), (low, high), (high, high), (high, low)]


@pytest.fixture
def volume(written: WrittenCase) -> Volume:
    return read_volume(written.series)


def drawn(volume: Volume, path: Path, names: dict[str, int]) -> NDArray[np.uint8]:
    return read_labels([path], volume, Wanted.of(names=names))


def test_a_contour_marks_the_voxels_whose_centre_is_inside(volume: Volume, tmp_path: Path) -> None:
    path = structure_set(volume, {"Liver": [(4, square(9.5, 14.5))]}, tmp_path / "rt.dcm")

    labels = drawn(volume, path, {"liver": 1})

    expected = np.zeros_like(labels)
    expected[4, 10:15, 10:15] = 1
    assert np.array_equal(labels, expected)


def test_a_contour_within_another_is_a_hole(volume: Volume, tmp_path: Path) -> None:
    keyhole = [(9.5, 9.5), (9.5, 18.5), (18.5, 18.5), (18.5, 9.5), (12.5, 9.5), (12.5, 12.5),
               (15.5, 12.5), (15.5, 15.5), (12.5, 15.5), (12.5, 12.5), (12.5, 9.5)]  # fmt: skip
    path = structure_set(
        volume,
        {
            "two": [(4, square(9.5, 18.5)), (4, square(12.5, 15.5))],
            "keyhole": [(6, keyhole)],
            "island": [(8, square(9.5, 18.5)), (8, square(11.5, 16.5)), (8, square(13.5, 14.5))],
        },
        tmp_path / "rt.dcm",
    )

    labels = drawn(volume, path, {"two": 1, "keyhole": 2, "island": 3})

    ring = np.zeros(labels.shape[1:], bool)
    ring[10:19, 10:19] = True
    ring[13:16, 13:16] = False
    assert np.array_equal(labels[4] == 1, ring)
    assert np.array_equal(labels[6] == 2, ring)
    island = np.zeros_like(ring)
    island[10:19, 10:19] = True
    island[12:17, 12:17] = False
    island[14:15, 14:15] = True
    assert np.array_equal(labels[8] == 3, island)


def test_apart_contours_of_one_slice_are_both_there(volume: Volume, tmp_path: Path) -> None:
    contours = {"a": [(4, square(1.5, 3.5)), (4, square(9.5, 10.5)), (5, square(1.5, 3.5))]}
    labels = drawn(volume, structure_set(volume, contours, tmp_path / "rt.dcm"), {"a": 1})
    assert [int(labels[level].sum()) for level in (3, 4, 5, 6)] == [0, 5, 4, 0]


def test_a_contour_that_is_there_twice_is_no_hole(volume: Volume, tmp_path: Path) -> None:
    contours = {"a": [(4, square(9.5, 14.5))] * 2 + [(5, square(9.5, 14.5))]}
    labels = drawn(volume, structure_set(volume, contours, tmp_path / "rt.dcm"), {"a": 1})
    assert [int(labels[level].sum()) for level in (4, 5)] == [25, 25]


@pytest.mark.parametrize("own_frame", [False, True])
def test_a_contour_lies_on_the_image_that_it_names(
    volume: Volume, tmp_path: Path, own_frame: bool
) -> None:
    path = structure_set(volume, {"a": [(4, square(9.5, 14.5))]}, tmp_path / "rt.dcm")
    if own_frame:
        edit(path, of_another_frame)
    edit(path, naming(volume.instances[12]))
    with pytest.raises(Unusable, match="another image") as refused:
        drawn(volume, path, {"a": 1})
    assert refused.value.reason is Reason.LABELS_OFF_GRID

    edit(path, naming(volume.instances[4]))
    assert drawn(volume, path, {"a": 1})[4].sum() == 25


def test_of_an_enhanced_image_no_slice_is_named(volume: Volume, tmp_path: Path) -> None:
    enhanced = replace(volume, instances=("1.2.3",) * len(volume.instances))
    path = structure_set(volume, {"a": [(4, square(9.5, 14.5))]}, tmp_path / "rt.dcm")
    edit(path, naming("1.2.3"))
    assert drawn(enhanced, path, {"a": 1})[4].sum() == 25


def of_another_frame(dataset: Dataset) -> None:
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3.4"


def naming(instance: str) -> Callable[[Dataset], None]:
    """The first contour names this image."""

    def change(dataset: Dataset) -> None:
        image = Dataset()
        image.ReferencedSOPInstanceUID = instance
        dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence = [image]

    return change


@pytest.mark.parametrize("far", [8e3, -8e3, 1e6])
def test_no_memory_is_taken_for_what_leaves_the_image(
    volume: Volume, tmp_path: Path, far: float
) -> None:
    """Three points, and between them more voxels than there is memory for."""
    contours: dict[str, list[tuple[float, Points]]] = {
        "a": [(4, [(9.5, 9.5), (9.5, far), (far, 9.5)])]
    }
    path = structure_set(volume, contours, tmp_path / "rt.dcm")
    with pytest.raises(Unusable, match="leave the image") as refused:
        drawn(volume, path, {"a": 1})
    assert refused.value.reason is Reason.LABELS_OFF_GRID


def test_a_contour_may_reach_the_image_s_edge(volume: Volume, tmp_path: Path) -> None:
    path = structure_set(volume, {"a": [(0, square(-0.9, 3.5))]}, tmp_path / "rt.dcm")
    assert drawn(volume, path, {"a": 1})[0].sum() == 16


def test_a_message_repeats_nothing_of_the_file(volume: Volume, tmp_path: Path) -> None:
    path = structure_set(volume, {"a": [(4, square(1, 3))]}, tmp_path / "rt.dcm", kind="DOE JOHN")
    with pytest.raises(Unusable, match="none of CLOSEDPLANAR_XOR, CLOSED_PLANAR") as refused:
        drawn(volume, path, {"a": 1})
    assert "DOE" not in str(refused.value)


@pytest.mark.parametrize(
    ("contours", "kind", "reason"),
    [
        ([(4.5, square(1, 3))], "CLOSED_PLANAR", Reason.LABELS_OFF_GRID),
        ([(400, square(1.5, 3.5))], "CLOSED_PLANAR", Reason.LABELS_OFF_GRID),
        ([(4, square(-9.5, 3.5))], "CLOSED_PLANAR", Reason.LABELS_OFF_GRID),
        ([(4, square(1, 3))], "OPEN_PLANAR", Reason.LABELS_UNSUPPORTED),
        ([(4, square(1, 3)[:1])], "POINT", Reason.LABELS_UNSUPPORTED),
    ],
)
def test_contours_that_do_not_lie_on_the_images_say_why(
    volume: Volume,
    tmp_path: Path,
    contours: list[tuple[float, Points]],
    kind: str,
    reason: Reason,
) -> None:
    path = structure_set(volume, {"a": contours}, tmp_path / "rt.dcm", kind=kind)
    with pytest.raises(Unusable) as refused:
        drawn(volume, path, {"a": 1})
    assert refused.value.reason is reason


def test_regions_that_overlap_are_refused(volume: Volume, tmp_path: Path) -> None:
    contours = {"a": [(4, square(1.5, 9.5))], "b": [(4, square(5.5, 12.5))]}
    path = structure_set(volume, contours, tmp_path / "rt.dcm")
    with pytest.raises(Unusable) as refused:
        drawn(volume, path, {"a": 1, "b": 2})
    assert refused.value.reason is Reason.SEGMENTS_OVERLAP
    assert drawn(volume, path, {"b": 1}).sum() == 49


def test_another_makers_contours_have_the_area_they_enclose() -> None:
    """rt-utils' phantom, which says a frame of reference of its own: a ring in one slice, drawn as
    two contours, whose areas the shoelace formula tells."""
    home = shared_data("interop/04-ct-phantom-rtstruct")
    volume = read_volume(sorted(home.glob("ct_*.dcm")))
    header = read_header(home / "rt.dcm")
    dataset = pydicom.dcmread(home / "rt.dcm")
    (region,) = dataset.StructureSetROISequence
    assert header.series == (str(pydicom.dcmread(home / "ct_1.dcm").SeriesInstanceUID),)

    labels = drawn(volume, home / "rt.dcm", {str(region.ROIName): 1})

    contours = [
        np.array(contour.ContourData, float).reshape(-1, 3)
        for contour in dataset.ROIContourSequence[0].ContourSequence
    ]
    inner, outer = sorted(_area(points) for points in contours)
    (height,) = {float(points[0, 2]) for points in contours}
    level = round(float((np.linalg.inv(LPS_TO_RAS @ volume.affine) @ [0, 0, height, 1])[0]))
    _, between_rows, between_columns = volume.spacing_mm
    drawn_mm2 = labels[level].sum() * between_rows * between_columns
    assert drawn_mm2 == pytest.approx(outer - inner, rel=0.03)  # they run through voxels' centres
    assert labels[1 - level].sum() == 0


def test_contours_in_a_frame_of_reference_of_nobody_are_refused(
    volume: Volume, tmp_path: Path
) -> None:
    """Only the images that they name would say that they lie there all the same."""
    path = structure_set(volume, {"a": [(4, square(1.5, 3.5))]}, tmp_path / "rt.dcm")
    edit(path, of_another_frame)
    with pytest.raises(Unusable) as refused:
        drawn(volume, path, {"a": 1})
    assert refused.value.reason is Reason.LABELS_OFF_GRID

    edit(path, naming(volume.instances[4]))
    assert drawn(volume, path, {"a": 1})[4, 2:4, 2:4].all()


def _area(points: NDArray[np.float64]) -> float:
    x, y = points[:, 0], points[:, 1]
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2
