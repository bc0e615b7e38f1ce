"""A labelled image before it is DICOM: what it is called, whose it is, what its labels mean."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from federation.errors import DataError

Plane = Literal["axial", "coronal", "sagittal"]
Part = Literal["train", "test"]
Modality = Literal["CT", "MR"]


class Problem(StrEnum):
    """Why a case is not stored."""

    FILE_MISSING = "file-missing"
    FILE_CHANGED = "file-changed"
    FILE_DAMAGED = "file-damaged"
    SHAPES_DIFFER = "shapes-differ"
    AFFINES_DIFFER = "affines-differ"
    GRID_UNUSABLE = "grid-unusable"
    LABEL_UNEXPECTED = "label-unexpected"
    LABEL_MISSING = "label-missing"
    NOT_LOSSLESS = "not-lossless"
    UNEXPECTED = "unexpected"


class UnusableCase(DataError):
    """A case that cannot become DICOM; the others can."""

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """What one label value means, as a segment of a SEG (PS3.3 Section C.8.20.4).

    name becomes the Segment Label; kind and modifier the Segmented Property Type. Most kinds need
    no modifier.
    """

    number: int
    name: str
    category: Code
    kind: Code
    modifier: Code | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Anatomy:
    """What an image shows: Body Part Examined, Anatomic Region, and its segments.

    body_part and region are empty and None where it is not known what is shown.
    paired: the body part exists twice, or may, so Laterality must be present, even if unknown
    """

    body_part: str
    region: Code | None
    paired: bool
    segments: tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledImage:
    """Voxels and labels on one grid.

    voxels: integers or floats (X, Y, Z), axes nearest to right, anterior, superior; HU of a CT
    labels: uint8 (X, Y, Z), 0 background, else a segment's number
    affine: float64 (4, 4), voxel index to RAS millimetres, right-handed
    """

    voxels: NDArray[np.generic]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PulseSequence:
    """How an MR image was scanned (PS3.3 Section C.8.3.1).

    scanning:    Scanning Sequence
    variant:     Sequence Variant
    acquisition: MR Acquisition Type, empty where it is not known
    """

    scanning: tuple[str, ...]
    variant: str
    acquisition: str


INVERSION_PREPARED = PulseSequence(scanning=("GR", "IR"), variant="MP", acquisition="3D")
UNKNOWN_SEQUENCE = PulseSequence(scanning=("RM",), variant="NONE", acquisition="")


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """One labelled image of a collection, read when asked for.

    site:     empty where the collection knows none
    study:    names the study among the collection's; cases of one patient's study share it
    plane:    of the slices in DICOM
    channel:  which of several images on the same grid it is, as "FLAIR"; empty where there is one
    sequence: of an MR image
    """

    collection: str
    site: str
    split: Part
    name: str
    patient_id: str = field(repr=False)
    study: str
    series_number: int
    anatomy: Anatomy
    plane: Plane = "axial"
    modality: Modality = "MR"
    channel: str = ""
    sequence: PulseSequence = INVERSION_PREPARED

    @abstractmethod
    def read(self) -> LabelledImage:
        """The voxels and labels. Raises :class:`UnusableCase`."""
