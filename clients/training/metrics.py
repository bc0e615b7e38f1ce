"""Dice per label and case; accuracy and AUC of classes; and what a site reports of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from monai.metrics.meandice import compute_dice
from monai.metrics.rocauc import compute_roc_auc
from monai.networks.utils import one_hot
from torch import Tensor


class Measurement(Protocol):
    """A network on labelled cases, whatever its task."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """By the keys of :mod:`federation.task`, and ``loss``; NaN for what no case tells."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A segmentation on labelled cases.

    dice:      per label 1, 2 …, the mean over those cases whose truth has the label; NaN for
               a label that no case has, or too few
    dice_mean: the mean of ``dice`` over the other labels; NaN when there are none
    loss:      of the training, mean over cases
    """

    cases: int
    dice: tuple[float, ...]
    dice_mean: float
    loss: float

    @property
    def metrics(self) -> Mapping[str, float]:
        per_label = {f"dice_{number}": dice for number, dice in enumerate(self.dice, start=1)}
        return {"dice_mean": self.dice_mean, **per_label, "loss": self.loss}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassEvaluation:
    """A classification on labelled cases.

    accuracy: the fraction whose most likely class is the true one
    auc:      the mean of the areas under the ROC curve of every class that occurs against all
              others; NaN where only one class occurs
    of_class: this area of each class 1, 2 …; NaN for a class that no case has, or all have, or
              too few on either side; such an area is not in the mean either
    loss:     of the training, mean over cases
    """

    cases: int
    accuracy: float
    auc: float
    of_class: tuple[float, ...]
    loss: float

    @property
    def metrics(self) -> Mapping[str, float]:
        per_class = {f"auc_{number}": auc for number, auc in enumerate(self.of_class, start=1)}
        return {"auc": self.auc, "accuracy": self.accuracy, **per_class, "loss": self.loss}


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


def summarise(
    dice: Sequence[tuple[float, ...]], losses: Sequence[float], *, least: int = 1
) -> Evaluation:
    """The evaluation of at least one case, from the Dice per label and the loss of each.

    least: a label that fewer cases have has no mean
    """
    per_label = tuple(mean_present(values, least=least) for values in zip(*dice, strict=True))
    return Evaluation(
        cases=len(dice),
        dice=per_label,
        dice_mean=mean_present(per_label),
        loss=math.fsum(losses) / len(losses),
    )


def classification(
    probabilities: Tensor, truth: Tensor, losses: Sequence[float], *, least: int = 1
) -> ClassEvaluation:
    """The evaluation of at least one case: probabilities float32 (B, K), true classes int64 (B,).

    least: a class that fewer cases have, or have not, has no area

    Each class counts alike, however many cases it has.
    """
    classes = probabilities.shape[1]
    per_class = [math.nan] * classes
    present = sorted(set(truth.tolist()))
    if len(present) > 1:
        truth_BK = torch.nn.functional.one_hot(truth, classes)
        for number in present:
            having = int(truth_BK[:, number].sum())
            if min(having, len(truth) - having) < least:
                continue
            auc = compute_roc_auc(probabilities[:, number], truth_BK[:, number])
            per_class[number] = float(auc)  # type: ignore[arg-type]  # one number for one class
    hits = int((probabilities.argmax(dim=1) == truth).sum())
    return ClassEvaluation(
        cases=len(truth),
        accuracy=hits / len(truth),
        auc=mean_present(per_class),
        of_class=tuple(per_class[1:]),
        loss=math.fsum(losses) / len(losses),
    )


def mean_present(values: Sequence[float], *, least: int = 1) -> float:
    """The mean of those that are not NaN; NaN where they are fewer than ``least``."""
    present = [value for value in values if not math.isnan(value)]
    return math.fsum(present) / len(present) if len(present) >= least else math.nan
