"""From a volume to the network's input, through MONAI's transforms, in the declared order."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import Volume
from federation.iodeep.architecture import Preprocessing

if TYPE_CHECKING:
    import torch


def preprocess_image(volume: Volume, preprocessing: Preprocessing) -> "torch.Tensor":
    """float32 (1, D, H, W): turned, resampled linearly, its values changed, cut to size.

    Axes follow ``preprocessing.orientation``, so D is the first of its three, and the one across
    slices. Padding is zero, after the values were changed.
    """
    from monai.transforms.intensity.array import NormalizeIntensity, ScaleIntensityRange

    image = _to_grid(volume.voxels, volume, preprocessing, mode="bilinear")
    if preprocessing.intensity == "zscore":
        image = NormalizeIntensity(nonzero=True)(image)
    elif preprocessing.window is not None:
        lowest, highest = preprocessing.window
        image = ScaleIntensityRange(lowest, highest, 0.0, 1.0, clip=True)(image)
    return _to_size(image, preprocessing).float().contiguous()


def preprocess_labels(
    labels: NDArray[np.uint8], volume: Volume, preprocessing: Preprocessing
) -> "torch.Tensor":
    """uint8 (1, D, H, W) on the same grid as :func:`preprocess_image`, by nearest neighbour."""
    import torch

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
    """Between slices once they are turned, which 2D resampling leaves as it is."""
    if volume.is_projection:
        return volume.spacing_mm[0]
    axis = "RLAPSI".index(preprocessing.orientation[0]) // 2  # of RAS
    return float(volume.spacing_mm[int(np.abs(volume.affine[axis, :3]).argmax())])


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
    return Spacing(pixdim=spacing_mm, mode=mode, padding_mode="border")(tensor)


def _to_size(tensor: Any, preprocessing: Preprocessing) -> "torch.Tensor":
    """To the network's size; a volume or slice of which patches are taken, to at least that."""
    from monai.transforms.croppad.array import ResizeWithPadOrCrop, SpatialPad

    size = preprocessing.size
    if preprocessing.takes_slices:
        size = (tensor.shape[1], *size)
    change: Any = SpatialPad if preprocessing.fit == "patches" else ResizeWithPadOrCrop
    sized: Any = change(spatial_size=size)(tensor)
    plain: torch.Tensor = sized.as_tensor()
    return plain
