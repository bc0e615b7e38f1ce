"""Tensors as float64 arrays and back, for sums that do not depend on their order's luck."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import UpdateError
from federation.iodeep.weights import FLOATING, Tensor

_NUMPY: Mapping[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}


def as_float64(tensor: Tensor) -> NDArray[np.float64]:
    """A floating tensor's values, in its shape."""
    if tensor.dtype == "BF16":  # the upper half of a float32
        halves = np.frombuffer(tensor.data, dtype="<u2").astype(np.uint32)
        values = (halves << 16).view(np.float32)
    else:
        values = np.frombuffer(tensor.data, dtype=_NUMPY[tensor.dtype])
    return values.astype(np.float64).reshape(tensor.shape)


def from_float64(values: NDArray[np.float64], dtype: str) -> Tensor:
    """Values as a tensor of ``dtype``, rounded to nearest, ties to even."""
    if dtype == "BF16":
        bits = values.astype(np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        data = np.ascontiguousarray(rounded.astype("<u2"))
    else:
        data = np.ascontiguousarray(values, dtype=_NUMPY[dtype])
    return Tensor(dtype=dtype, shape=values.shape, pieces=(memoryview(data.tobytes()),))


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
