import dataclasses
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from federation.samples import phantom_cases, read_manifest
from federation.samples.case import Case, LabelledImage, Plane, Problem, UnusableCase
from federation.samples.dicom import decimal, slices
from federation.samples.importer import write_case
from tests.peers import peer

PLANES = ("axial", "coronal", "sagittal")


@pytest.mark.parametrize("plane", PLANES)
def test_slices_ascend_along_the_normal_and_hold_every_voxel(plane: Plane) -> None:
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = [10, -20, 30]

    grid = slices(array, affine, plane)

    step, column, row = (grid.affine[:3, axis] for axis in range(3))
    assert np.cross(row, column) @ step > 0
    for index in np.ndindex(grid.pixels.shape):
        lps = grid.affine @ [*index, 1]
        x, y, z = (np.linalg.inv(affine) @ (lps * [-1, -1, 1, 1]))[:3].round().astype(int)
        assert grid.pixels[index] == array[x, y, z]


@pytest.mark.parametrize("plane", PLANES)
def test_rows_and_columns_run_as_radiologists_expect(plane: Plane) -> None:
    grid = slices(np.zeros((2, 3, 4)), np.eye(4), plane)

    row, column = grid.directions[:, 2].tolist(), grid.directions[:, 1].tolist()
    left, back, feet = [1, 0, 0], [0, 1, 0], [0, 0, -1]
    assert (row, column) == {
        "axial": (left, back),
        "coronal": (left, feet),
        "sagittal": (back, feet),
    }[plane]


def test_a_sheared_grid_is_refused() -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.2

    with pytest.raises(UnusableCase) as refused:
        slices(np.zeros((2, 2, 2)), affine, "axial")
    assert refused.value.problem is Problem.GRID_UNUSABLE


@pytest.mark.parametrize("value", [0.0, -0.0, 1 / 3, -123.456789012345, 1e-17, 0.81054687500001])
def test_a_decimal_string_fits_and_is_near(value: float) -> None:
    text = decimal(value)

    assert len(text) <= 16
    assert float(text) == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("plane", PLANES)
def test_real_voxels_survive_exactly(hippocampus: Path, tmp_path: Path, plane: Plane) -> None:
    for case in read_manifest(hippocampus)[::40]:
        _check_round_trip(dataclasses.replace(case, plane=plane), tmp_path)


@pytest.mark.parametrize("site", list("ABCD"))
def test_phantom_voxels_survive_exactly(tmp_path: Path, site: str) -> None:
    _check_round_trip(phantom_cases(site, 1, 0)[0], tmp_path)


def test_an_oblique_series_keeps_its_geometry(tmp_path: Path) -> None:
    angle = 0.3
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    case = _Fixed.like(phantom_cases("A", 1, 0)[0], turned)
    expected = slices(case.read().voxels, turned, case.plane)

    *images, _ = (pydicom.dcmread(path) for path in write_case(case, tmp_path))

    for number, image in enumerate(images):
        assert np.allclose(image.ImagePositionPatient, expected.position(number), atol=1e-8)
        directions = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
        assert np.allclose(directions, expected.directions[:, [2, 1]].T, atol=1e-9)


def test_the_same_case_gives_the_same_bytes(tmp_path: Path) -> None:
    case = phantom_cases("B", 1, 0)[0]

    one, again = (_written(case, tmp_path / name) for name in ("one", "again"))

    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in again]


def test_other_content_never_shares_a_uid(tmp_path: Path) -> None:
    cases = [
        *phantom_cases("A", 2, 0, seed=1),
        *phantom_cases("A", 1, 0, seed=2),
        dataclasses.replace(phantom_cases("A", 1, 0, seed=1)[0], plane="sagittal"),
    ]

    uids = [
        pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID
        for number, case in enumerate(cases)
        for path in _written(case, tmp_path / str(number))
    ]

    assert len(set(uids)) == len(uids)
    assert all(len(uid) <= 64 for uid in uids)


def test_segments_are_coded_and_refer_to_their_images(hippocampus: Path, tmp_path: Path) -> None:
    *images, seg = (
        pydicom.dcmread(path) for path in write_case(read_manifest(hippocampus)[0], tmp_path)
    )

    meanings = []
    for segment in seg.SegmentSequence:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        (modifier,) = kind.SegmentedPropertyTypeModifierCodeSequence
        meanings.append((segment.SegmentLabel, kind.CodeValue, modifier.CodeValue))
    assert meanings == [
        ("Anterior hippocampus", "5366008", "255549009"),
        ("Posterior hippocampus", "5366008", "255551008"),
    ]
    (reference,) = seg.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == images[0].SeriesInstanceUID
    assert images[0].BodyPartExamined == "HIPPOCAMPUS"
    assert images[0].AnatomicRegionSequence[0].CodeValue == "5366008"
    assert seg.StudyInstanceUID == images[0].StudyInstanceUID


@pytest.mark.parametrize("source", ["phantom", "decathlon"])
def test_a_validator_finds_no_error(
    source: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    validator = peer("dciodvfy")
    if source == "phantom":
        case = phantom_cases("B", 1, 0)[0]
    else:
        case = read_manifest(request.getfixturevalue("hippocampus"))[30]
    first, *_, seg = write_case(case, tmp_path)

    for path in (first, seg):
        result = subprocess.run([validator, "-new", path], capture_output=True, text=True)
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
        assert errors == []


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Fixed(Case):
    image: LabelledImage

    @classmethod
    def like(cls, case: Case, affine: np.ndarray) -> "_Fixed":
        values = {field.name: getattr(case, field.name) for field in dataclasses.fields(Case)}
        return cls(**values, image=dataclasses.replace(case.read(), affine=affine))

    def read(self) -> LabelledImage:
        return self.image


def _written(case: Case, folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return write_case(case, folder)


def _check_round_trip(case: Case, folder: Path) -> None:
    """Pixels through pydicom, labels through highdicom: neither is the reader under test."""
    image = case.read()
    expected = slices(image.voxels, image.affine, case.plane)
    labels = slices(image.labels, image.affine, case.plane).pixels

    *images, seg_path = write_case(case, folder)

    for number, path in enumerate(images):
        dataset = pydicom.dcmread(path)
        slope = np.float32(dataset.get("RescaleSlope", 1))
        voxels = dataset.pixel_array.astype(np.float32) * slope
        assert np.array_equal(voxels, expected.pixels[number].astype(np.float32))
        assert np.allclose(
            np.array(dataset.ImagePositionPatient, float), expected.position(number), atol=1e-9
        )
    seg = highdicom.seg.segread(seg_path)
    sources = [pydicom.dcmread(path).SOPInstanceUID for path in images]
    read = seg.get_pixels_by_source_instance(
        sources, combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(read, labels)
