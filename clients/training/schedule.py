"""The learning rate of every step of a round, as part of one long run over all rounds."""

import math
from collections.abc import Iterator

from federation.config import TrainingTable


def steps_per_round(settings: TrainingTable, examples: int) -> int:
    """Optimiser steps of a round: so many, or those of so many epochs.

    An epoch ends with a smaller batch where the examples do not fill it.
    """
    if settings.steps is not None:
        return settings.steps
    return (settings.epochs or 1) * math.ceil(examples / settings.batch_size)


def learning_rates(
    settings: TrainingTable, examples: int, *, round: int, rounds: int
) -> Iterator[float]:
    """The learning rate of each step of ``round``, counted from 1.

    ``cosine`` falls from the optimiser's rate towards 0 over the steps of all rounds
    (Loshchilov and Hutter, *SGDR*, 2017, without restarts): rounds continue each other, as if
    the site trained alone for as long.
    """
    steps = steps_per_round(settings, examples)
    for step in range((round - 1) * steps, round * steps):
        yield settings.optimizer.lr * _factor(settings, step / (rounds * steps))


def _factor(settings: TrainingTable, progress: float) -> float:
    if settings.schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * progress))
