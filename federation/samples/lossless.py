"""Voxels as DICOM stores them: 16-bit integers and one Rescale Slope (PS3.3 Section C.11.1)."""

import numpy as np
from numpy.typing import NDArray

from federation.samples.case import Problem, UnusableCase

LARGEST = 65535
SMALLEST_SIGNED, LARGEST_SIGNED = -32768, 32767
_STEPS_IN_SMALLEST_GAP = 8
_DS_LENGTH = 16


def stored_and_slope(voxels: NDArray[np.generic]) -> tuple[NDArray[np.uint16], str | None]:
    """Stored values and the slope as a decimal string, None where it is 1.

    ``float32(stored) * float32(slope)``, in float32 arithmetic, is each voxel exactly. Float
    voxels that an exporter made from a scanner's integers give those integers and that
    scanner's slope back. Raises :class:`UnusableCase` where no such pair exists.
    """
    if np.issubdtype(voxels.dtype, np.integer):
        if voxels.size and (voxels.min() < 0 or voxels.max() > LARGEST):
            raise UnusableCase(Problem.NOT_LOSSLESS, "integer voxels outside 0..65535")
        return voxels.astype(np.uint16), None
    values = voxels.astype(np.float32)
    if not np.array_equal(values, voxels):
        raise UnusableCase(Problem.NOT_LOSSLESS, "voxels are not float32, or not finite")
    if values.size and values.min() < 0:
        raise UnusableCase(Problem.NOT_LOSSLESS, "negative voxels")
    stored, slope = _steps_and_slope(values, LARGEST)
    return stored.astype(np.uint16), None if slope == "1" else slope


def hounsfield_and_slope(voxels: NDArray[np.generic]) -> tuple[NDArray[np.int16], str]:
    """A CT's stored values and the slope as a decimal string, "1" where they are HU themselves.

    ``float32(stored) * float32(slope)``, in float32 arithmetic, is each voxel exactly. Raises
    :class:`UnusableCase` where no such pair exists.
    """
    if not np.issubdtype(voxels.dtype, np.integer) and not np.isfinite(voxels).all():
        raise UnusableCase(Problem.NOT_LOSSLESS, "voxels that are not finite")
    if np.issubdtype(voxels.dtype, np.integer) or np.array_equal(np.rint(voxels), voxels):
        if voxels.size and (voxels.min() < SMALLEST_SIGNED or voxels.max() > LARGEST_SIGNED):
            raise UnusableCase(
                Problem.NOT_LOSSLESS,
                f"CT voxels outside {SMALLEST_SIGNED}..{LARGEST_SIGNED} HU",
            )
        return voxels.astype(np.int16), "1"
    values = voxels.astype(np.float32)
    if not np.array_equal(values, voxels):
        raise UnusableCase(Problem.NOT_LOSSLESS, "voxels are neither whole numbers nor float32")
    stored, slope = _steps_and_slope(values, LARGEST_SIGNED)
    return stored.astype(np.int16), slope


def _steps_and_slope(values: NDArray[np.float32], largest: int) -> tuple[NDArray[np.float64], str]:
    """Whole numbers, none beyond ``largest`` in magnitude, and what they are multiples of."""
    levels = np.unique(np.abs(values))
    levels = levels[levels > 0]
    if not levels.size:
        return values.astype(np.float64), "1"
    for slope in _candidates(levels):
        text = np.format_float_positional(slope, unique=True, trim="-")
        stored = np.rint(values.astype(np.float64) / float(slope))
        if np.abs(stored).max() > largest or len(text) > _DS_LENGTH:
            continue
        if np.array_equal(stored.astype(np.float32) * np.float32(text), values):
            return stored, text
    raise UnusableCase(
        Problem.NOT_LOSSLESS, "voxels are not one constant times integers of 16 bits"
    )


def _candidates(levels: NDArray[np.float32]) -> list[np.float32]:
    """Slopes that could have made ``levels`` (ascending, positive), most plausible first.

    The smallest gap between levels is one step of the scanner, or a few. It is too coarse an
    estimate for the highest levels, so it is refined by least squares over ever more of them.
    """
    gap = float(np.diff(levels.astype(np.float64), prepend=0.0).min())
    found: list[np.float32] = []
    for steps in range(1, _STEPS_IN_SMALLEST_GAP + 1):
        slope = gap / steps
        count = 4
        while count < 2 * levels.size:
            some = levels[:count].astype(np.float64)
            multiples = np.rint(some / slope)
            slope = float(some @ multiples / (multiples @ multiples))
            count *= 2
        nearest = np.float32(slope)
        below = np.nextafter(nearest, np.float32(0))
        above = np.nextafter(nearest, np.float32(np.inf))
        found += [nearest, below, above]
    return found
