"""Losses by name. Scores: float32 (B, K, D, H, W), K with background; label: (B, 1, D, H, W).

Of whole images, cross-entropy takes scores (B, K) and classes (B, 1).
"""

from collections.abc import Callable, Mapping

import torch
from monai.losses.dice import DiceCELoss, DiceLoss
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


class _CrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy that takes a label with a channel axis, as MONAI's losses do."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, target.squeeze(1).to(torch.int64))


_LOSSES: Mapping[str, Callable[[], Loss]] = {
    "dice_ce": lambda: DiceCELoss(include_background=False, softmax=True, to_onehot_y=True),
    "dice": lambda: DiceLoss(include_background=False, softmax=True, to_onehot_y=True),
    "ce": _CrossEntropy,
}


def build_loss(name: str) -> Loss:
    """The loss called ``name`` in ``[training]``, averaged over the batch.

    Dice (Milletari et al., *V-Net*, 2016) counts the labels and not the background, which
    would outweigh them; ``dice_ce`` adds cross-entropy over all classes, in equal parts.
    """
    return _LOSSES[name]()
