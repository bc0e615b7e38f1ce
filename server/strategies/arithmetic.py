"""What may enter an aggregate, and the numbers it is made of."""

import math
from collections.abc import Mapping

import numpy as np

from federation.errors import UpdateError
from federation.iodeep.numbers import as_float64, from_float64
from federation.iodeep.weights import FLOATING, Tensor

__all__ = ["as_float64", "check_update", "from_float64"]


def check_update(
    update: Mapping[str, Tensor], start: Mapping[str, Tensor], max_ratio: float
) -> float:
    """Whether an update may enter an aggregate; returns the L2 norm of its change.

    Raises :class:`UpdateError` for other names, dtypes or shapes than the start's, for values
    that are not finite, and for a change whose norm is over ``max_ratio`` times the start's (or 1).
    """
    if update.keys() != start.keys():
        missing, extra = start.keys() - update.keys(), update.keys() - start.keys()
        raise UpdateError(f"{len(missing)} tensors are missing and {len(extra)} are unknown")
    change = base = 0.0
    for name, before in start.items():
        after = update[name]
        if (after.dtype, after.shape) != (before.dtype, before.shape):
            raise UpdateError(f"tensor {name!r:.80} is {after!r}; expected {before!r}")
        if before.dtype not in FLOATING:
            continue
        old, new = as_float64(before), as_float64(after)
        if not np.isfinite(new).all():
            raise UpdateError(f"tensor {name!r:.80} holds values that are not finite")
        change += float(np.sum((new - old) ** 2))
        base += float(np.sum(old**2))
    if change > max_ratio**2 * max(base, 1.0):  # a start near zero says nothing about scale
        raise UpdateError(
            f"its change has norm {math.sqrt(change):.3g}, over {max_ratio:g} times the "
            f"{math.sqrt(base):.3g} of the version it started from"
        )
    return math.sqrt(change)
