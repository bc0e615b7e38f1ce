"""Random changes of training examples, drawn from one seed."""

import math

import torch
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandAffined, RandFlipd
from monai.transforms.transform import Transform
from torch import Tensor

from federation.config import Augmentation


class RandomChanges:
    """The changes that ``[training.augmentation]`` asks for, applied to examples in turn.

    The same settings and seed give the same sequence of changes, bit for bit. Image and
    label move together; labels are resampled by the nearest neighbour, and what moves in from
    outside is 0.
    """

    def __init__(
        self, settings: Augmentation, *, seed: int, dims: int = 3, is_drawn: bool = True
    ) -> None:
        """``dims`` is 2 for slices; ``is_drawn`` says whether a label moves with its image, as
        one of the whole image does not."""
        self._transform = Compose(_transforms(settings, dims, is_drawn=is_drawn))
        self._transform.set_random_state(seed)

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Image float32 and label uint8, both (1, D, H, W) or (1, H, W): changed copies. A label
        that is not drawn is of any shape."""
        changed = self._transform({"image": image, "label": label})
        return _plain(changed["image"], image), _plain(changed["label"], label)


def _transforms(settings: Augmentation, dims: int, *, is_drawn: bool) -> list[Transform]:
    moving = ("image", "label") if is_drawn else ("image",)
    probability = settings.probability
    transforms: list[Transform] = []
    if settings.rotate_degrees or settings.scale or settings.translate:
        transforms.append(
            RandAffined(
                moving,
                prob=probability,
                rotate_range=[math.radians(settings.rotate_degrees)] * (3 if dims == 3 else 1),
                scale_range=[settings.scale] * dims,
                translate_range=[settings.translate] * dims,
                mode=["bilinear", "nearest"][: len(moving)],
                padding_mode="zeros",
            )
        )
    for axis in settings.flip:
        transforms.append(RandFlipd(moving, prob=probability, spatial_axis=axis))
    if settings.noise:
        transforms.append(RandGaussianNoised("image", prob=probability, std=settings.noise))
    if settings.intensity:
        transforms.append(
            RandScaleIntensityd("image", prob=probability, factors=settings.intensity)
        )
        transforms.append(
            RandShiftIntensityd("image", prob=probability, offsets=settings.intensity)
        )
    return transforms


def _plain(changed: Tensor, original: Tensor) -> Tensor:
    """Without MONAI's metadata, and in the original's dtype (resampling gives floats)."""
    return changed.as_subclass(torch.Tensor).to(original.dtype)
