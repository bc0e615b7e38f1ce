"""Where a NIfTI file says that its voxels are: units, sform and qform, extents."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from federation.samples import read_manifest
from federation.samples.case import Problem, UnusableCase
from federation.samples.nifti import read_nifti
from tests.federation.samples.conftest import affine_of, rotation

AFFINE = affine_of((0.75, 0.8, 2.5))
UNITS = {"unknown": 1, "meter": 1000, "mm": 1, "micron": 0.001}


def write(
    folder: Path,
    sform: np.ndarray | None = AFFINE,
    qform: np.ndarray | None = None,
    *,
    unit: str | int = "mm",
    shape: tuple[int, ...] = (8, 7, 6),
) -> Path:
    """An image whose header holds these; None for a code of 0."""
    kind = nibabel.Nifti1Image if max(shape) < 2**15 else nibabel.Nifti2Image
    image = kind(np.arange(np.prod(shape)).reshape(shape).astype(np.int16), None)
    image.header.set_sform(sform, 0 if sform is None else 1)
    image.header.set_qform(qform, 0 if qform is None else 1)
    if isinstance(unit, str):
        image.header.set_xyzt_units(unit, "sec")
    else:
        image.header["xyzt_units"] = unit
    path = folder / "image.nii"
    path.write_bytes(image.to_bytes())
    return path


def problem_of(path: Path) -> tuple[Problem, str]:
    with pytest.raises(UnusableCase) as refused:
        read_nifti(path, "image")
    return refused.value.problem, str(refused.value)


def in_place(shear: list[float]) -> np.ndarray:
    """The affine with another third column."""
    affine = AFFINE.copy()
    affine[:3, 2] = affine[:3, :2] @ shear
    return affine


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_of_space_becomes_millimetres(tmp_path: Path, unit: str) -> None:
    as_written = np.diag([*(3 * [1 / UNITS[unit]]), 1]) @ AFFINE

    _, affine = read_nifti(write(tmp_path, as_written, as_written, unit=unit), "image")

    assert np.allclose(affine, AFFINE, atol=1e-3)
    assert np.allclose(np.linalg.norm(affine[:3, :3], axis=0), (0.75, 0.8, 2.5), rtol=1e-6)


def test_a_unit_that_nifti_does_not_know_is_quarantined(tmp_path: Path) -> None:
    problem, said = problem_of(write(tmp_path, unit=5))

    assert problem is Problem.GRID_UNUSABLE
    assert "unit of space is 5; expected 1 (m), 2 (mm)" in said


def test_without_a_sform_the_qform_places_the_voxels(tmp_path: Path) -> None:
    _, affine = read_nifti(write(tmp_path, None, AFFINE), "image")

    assert np.allclose(affine, AFFINE, atol=1e-4)


def test_with_neither_there_is_no_left_and_right(tmp_path: Path) -> None:
    problem, said = problem_of(write(tmp_path, None, None))

    assert problem is Problem.GRID_UNUSABLE
    assert "neither sform nor qform" in said


@pytest.mark.parametrize(
    ("qform", "said"),
    [
        (affine_of((0.75, 0.8, 2.6)), "mm apart; expected one place"),
        (AFFINE + np.eye(4, k=3) * 0.15, "up to 0.15 mm apart"),
        (np.diag([-1, -1, 1, 1]) @ AFFINE, "mm apart; expected one place"),
        (affine_of((0.75, 0.8, 2.5), rotation(0.1, 0)), "mm apart; expected one place"),
    ],
    ids=["spacing", "moved", "turned", "tilted"],
)
def test_two_places_for_the_voxels_are_one_too_many(
    tmp_path: Path, qform: np.ndarray, said: str
) -> None:
    problem, detail = problem_of(write(tmp_path, AFFINE, qform))

    assert problem is Problem.GRID_UNUSABLE
    assert said in detail


def test_another_spacing_of_one_thin_slice_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path, np.eye(4), np.diag([1, 1, 1.05, 1]), shape=(8, 7, 1))

    assert problem_of(path)[0] is Problem.GRID_UNUSABLE


@pytest.mark.parametrize("seed", range(8))
def test_a_qform_is_taken_as_exactly_as_its_floats_can_say(tmp_path: Path, seed: int) -> None:
    """Scans lie near half a turn from NIfTI's axes, where a quaternion is least exact."""
    angle, tilt = np.random.default_rng(seed).uniform(-0.6, 0.6, 2)
    affine = affine_of((0.8, 0.8, 2.5), np.diag([-1, 1, 1]) @ rotation(angle, tilt))

    read_nifti(write(tmp_path, affine, affine, shape=(400, 400, 20)), "image")


@pytest.mark.parametrize(
    "affine",
    [in_place([1, 0]), in_place([2, 0.5]), np.diag([0.8, 0.8, 0, 1])],
    ids=["two equal", "dependent", "none"],
)
def test_axes_in_one_plane_are_quarantined(tmp_path: Path, affine: np.ndarray) -> None:
    assert problem_of(write(tmp_path, affine))[0] is Problem.GRID_UNUSABLE


@pytest.mark.parametrize("spacing_mm", [1e-30, 0.009, 101, 1e30])
def test_spacings_that_no_scanner_has_are_quarantined(tmp_path: Path, spacing_mm: float) -> None:
    problem, said = problem_of(write(tmp_path, affine_of((1, 1, spacing_mm))))

    assert problem is Problem.GRID_UNUSABLE
    assert "mm apart; expected 0.01 to 100" in said


def test_more_columns_than_dicom_can_count_are_quarantined(tmp_path: Path) -> None:
    problem, said = problem_of(write(tmp_path, shape=(70_000, 3, 3)))

    assert problem is Problem.GRID_UNUSABLE
    assert "and 65535 along an axis" in said


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.nii")  # opening it would wait for somebody who writes to it
    (tmp_path / "y.nii").mkdir()

    for name in ("x.nii", "y.nii"):
        problem, said = problem_of(tmp_path / name)
        assert problem is Problem.FILE_DAMAGED
        assert said == f"the image file {name} is no regular file"


def test_every_case_of_the_hippocampus_lies_where_it_lay(hippocampus: Path) -> None:
    for case in read_manifest(hippocampus):
        image = case.read()
        assert np.allclose(np.linalg.norm(image.affine[:3, :3], axis=0), 1)
