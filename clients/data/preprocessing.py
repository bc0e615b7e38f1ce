"""From a volume to the network's input, through MONAI's transforms, in the declared order."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.data.volumes import Volume
from federation.iodeep.architecture import Preprocessing

if TYPE_CHECKING:
    import torch


def preprocess_image(volume: Volume, preprocessing: Preprocessing) -> "torch.Tensor":
    """float32 (1, D, H, W) of ``preprocessing.size``: turned, resampled linearly, normalised.

    Axes follow ``preprocessing.orientation``, so D is the first of its three. Padding is zero,
    after normalisation.
    """
    from monai.transforms.intensity.array import NormalizeIntensity

    image = _to_grid(volume.voxels, volume, preprocessing, mode="bilinear")
    if preprocessing.intensity == "zscore":
        image = NormalizeIntensity(nonzero=True)(image)
    return _to_size(image, preprocessing).float().contiguous()


def preprocess_labels(
    labels: NDArray[np.uint8], volume: Volume, preprocessing: Preprocessing
) -> "torch.Tensor":
    """uint8 (1, D, H, W) on the same grid as :func:`preprocess_image`, by nearest neighbour."""
    import torch

    resampled = _to_grid(labels.astype(np.float32), volume, preprocessing, mode="nearest")
    return _to_size(resampled, preprocessing).round().to(torch.uint8).contiguous()


def _to_grid(
    array: NDArray[np.float32], volume: Volume, preprocessing: Preprocessing, *, mode: str
) -> Any:  # MONAI's MetaTensor, whose module is not typed
    import torch
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms.spatial.array import Orientation, Spacing

    tensor: Any = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(array))[None], affine=torch.from_numpy(volume.affine)
    )
    turned = Orientation(axcodes=preprocessing.orientation, labels=None)(tensor)
    return Spacing(pixdim=preprocessing.spacing_mm, mode=mode, padding_mode="border")(turned)


def _to_size(tensor: Any, preprocessing: Preprocessing) -> "torch.Tensor":
    from monai.transforms.croppad.array import ResizeWithPadOrCrop

    sized: Any = ResizeWithPadOrCrop(spatial_size=preprocessing.size)(tensor)
    plain: torch.Tensor = sized.as_tensor()
    return plain
