"""Labelled NIfTI files beside the repository, and small folders made like them."""

import csv
import hashlib
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
