"""Labelled NIfTI files beside the repository, and small folders made like them."""

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest

from federation.samples.decathlon import COLUMNS
from tests.peers import shared_data


@pytest.fixture
def hippocampus() -> Path:
    """The folder of real cases; the test is skipped where it is absent."""
    return shared_data("hippocampus")


@pytest.fixture
def hippocampus_bad() -> Path:
    """Real files that are wrong in their source: a lost label, a lost image, a foreign label."""
    return shared_data("hippocampus-bad")


@pytest.fixture
def nifti_folder(tmp_path: Path) -> Path:
    """Two good cases of one patient, small and synthetic, with a manifest."""
    folder = tmp_path / "nifti"
    folder.mkdir()
    rows = [write_nifti_case(folder, f"case_{number:03d}") for number in (1, 2)]
    write_manifest(folder, rows)
    return folder


def write_nifti_case(folder: Path, name: str) -> dict[str, str]:
    """Write a case's two files; returns its manifest row."""
    random = np.random.default_rng(len(name))
    voxels = random.integers(0, 900, (7, 6, 5)).astype(np.float32) * np.float32(5.95897)
    labels = np.zeros((7, 6, 5), np.uint8)
    labels[1:3, 1:4, 1:3] = 1
    labels[3:6, 2:4, 2:4] = 2
    row = {
        "site": "A",
        "split": "train",
        "case": name,
        "subject": "1",
        "patient_id": "SITEA-0001",
    }
    for role, array in (("image", voxels), ("label", labels)):
        path = folder / f"{name}_{role}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
        row[role] = path.name
        row[f"sha256_{role}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return row


def write_manifest(folder: Path, rows: list[Mapping[str, str]]) -> None:
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def rotation(angle: float, tilt: float) -> np.ndarray:
    """About the axis to the feet, then about that to the left, radians: (3, 3)."""
    c, s, d, t = np.cos(angle), np.sin(angle), np.cos(tilt), np.sin(tilt)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, d, -t], [0, t, d]]
    )


def affine_of(
    spacing_mm: tuple[float, float, float], turned: np.ndarray | None = None
) -> np.ndarray:
    """Index to RAS millimetres (4, 4), away from the origin."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turned is None else turned) @ np.diag(spacing_mm)
    affine[:3, 3] = [-31.25, 17.5, -402.125]
    return affine


class TaskFolder:
    """A task folder of the Decathlon, small and synthetic, written as its cases are added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.document: dict[str, object] = {
            "name": "Liver",
            "description": "made for a test",
            "tensorImageSize": "3D",
            "modality": {"0": "CT"},
            "labels": {"0": "background", "1": "liver", "2": "cancer", "3": "grey thing"},
            "training": [],
            "test": ["./imagesTs/liver_9.nii.gz"],
        }
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir(parents=True)

    def add(
        self, name: str, voxels: np.ndarray, labels: np.ndarray, affine: np.ndarray | None = None
    ) -> None:
        """Write a case's two files, and name it under ``training``."""
        affine = affine_of((0.75, 0.8, 2.5)) if affine is None else affine
        for place, array in (("imagesTr", voxels), ("labelsTr", labels)):
            nibabel.save(nibabel.Nifti1Image(array, affine), self.folder / place / f"{name}.nii.gz")
        training = self.document["training"]
        assert isinstance(training, list)
        training.append(
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        )
        self.write()

    def write(self, **changes: object) -> None:
        """Write the dataset.json, with ``changes`` to its members; None takes one out."""
        self.document |= changes
        document = {key: value for key, value in self.document.items() if value is not None}
        (self.folder / "dataset.json").write_text(json.dumps(document))


@pytest.fixture
def task(tmp_path: Path) -> TaskFolder:
    return TaskFolder(tmp_path / "Task03_Liver")


def ct_voxels(seed: int = 5, shape: tuple[int, ...] = (8, 7, 6)) -> np.ndarray:
    """HU as int16, air included."""
    return np.random.default_rng(seed).integers(-1024, 1900, shape).astype(np.int16)


def mr_voxels(seed: int = 5, shape: tuple[int, ...] = (8, 7, 6)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, shape).astype(np.float32)


def label_voxels(*values: int, shape: tuple[int, ...] = (8, 7, 6)) -> np.ndarray:
    """A block of each value, none like another."""
    labels = np.zeros(shape, np.uint8)
    for number, value in enumerate(values):
        labels[1 + 2 * number : 3 + 2 * number, 1 : 3 + number, 1 : 3 + number] = value
    return labels
