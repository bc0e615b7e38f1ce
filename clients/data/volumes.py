"""An image series as a volume: the frames of its instances, placed by their geometry.

Image Plane Module, PS3.3 Section C.7.6.2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.data.planes import Plane, read_planes
from clients.data.quarantine import Reason, Unusable

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_UNEVEN = 0.01  # largest deviation of a slice from its place, in units of the slice spacing
_TURNED = 1e-4  # largest difference between direction cosines that count as the same
_SAME_PLACE_MM = 1e-3
_SAME_ECHO = 0.01  # largest difference of echo times that count as the same, of the longest
_MOST_VOXELS = 2**31  # a whole body of 1024 x 1024 x 2000 voxels; memory is taken for more of none


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Volume:
    """A series on a regular grid.

    voxels: float32 (D, H, W): slices, rows, columns; slices ascend along the cross product
            of the row and column directions
    affine: float64 (4, 4): index (d, h, w) to RAS millimetres of the voxel's centre
    instances: SOP Instance UIDs in slice order; of an enhanced object the same for all
    frame_of_reference: its UID, empty where the images have none
    is_projection: it lies nowhere, as CR and DX; the affine is made up, but for the spacing
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    instances: tuple[str, ...]
    frame_of_reference: str
    is_projection: bool = False

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Between slices, rows and columns."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)

    def __repr__(self) -> str:
        spacing = " x ".join(f"{value:g}" for value in self.spacing_mm)
        return f"Volume({' x '.join(map(str, self.voxels.shape))} voxels of {spacing} mm)"


def read_volume(paths: Sequence[Path]) -> Volume:
    """Read a series' Part 10 files, in any order: single-frame, enhanced, or a single projection.

    A projection, as of CR and DX, is one slice at the origin. Raises :class:`Unusable` for colour
    images, pixels that cannot be decoded, more voxels than a volume has, and slices that do not
    form one regular grid: mixed orientation, spacing or acquisition, one missing or twice there, a
    tilted gantry, a single slice.
    """
    planes = [plane for path in paths for plane in read_planes(path)]
    first = planes[0] if planes else None
    if first is not None and first.is_projection and len(planes) == 1:
        affine = _to_ras(first, np.cross(first.orientation[:3], first.orientation[3:]))
    else:
        affine = _affine(_in_order(planes))
    return Volume(
        voxels=_voxels(planes),
        affine=affine,
        instances=tuple(plane.instance for plane in planes),
        frame_of_reference=planes[0].frame_of_reference,
        is_projection=planes[0].is_projection,
    )


def _in_order(planes: list[Plane]) -> list[Plane]:
    """Sorted in place along the normal; raises where they are no stack of slices."""
    if any(plane.is_projection for plane in planes):
        raise Unusable(Reason.SLICES_IRREGULAR, "several projections, or slices without a place")
    if len(planes) < 2:
        raise Unusable(Reason.SLICES_IRREGULAR, f"{len(planes)} slices; a volume needs two")
    first = planes[0]
    axes = np.array([first.orientation[:3], first.orientation[3:]])
    if not np.allclose(axes @ axes.T, np.eye(2), atol=_TURNED):
        raise Unusable(Reason.SLICES_IRREGULAR, "row and column are no right-angled unit vectors")
    for plane in planes[1:]:
        if not np.allclose(plane.orientation, first.orientation, atol=_TURNED):
            raise Unusable(Reason.SLICES_IRREGULAR, "slices of different orientation")
        if not np.allclose(plane.spacing_mm, first.spacing_mm, rtol=_TURNED):
            raise Unusable(Reason.SLICES_IRREGULAR, "slices of different pixel spacing")
        if plane.shape != first.shape:
            raise Unusable(Reason.SLICES_IRREGULAR, "slices of different size")
        if plane.frame_of_reference != first.frame_of_reference:
            raise Unusable(Reason.SLICES_IRREGULAR, "slices of different frames of reference")
    _check_acquisition(planes)
    normal = first.normal
    planes.sort(key=lambda plane: float(plane.position @ normal))
    return planes


def _check_acquisition(planes: Sequence[Plane]) -> None:
    """Whether all slices are of one: of two that are interleaved, each has its own places."""
    every = [plane.acquisition for plane in planes]
    types = [{one.image_type[at] for one in every if len(one.image_type) > at} for at in (0, 1)]
    moments = {one.moment for one in every if one.moment is not None}
    echoes = [one.echo_ms for one in every if one.echo_ms is not None]
    differs = {
        "Image Type": any(len(values - {""}) > 1 for values in types),
        "temporal position": len(moments) > 1,
        "Echo Time": bool(echoes) and max(echoes) - min(echoes) > _SAME_ECHO * max(echoes),
    }
    named = [what for what, is_so in differs.items() if is_so]
    if named:
        raise Unusable(
            Reason.SLICES_REPEATED,
            f"slices of different {' and '.join(named)}: two series in one, or several echoes or "
            "phases",
        )


def _affine(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """Index to RAS millimetres; raises where the sorted slices are not equidistant."""
    positions = np.array([plane.position for plane in planes])
    _check_distances(positions @ planes[0].normal)
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    spacing = float(np.linalg.norm(step))
    places = positions[0] + np.arange(len(planes))[:, np.newaxis] * step
    if np.abs(positions - places).max() > _UNEVEN * spacing:
        raise Unusable(Reason.SLICES_IRREGULAR, "slices are not on one line")
    if np.linalg.norm(step - (step @ planes[0].normal) * planes[0].normal) > _UNEVEN * spacing:
        raise Unusable(Reason.SLICES_IRREGULAR, "slices are not stacked along their normal")
    return _to_ras(planes[0], step)


def _check_distances(heights: NDArray[np.float64]) -> None:
    """Whether sorted slices are equidistant along their normal, mm; what is wrong where not."""
    steps = np.diff(heights)
    usual = float(steps.min())
    if (steps < _SAME_PLACE_MM).any():
        repeated = int((steps < _SAME_PLACE_MM).sum())
        raise Unusable(
            Reason.SLICES_REPEATED,
            f"{repeated} of {len(heights)} slices lie where another one does: two series in one, "
            "or several times, echoes or phases",
        )
    if np.abs(steps - usual).max() <= _UNEVEN * usual:
        return
    multiples = steps / usual
    whole = np.rint(multiples)
    missing = int((whole - 1).sum())
    if missing <= len(heights) and np.abs(multiples - whole).max() <= 2 * _UNEVEN * whole.max():
        raise Unusable(
            Reason.SLICE_MISSING,
            f"{missing} slices are missing among the {len(heights)} there",
        )
    raise Unusable(Reason.SLICES_IRREGULAR, "slices are not equidistant")


def _to_ras(first: Plane, step: NDArray[np.float64]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.orientation[3:] * first.spacing_mm[0]  # between rows: down a column
    affine[:3, 2] = first.orientation[:3] * first.spacing_mm[1]
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine


def _voxels(planes: Sequence[Plane]) -> NDArray[np.float32]:
    shape = (len(planes), *planes[0].shape)
    if math.prod(shape) > _MOST_VOXELS:
        raise Unusable(
            Reason.IMAGE_UNSUPPORTED,
            f"{' x '.join(map(str, shape))} voxels; {_MOST_VOXELS} are the most that are read",
        )
    try:
        voxels = np.empty(shape, np.float32)
    except MemoryError as error:
        raise Unusable(Reason.IMAGE_UNSUPPORTED, "more voxels than there is memory for") from error
    for index, plane in enumerate(planes):
        pixels = plane.read()
        if pixels.shape != plane.shape:
            raise Unusable(Reason.IMAGE_UNDECODABLE, "pixels of another size than announced")
        voxels[index] = pixels
    if not np.isfinite(voxels).all():
        raise Unusable(Reason.IMAGE_UNDECODABLE, "voxels that are not finite")
    return voxels
