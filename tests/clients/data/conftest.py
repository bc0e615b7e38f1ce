"""Series and SEGs on disk, made from phantoms; third-party files beside the repository."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from federation.samples.case import Case, LabelledImage
from federation.samples.dicom import slices, write_case
from federation.samples.phantom import phantom_cases

DATA = Path(__file__).parents[3] / "../shared/data"
SEGMENTS = {"inner structure": 1, "outer structure": 2}


@dataclass(frozen=True, kw_only=True)
class WrittenCase:
    """A case's files, and what they were made from."""

    case: Case
    image: LabelledImage
    series: list[Path]
    seg: Path

    @property
    def expected_labels(self) -> "object":
        return slices(self.image.labels, self.image.affine, self.case.plane).pixels

    @property
    def expected_voxels(self) -> "object":
        return slices(self.image.voxels, self.image.affine, self.case.plane).pixels


@pytest.fixture
def written(tmp_path: Path) -> WrittenCase:
    """A phantom of site B: a coronal series with a Rescale Slope."""
    return write(phantom_cases("B", 1, 0)[0], tmp_path / "written")


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """A folder of ``../shared/data``; the test is skipped where it is absent."""

    def folder(name: str) -> Path:
        path = DATA / name
        if not path.is_dir():
            pytest.skip(f"../shared/data/{name} is absent")
        return path

    return folder


def write(case: Case, folder: Path) -> WrittenCase:
    folder.mkdir(parents=True, exist_ok=True)
    *series, seg = write_case(case, folder)
    return WrittenCase(case=case, image=case.read(), series=series, seg=seg)


def edit(path: Path, change: Callable[[Dataset], object]) -> None:
    """Rewrite a file after ``change``."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
