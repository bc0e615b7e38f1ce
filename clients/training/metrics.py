"""Dice per label and case, and what a site reports of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from monai.metrics.meandice import compute_dice
from monai.networks.utils import one_hot
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A network on labelled cases.

    dice:      per label 1, 2 …, the mean over those cases whose truth has the label; NaN for
               a label that no case has
    dice_mean: the mean of ``dice`` over the labels that occur; NaN when none does
    loss:      of the training, mean over cases
    """

    cases: int
    dice: tuple[float, ...]
    dice_mean: float
    loss: float


def dice_per_label(prediction: Tensor, truth: Tensor, *, labels: int) -> tuple[float, ...]:
    """Dice (1945) of labels 1 … ``labels`` in one case; both integer ``(1, D, H, W)``.

    NaN for a label absent from the truth: neither finding nor missing it says anything then.
    """
    classes = labels + 1
    dice_BK = compute_dice(
        one_hot(prediction[None], classes),
        one_hot(truth[None], classes),
        include_background=False,
        ignore_empty=True,
    )
    return tuple(float(value) for value in dice_BK[0])


def summarise(dice: Sequence[tuple[float, ...]], losses: Sequence[float]) -> Evaluation:
    """The evaluation of at least one case, from the Dice per label and the loss of each."""
    per_label = tuple(_mean_present(values) for values in zip(*dice, strict=True))
    return Evaluation(
        cases=len(dice),
        dice=per_label,
        dice_mean=_mean_present(per_label),
        loss=math.fsum(losses) / len(losses),
    )


def _mean_present(values: Sequence[float]) -> float:
    present = [value for value in values if not math.isnan(value)]
    return math.fsum(present) / len(present) if present else math.nan
