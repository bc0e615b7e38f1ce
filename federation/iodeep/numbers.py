"""Tensors as numbers: float64 arrays and back, and how far apart two sets of weights are."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def norm_of_change(update: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """The L2 norm of the change of all floating tensors; not finite where one of them is not.

    Both have the same names, dtypes and shapes.
    """
    change = 0.0
    with np.errstate(all="ignore"):
        for name, before in start.items():
            if before.dtype in FLOATING:
                change += float(np.sum((as_float64(update[name]) - as_float64(before)) ** 2))
    return math.sqrt(change)
