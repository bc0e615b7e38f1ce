"""What of an example a network takes at once: all of it, one of its slices, or patches."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from monai.inferers.inferer import SlidingWindowInferer
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld, RandSpatialCropd
from torch import Tensor

from federation.iodeep.architecture import Preprocessing

_OVERLAP = 0.25  # of neighbouring windows, which are weighted by a Gaussian (Isensee et al., 2021)
_SLICES_AT_ONCE = 16


class Example(Protocol):
    """A preprocessed case. image: float32 (1, D, H, W); label: uint8 (1, D, H, W), or the image's
    class, uint8 (1,)."""

    @property
    def image(self) -> Tensor: ...

    @property
    def label(self) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """What one example of a training batch is made of: an example, or one of its slices."""

    example: int
    slice: int | None


class Pieces:
    """How ``preprocessing`` has a network take examples; without one, each as it is."""

    def __init__(self, preprocessing: Preprocessing | None) -> None:
        self.dims = 2 if preprocessing is not None and preprocessing.takes_slices else 3
        self._patch = (
            preprocessing.size
            if preprocessing is not None and preprocessing.fit == "patches"
            else None
        )

    def of(self, examples: Sequence[Example]) -> list[Piece]:
        """All there is to train on, in the examples' order."""
        if self.dims == 3:
            return [Piece(index, None) for index in range(len(examples))]
        return [
            Piece(index, depth)
            for index, example in enumerate(examples)
            for depth in range(example.image.shape[1])
        ]

    def cutter(self, *, seed: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Takes a patch at random of an image and its label, where there are labels as often about
        one as not. Where the network takes all of them, it leaves them alone.
        """
        if self._patch is None:
            return lambda image, label: (image, label)
        both = ("image", "label")
        balanced = RandCropByPosNegLabeld(
            both, label_key="label", spatial_size=self._patch, num_samples=1
        )
        anywhere = RandSpatialCropd(both, roi_size=self._patch, random_size=False)
        balanced.set_random_state(seed)
        anywhere.set_random_state(seed)

        def cut(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
            whole: dict[Hashable, Tensor] = {"image": image, "label": label}
            patch = balanced(whole)[0] if label.any() else anywhere(whole)
            return _plain(patch["image"]), _plain(patch["label"])

        return cut

    def scores(self, network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """What a network makes of a whole image: (1, D, H, W) → (1, K, D, H, W), on the CPU."""
        if self.dims == 3:
            return self._run(network, image[None]).cpu()
        slices = image.transpose(0, 1)  # (D, 1, H, W)
        scores = [
            self._run(network, slices[first : first + _SLICES_AT_ONCE]).cpu()
            for first in range(0, len(slices), _SLICES_AT_ONCE)
        ]
        return torch.cat(scores).transpose(0, 1)[None]

    def class_scores(self, network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """What a network makes of an image as a whole: (1, D, H, W), of slices a single one, to
        scores (1, K) on the CPU."""
        return network(image[None] if self.dims == 3 else image.transpose(0, 1)).cpu()

    def _run(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        if self._patch is None:
            return network(images)
        window = SlidingWindowInferer(
            roi_size=self._patch, sw_batch_size=4, overlap=_OVERLAP, mode="gaussian"
        )
        return cast(Tensor, window(images, network))


def cut_out(examples: Sequence[Example], piece: Piece) -> tuple[Tensor, Tensor]:
    """Image and label of a piece: (1, D, H, W), or (1, H, W) of a slice; a class stays (1,)."""
    example = examples[piece.example]
    if piece.slice is None:
        return example.image, example.label
    of_whole_image = example.label.ndim == 1
    label = example.label if of_whole_image else example.label[:, piece.slice]
    return example.image[:, piece.slice], label


def _plain(cut: Tensor) -> Tensor:
    return cut.as_subclass(torch.Tensor)
