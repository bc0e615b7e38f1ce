import csv
import hashlib
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from federation.errors import ConfigError, DataError
from federation.samples import Problem, UnusableCase, read_manifest
from tests.federation.samples.conftest import write_manifest, write_nifti_case


def test_the_real_manifest_names_four_sites_and_splits_no_patient(hippocampus: Path) -> None:
    cases = read_manifest(hippocampus)

    assert len(cases) == 104
    counts = {
        (site, part): sum(case.site == site and case.split == part for case in cases)
        for site in "ABCD"
        for part in ("train", "test")
    }
    assert list(counts.values()) == [20, 6, 20, 6, 24, 6, 16, 6]
    parts = {(case.patient_id, case.split) for case in cases}
    assert len(parts) == len({case.patient_id for case in cases})


def test_both_hippocampi_of_a_patient_are_two_series_of_one_study(hippocampus: Path) -> None:
    one, other = (c for c in read_manifest(hippocampus) if c.name[-3:] in ("023", "024"))

    assert (one.patient_id, one.study) == (other.patient_id, other.study)
    assert {one.series_number, other.series_number} == {1, 2}


def test_a_case_does_not_show_its_patient(nifti_folder: Path) -> None:
    assert "SITEA" not in repr(read_manifest(nifti_folder))


def test_a_folder_without_a_manifest_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"manifest\.csv"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("image", "../outside.nii.gz", "leads out of the folder"),
        ("label", "/etc/hostname", "leads out of the folder"),
        ("split", "training", "expected train or test"),
        ("site", "", "no value for site"),
        ("patient_id", "A\\B", "patient_id"),
        ("case", "case_002", "twice"),
    ],
)
def test_a_damaged_row_is_refused_with_its_place(
    nifti_folder: Path, column: str, value: str, message: str
) -> None:
    with (nifti_folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0][column] = value
    write_manifest(nifti_folder, rows)

    with pytest.raises(DataError, match=message):
        read_manifest(nifti_folder)


def test_a_manifest_without_columns_names_them(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("site,split\nA,train\n")

    with pytest.raises(DataError, match="lacks the columns case, subject"):
        read_manifest(tmp_path)


def test_a_manifest_of_bytes_that_are_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe\x00case")

    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path)


def test_a_patient_in_both_parts_is_refused(nifti_folder: Path) -> None:
    with (nifti_folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[1]["split"] = "test"
    write_manifest(nifti_folder, rows)

    with pytest.raises(DataError, match="both train and test") as refused:
        read_manifest(nifti_folder)
    assert "SITEA" not in str(refused.value)


def test_real_bad_files_are_quarantined_by_what_is_wrong(
    hippocampus: Path, hippocampus_bad: Path, tmp_path: Path
) -> None:
    folder = tmp_path
    for path in [*hippocampus_bad.glob("*/*.gz"), hippocampus / "images/hippocampus_001.nii.gz"]:
        target = folder / path.parent.name
        target.mkdir(exist_ok=True)
        shutil.copy(path, target)

    def row(case: str, image: str, label: str) -> dict[str, str]:
        files = {"image": f"images/hippocampus_{image}", "label": f"labels/hippocampus_{label}"}
        values = {
            "site": "A",
            "split": "train",
            "case": case,
            "subject": "1",
            "patient_id": "SITEA-0001",
        }
        for role, name in files.items():
            path = folder / f"{name}.nii.gz"
            values[role] = f"{name}.nii.gz"
            content = path.read_bytes() if path.exists() else b""
            values[f"sha256_{role}"] = hashlib.sha256(content).hexdigest()
        return values

    write_manifest(
        folder,
        [
            row("image without label", "118", "118"),
            row("label without image", "010", "010"),
            row("foreign label", "001", "281"),
        ],
    )
    problems = {}
    for case in read_manifest(folder):
        with pytest.raises(UnusableCase) as refused:
            case.read()
        problems[case.name] = refused.value.problem

    assert problems == {
        "image without label": Problem.FILE_MISSING,
        "label without image": Problem.FILE_MISSING,
        "foreign label": Problem.SHAPES_DIFFER,
    }


def test_a_changed_file_is_not_read(nifti_folder: Path) -> None:
    (nifti_folder / "case_001_image.nii.gz").write_bytes(b"other")

    assert _problem_of_first(nifti_folder) is Problem.FILE_CHANGED


@pytest.mark.parametrize(
    ("role", "content", "problem"),
    [
        ("label", np.full((7, 6, 5), 3, np.uint8), Problem.LABEL_UNEXPECTED),
        ("label", np.full((7, 6, 5), 0.5, np.float32), Problem.LABEL_UNEXPECTED),
        ("label", np.full((7, 6, 5), 1, np.uint8), Problem.LABEL_MISSING),
        ("label", np.zeros((7, 6), np.uint8), Problem.GRID_UNUSABLE),
        ("label", np.zeros((7, 6, 4), np.uint8), Problem.SHAPES_DIFFER),
        ("image", b"no NIfTI at all", Problem.FILE_DAMAGED),
    ],
)
def test_content_that_cannot_be_labelled_data_is_quarantined(
    nifti_folder: Path, role: str, content: np.ndarray | bytes, problem: Problem
) -> None:
    _replace(nifti_folder, role, content)

    assert _problem_of_first(nifti_folder) is problem


def test_a_label_on_another_grid_is_quarantined(nifti_folder: Path) -> None:
    _replace(nifti_folder, "label", np.ones((7, 6, 5), np.uint8), affine=np.diag([1, 1, 2, 1]))

    assert _problem_of_first(nifti_folder) is Problem.AFFINES_DIFFER


def test_axes_are_turned_to_right_anterior_superior(tmp_path: Path) -> None:
    row = write_nifti_case(tmp_path, "case_001")
    voxels = np.asanyarray(nibabel.load(tmp_path / row["image"]).dataobj)
    left_posterior = np.diag([-1.0, -1.0, 1.0, 1.0])
    for role in ("image", "label"):
        path = tmp_path / row[role]
        array = np.asanyarray(nibabel.load(path).dataobj)
        nibabel.save(nibabel.Nifti1Image(array, left_posterior), path)
        row[f"sha256_{role}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_manifest(tmp_path, [row])

    image = read_manifest(tmp_path)[0].read()

    assert np.array_equal(image.voxels, voxels[::-1, ::-1])
    assert np.linalg.det(image.affine[:3, :3]) > 0


def _replace(
    folder: Path, role: str, content: np.ndarray | bytes, affine: np.ndarray | None = None
) -> None:
    path = folder / f"case_001_{role}.nii.gz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        nibabel.save(nibabel.Nifti1Image(content, np.eye(4) if affine is None else affine), path)
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0][f"sha256_{role}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_manifest(folder, rows)


def _problem_of_first(folder: Path) -> Problem:
    with pytest.raises(UnusableCase) as refused:
        read_manifest(folder)[0].read()
    return refused.value.problem
