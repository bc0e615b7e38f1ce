"""Series and SEGs, on disk and in an archive; third-party files beside the repository."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from clients.data.labels import Wanted
from federation.config import Archives, DataTable, LabelSource, Site, Split
from federation.samples.case import Case, LabelledImage
from federation.samples.dicom import slices
from federation.samples.importer import write_case
from federation.samples.phantom import phantom_cases
from tests.segs import seg_of

SEGMENTS = {"inner structure": 1, "outer structure": 2}
WANTED = Wanted.of(names=SEGMENTS)


@dataclass(frozen=True, kw_only=True)
class WrittenCase:
    """A case's files, and what they were made from."""

    case: Case
    image: LabelledImage
    series: list[Path]
    seg: Path

    @property
    def expected_labels(self) -> NDArray[np.generic]:
        return slices(self.image.labels, self.image.affine, self.case.plane).pixels

    @property
    def expected_voxels(self) -> NDArray[np.generic]:
        return slices(self.image.voxels, self.image.affine, self.case.plane).pixels


@pytest.fixture
def written(tmp_path: Path) -> WrittenCase:
    """A phantom of site B: a sagittal series with a Rescale Slope."""
    return write(phantom_cases("B", 1, 0)[0], tmp_path / "written")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site whose data answer the phantom's line."""
    key = tmp_path / "split.key"
    key.write_text("a key for tests\n")
    return Site(
        name="hospital",
        archives=Archives(images="folder:unused"),
        data={"brain": table(key)},
        work=tmp_path / "work",
    )


def table(key: Path, **query: str) -> DataTable:
    return DataTable(
        query=query,
        labels=LabelSource(map=SEGMENTS),
        split=Split(validation=0.25, test=0.25, key=key),
    )


def write(case: Case, folder: Path) -> WrittenCase:
    folder.mkdir(parents=True, exist_ok=True)
    *series, seg = write_case(case, folder)
    return WrittenCase(case=case, image=case.read(), series=series, seg=seg)


def edit(path: Path, change: Callable[[Dataset], object]) -> None:
    """Rewrite a file after ``change``."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def segmentation(
    images: list[Dataset], pixels: "NDArray[np.generic] | highdicom.Volume", kind: str
) -> Dataset:
    """A SEG of both segments."""
    return seg_of(images, pixels, SEGMENTS, kind=kind)
