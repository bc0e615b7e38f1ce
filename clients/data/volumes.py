"""An image series as a volume: single-frame instances, placed by their geometry.

Image Plane Module, PS3.3 Section C.7.6.2; Modality LUT, PS3.3 Section C.11.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset

from clients.data.quarantine import Reason, Unusable

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_UNEVEN = 0.01  # largest deviation of a slice from its place, in units of the slice spacing
_TURNED = 1e-4  # largest difference between direction cosines that count as the same
_DEFER_BYTES = 1024  # larger elements, the pixels, stay in the file until they are decoded


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Volume:
    """A series on a regular grid.

    voxels: float32 (D, H, W): slices, rows, columns; slices ascend along the cross product
            of the row and column directions
    affine: float64 (4, 4): index (d, h, w) to RAS millimetres of the voxel's centre
    instances: SOP Instance UIDs in slice order
    frame_of_reference: its UID, empty where the images have none
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    instances: tuple[str, ...]
    frame_of_reference: str

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Between slices, rows and columns."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)

    def __repr__(self) -> str:
        spacing = " x ".join(f"{value:g}" for value in self.spacing_mm)
        return f"Volume({' x '.join(map(str, self.voxels.shape))} voxels of {spacing} mm)"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Slice:
    """What one instance says about its place; ``dataset`` still has its pixels on disk."""

    dataset: Dataset
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing_mm: NDArray[np.float64]

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        if int(dataset.get("NumberOfFrames") or 1) != 1 or int(dataset.SamplesPerPixel) != 1:
            raise Unusable(Reason.IMAGE_UNSUPPORTED, "not single-frame images of one sample")
        if "ModalityLUTSequence" in dataset:
            raise Unusable(Reason.IMAGE_UNSUPPORTED, "a Modality LUT other than linear")
        return cls(
            dataset=dataset,
            position=_numbers(dataset, "ImagePositionPatient", 3),
            orientation=_numbers(dataset, "ImageOrientationPatient", 6),
            spacing_mm=_numbers(dataset, "PixelSpacing", 2),
        )

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.orientation[:3], self.orientation[3:])


def read_volume(paths: Sequence[Path]) -> Volume:
    """Read a series' Part 10 files, in any order.

    ``float32(stored) * float32(slope) + float32(intercept)`` is each voxel, slope and
    intercept as each slice has them. Raises :class:`Unusable` for colour or multi-frame
    images, pixels that cannot be decoded, and slices that do not form one regular grid:
    mixed orientation or spacing, gaps, repeated positions, a tilted gantry, a single slice.
    """
    slices = [_read_slice(path) for path in paths]
    if len(slices) < 2:
        raise Unusable(Reason.SLICES_IRREGULAR, f"{len(slices)} slices; a volume needs two")
    normal = slices[0].normal
    slices.sort(key=lambda one: float(one.position @ normal))
    affine = _affine(slices)
    voxels = _voxels(slices)
    first = slices[0].dataset
    return Volume(
        voxels=voxels,
        affine=affine,
        instances=tuple(str(one.dataset.SOPInstanceUID) for one in slices),
        frame_of_reference=str(first.get("FrameOfReferenceUID") or ""),
    )


def _read_slice(path: Path) -> _Slice:
    try:
        return _Slice.of(pydicom.dcmread(path, defer_size=_DEFER_BYTES))
    except Unusable:
        raise
    except Exception as error:  # a damaged file can raise anything in the parser
        raise Unusable(Reason.IMAGE_UNDECODABLE, "an image that is no readable DICOM") from error


def _numbers(dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    values = dataset.get(keyword)
    if values is None or len(values) != count:
        raise Unusable(Reason.IMAGE_UNSUPPORTED, f"an image without {keyword}")
    numbers = np.array([float(value) for value in values])
    if not np.isfinite(numbers).all():
        raise Unusable(Reason.IMAGE_UNSUPPORTED, f"an image whose {keyword} is not finite")
    return numbers


def _affine(slices: Sequence[_Slice]) -> NDArray[np.float64]:
    """Index to RAS millimetres; raises where the sorted slices are not equidistant."""
    first = slices[0]
    row, column = first.orientation[:3], first.orientation[3:]
    axes = np.array([row, column])
    if not np.allclose(axes @ axes.T, np.eye(2), atol=_TURNED) or (first.spacing_mm <= 0).any():
        raise Unusable(Reason.SLICES_IRREGULAR, "row and column are no right-angled unit vectors")
    for one in slices[1:]:
        if not np.allclose(one.orientation, first.orientation, atol=_TURNED):
            raise Unusable(Reason.SLICES_IRREGULAR, "slices of different orientation")
        if not np.allclose(one.spacing_mm, first.spacing_mm, rtol=_TURNED):
            raise Unusable(Reason.SLICES_IRREGULAR, "slices of different pixel spacing")
    positions = np.array([one.position for one in slices])
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    spacing = float(np.linalg.norm(step))
    places = positions[0] + np.arange(len(slices))[:, np.newaxis] * step
    if spacing == 0 or np.abs(positions - places).max() > _UNEVEN * spacing:
        raise Unusable(Reason.SLICES_IRREGULAR, "slices are not equidistant")
    if np.linalg.norm(step - (step @ first.normal) * first.normal) > _UNEVEN * spacing:
        raise Unusable(Reason.SLICES_IRREGULAR, "slices are not stacked along their normal")
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = column * first.spacing_mm[0]  # Pixel Spacing: between rows, then columns
    affine[:3, 2] = row * first.spacing_mm[1]
    affine[:3, 3] = positions[0]
    return LPS_TO_RAS @ affine


def _voxels(slices: Sequence[_Slice]) -> NDArray[np.float32]:
    first = _decode(slices[0].dataset)
    voxels = np.empty((len(slices), *first.shape), np.float32)
    voxels[0] = first
    for index, one in enumerate(slices[1:], start=1):
        pixels = _decode(one.dataset)
        if pixels.shape != first.shape:
            raise Unusable(Reason.SLICES_IRREGULAR, "slices of different size")
        voxels[index] = pixels
    if not np.isfinite(voxels).all():
        raise Unusable(Reason.IMAGE_UNDECODABLE, "voxels that are not finite")
    return voxels


def _decode(dataset: Dataset) -> NDArray[np.float32]:
    """One slice's pixels (H, W), rescaled."""
    try:
        slope = np.float32(float(dataset.get("RescaleSlope", 1)))
        intercept = np.float32(float(dataset.get("RescaleIntercept", 0)))
        pixels = dataset.pixel_array
    except Exception as error:  # decoders raise their own kinds
        raise Unusable(Reason.IMAGE_UNDECODABLE, "pixels that cannot be decoded") from error
    if slope == 0 or pixels.ndim != 2:
        raise Unusable(Reason.IMAGE_UNDECODABLE, "pixels without a usable scale or shape")
    return np.asarray(pixels.astype(np.float32) * slope + intercept, np.float32)
