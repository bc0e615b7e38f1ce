"""From a volume to the network's input, through MONAI's transforms, in the declared order."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import Volume
from federation.iodeep.architecture import Preprocessing

if TYPE_CHECKING:
    import torch

_MOST_VOXELS = 2**30  # after resampling, for which MONAI takes some 40 bytes each


def preprocess_image(volume: Volume, preprocessing: Preprocessing) -> "torch.Tensor":
    """float32 (1, D, H, W): turned, resampled linearly, its values changed, cut to size.

    Axes follow ``preprocessing.orientation``, so D is the first of its three, and the one across
    slices. Padding is zero, after the values were changed. Raises :class:`Unusable`, as all here
    do, where that cannot be had.
    """
    with _refusing():
        image = _normalised(volume, preprocessing)
        return _to_size(image, preprocessing).float().contiguous()


def whole_image(
    volume: Volume, preprocessing: Preprocessing
) -> "tuple[torch.Tensor, NDArray[np.float64]]":
    """The same, nothing cut off, padded to at least the size; and its affine, index to RAS mm."""
    with _refusing():
        image = _normalised(volume, preprocessing)
        sized = _padded(image, preprocessing)
        affine = np.asarray(sized.affine.numpy(), np.float64)
        return sized.as_tensor().float().contiguous(), affine


def _normalised(volume: Volume, preprocessing: Preprocessing) -> Any:
    from monai.transforms.intensity.array import ScaleIntensityRange

    image = _to_grid(volume.voxels, volume, preprocessing, mode="bilinear")
    if preprocessing.intensity == "zscore":
        image = _zscore(image)
    elif preprocessing.window is not None:
        lowest, highest = preprocessing.window
        image = ScaleIntensityRange(lowest, highest, 0.0, 1.0, clip=True)(image)
    return image


def _zscore(image: Any) -> Any:
    """Voxels that are not zero, less their mean, over their standard deviation; zero stays.

    Bit for bit what MONAI's ``NormalizeIntensity(nonzero=True)`` gives, which takes ten times the
    image's memory, as torch selects voxels by the indices of each.
    """
    import torch

    voxels = image.as_tensor().numpy()
    there = voxels != 0
    if not there.any():
        return image
    values = torch.from_numpy(voxels[there])
    mean, deviation = values.mean().numpy(), values.std(unbiased=False).numpy()
    del values
    result = np.zeros_like(voxels)
    np.subtract(voxels, mean, out=result, where=there)
    if deviation != 0:
        np.divide(result, deviation, out=result, where=there)
    return type(image)(torch.from_numpy(result), meta=image.meta)


def preprocess_labels(
    labels: NDArray[np.uint8], volume: Volume, preprocessing: Preprocessing
) -> "torch.Tensor":
    """uint8 (1, D, H, W) on the same grid as :func:`preprocess_image`, by nearest neighbour."""
    import torch

    with _refusing():
        resampled = _to_grid(labels.astype(np.float32), volume, preprocessing, mode="nearest")
        return _to_size(resampled, preprocessing).round().to(torch.uint8).contiguous()


def check_whole(volume: Volume, preprocessing: Preprocessing) -> None:
    """Raises :class:`Unusable` where a network takes slices, and the class is a whole volume's."""
    if preprocessing.takes_slices and len(volume.voxels) > 1:
        raise Unusable(
            Reason.IMAGE_UNSUPPORTED,
            f"a volume of {len(volume.voxels)} slices with one class, and a network that takes "
            "single images such as CR and DX; a network with spatial_dims = 3 takes it",
        )


def class_label(image_class: int) -> "torch.Tensor":
    """uint8 (1,): the class of an image as a whole."""
    import torch

    return torch.tensor([image_class], dtype=torch.uint8)


def part_cut_off(labels: NDArray[np.uint8], volume: Volume, preprocessing: Preprocessing) -> float:
    """Which part of the labelled voxels does not fit into the network's size, 0 to 1."""
    with _refusing():
        turned = _to_grid(labels.astype(np.float32), volume, preprocessing, mode="nearest")
        whole = int((turned != 0).sum())
        kept = int((_to_size(turned, preprocessing) != 0).sum())
    return 1 - kept / whole if whole else 0.0


def spacing_after(volume: Volume, preprocessing: Preprocessing) -> tuple[float, float, float]:
    """Between slices, rows and columns of what :func:`preprocess_image` gives, mm."""
    if not preprocessing.takes_slices:
        d, h, w = preprocessing.spacing_mm
        return d, h, w
    rows, columns = preprocessing.spacing_mm
    return _across(volume, preprocessing), rows, columns


def _across(volume: Volume, preprocessing: Preprocessing) -> float:
    """Between slices once they are turned, which 2D resampling leaves as it is.

    Which axis of an oblique volume is turned where, MONAI has nibabel say, so it is asked here too.
    """
    if volume.is_projection:
        return volume.spacing_mm[0]
    axis = "RLAPSI".index(preprocessing.orientation[0]) // 2  # of RAS
    closest = nibabel.io_orientation(volume.affine)[:, 0]  # type: ignore[no-untyped-call]
    return float(volume.spacing_mm[closest.tolist().index(axis)])


def _to_grid(
    array: NDArray[np.float32], volume: Volume, preprocessing: Preprocessing, *, mode: str
) -> Any:  # MONAI's MetaTensor, whose module is not typed
    import torch
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms.spatial.array import Orientation, Spacing

    tensor: Any = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(array))[None], affine=torch.from_numpy(volume.affine)
    )
    if not volume.is_projection:
        tensor = Orientation(axcodes=preprocessing.orientation, labels=None)(tensor)
    spacing_mm = spacing_after(volume, preprocessing)
    _check_size(tensor, spacing_mm)
    return Spacing(pixdim=spacing_mm, mode=mode, padding_mode="border")(tensor)


def _check_size(tensor: Any, spacing_mm: tuple[float, float, float]) -> None:
    """Whether resampling to this spacing gives no more voxels than memory should be taken for."""
    between_mm = np.linalg.norm(tensor.affine.numpy()[:3, :3], axis=0)
    size = [
        (length - 1) * between / after + 1
        for length, between, after in zip(tensor.shape[1:], between_mm, spacing_mm, strict=True)
    ]
    if not math.prod(size) <= _MOST_VOXELS:  # nor is what overflowed
        raise Unusable(
            Reason.IMAGE_UNSUPPORTED,
            f"{' x '.join(f'{value:.3g}' for value in size)} voxels once it has the network's "
            f"spacing; {_MOST_VOXELS} are the most that are taken",
        )


@contextmanager
def _refusing() -> Iterator[None]:
    """Make :class:`Unusable` of what torch and MONAI raise about one volume: others may do."""
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as error:  # LinAlgError is a ValueError
        raise Unusable(
            Reason.IMAGE_UNSUPPORTED, "an image that cannot be brought onto the network's grid"
        ) from error


def _to_size(tensor: Any, preprocessing: Preprocessing) -> "torch.Tensor":
    """To the network's size; a volume or slice of which patches are taken, to at least that."""
    from monai.transforms.croppad.array import ResizeWithPadOrCrop

    if preprocessing.fit == "patches":
        sized = _padded(tensor, preprocessing)
    else:
        sized = ResizeWithPadOrCrop(spatial_size=_size_of(tensor, preprocessing))(tensor)
    plain: torch.Tensor = sized.as_tensor()
    return plain


def _padded(tensor: Any, preprocessing: Preprocessing) -> Any:
    from monai.transforms.croppad.array import SpatialPad

    return SpatialPad(spatial_size=_size_of(tensor, preprocessing))(tensor)


def _size_of(tensor: Any, preprocessing: Preprocessing) -> tuple[int, ...]:
    """The network's size in three axes: slices are as many as there are."""
    size = preprocessing.size
    return (tensor.shape[1], *size) if preprocessing.takes_slices else size
