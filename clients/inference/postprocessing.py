"""What becomes of labels before they are stored, as a version declares it."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from federation.iodeep.architecture import Postprocessing

_TOUCHING = np.ones((3, 3, 3), bool)  # voxels that share a corner are of one part


def apply(
    postprocessing: Postprocessing | None, labels: NDArray[np.uint8], affine: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Labels uint8 (D, H, W) as ``postprocessing`` wants them; ``affine`` tells a voxel's size.

    First parts that are too small go, then all parts but the largest, then holes are filled, as far
    as no other label is there.
    """
    if postprocessing is None:
        return labels
    result = labels.copy()
    voxel_mm3 = float(abs(np.linalg.det(affine[:3, :3])))
    least = (postprocessing.least_mm3 or 0.0) / voxel_mm3
    for number in (int(number) for number in np.unique(result) if number):
        kept = _parts(result == number, least, only_largest=number in postprocessing.largest)
        result[(result == number) & ~kept] = 0
    for number in postprocessing.filled:
        result[ndimage.binary_fill_holes(result == number) & (result == 0)] = number
    return result


def _parts(mask: NDArray[np.bool_], least: float, *, only_largest: bool) -> NDArray[np.bool_]:
    """What stays of a mask: parts of at least so many voxels, or the largest of these."""
    if not least and not only_largest:
        return mask
    parts, _ = ndimage.label(mask, _TOUCHING)
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    stays = (sizes >= least) & (sizes > 0)
    if only_largest:
        stays &= np.arange(len(sizes)) == sizes.argmax()
    kept: NDArray[np.bool_] = stays[parts]
    return kept
