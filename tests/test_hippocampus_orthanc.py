"""Real labelled cases through Orthanc, and back as they were: the NIfTI files say what they are."""

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from clients.data import find_labelled_series
from clients.data.dataset import fetch_series
from clients.data.labels import Wanted, read_labels
from clients.data.volumes import read_volume
from federation.config import DataTable, LabelSource, Split
from federation.pacs import open_gateway
from federation.samples import Stored, import_cases, read_manifest
from federation.samples.case import Plane
from tests.peers import shared_data
from tests.peers.orthanc import orthanc

NAMES = {"anterior hippocampus": 1, "posterior hippocampus": 2}
EVERY = 104
SOME = (3, 4, 20, 40, 60, 80, 103)
"""Of every site; the first two are the two sides of one patient, in one study."""


@pytest.mark.parametrize("plane", get_args(Plane))
@pytest.mark.parametrize(
    "chosen",
    [SOME, pytest.param(range(EVERY), marks=[pytest.mark.soak, pytest.mark.timeout(1800)])],
    ids=["some", "all"],
)
def test_cases_come_out_of_orthanc_as_the_files_they_were(
    chosen: tuple[int, ...] | range, plane: Plane, tmp_path: Path
) -> None:
    home = shared_data("hippocampus")
    every = read_manifest(home)
    assert len(every) == EVERY
    cases = [dataclasses.replace(every[number], plane=plane) for number in chosen]
    files = files_of(home)
    table = DataTable(
        query={"Modality": "MR", "BodyPartExamined": "HIPPOCAMPUS"},
        labels=LabelSource(map=NAMES),
        split=Split(key=tmp_path / "unused.key"),
    )
    wanted = Wanted.of(names=NAMES)
    seen = []
    with orthanc(tmp_path / "orthanc") as archive, open_gateway(archive.dimse) as gateway:
        assert all(isinstance(stored, Stored) for stored in import_cases(cases, gateway))

        census = find_labelled_series(gateway, table, wanted)

        assert census.quarantined == ()
        for number, series in enumerate(census.labelled):
            folder = tmp_path / str(number)
            folder.mkdir()
            images, objects = fetch_series(gateway, series, folder)
            volume = read_volume(images)
            labels = read_labels(objects, volume, wanted)
            name = str(dcmread(images[0], stop_before_pixels=True).SeriesDescription)
            voxels, affine = read_nifti(home / files[name]["image"])
            marked, _ = read_nifti(home / files[name]["label"])
            own, own_affine = turned_to_ras(volume.voxels, volume.affine)
            own_labels, _ = turned_to_ras(labels, volume.affine)
            assert np.array_equal(own, voxels), name
            assert np.array_equal(own_labels, marked), name
            assert np.allclose(own_affine, affine, atol=1e-6), name
            seen.append(name)
    assert sorted(seen) == sorted(case.name for case in cases)


def files_of(home: Path) -> Mapping[str, Mapping[str, str]]:
    """Rows of the manifest by case."""
    with (home / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def read_nifti(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Values, axes to the right, anterior and superior, and the affine, as nibabel reads them."""
    image = nibabel.load(path)
    return turned_to_ras(np.asanyarray(image.dataobj), image.affine)


def turned_to_ras(
    array: NDArray[np.generic], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(array.astype(np.float32), affine))
    return np.asarray(image.dataobj), image.affine
