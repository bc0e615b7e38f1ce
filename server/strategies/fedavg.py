"""Federated averaging (McMahan et al. 2017, arXiv:1602.05629)."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from federation.errors import RoundError
from federation.iodeep.weights import FLOATING, Tensor
from server.strategies.arithmetic import as_float64, from_float64


class FedAvg:
    """The mean of the sites' weights, weighted by their numbers of examples.

    Accumulates in float64, one update at a time, so that memory does not grow with the
    number of sites. Tensors that are not floating (counters) keep the start's values.
    """

    def __init__(self, start: Mapping[str, Tensor]) -> None:
        self._start = start
        self._sums: dict[str, NDArray[np.float64]] = {
            name: np.zeros(tensor.shape)
            for name, tensor in start.items()
            if tensor.dtype in FLOATING
        }
        self._examples = 0

    def add(self, update: Mapping[str, Tensor], examples: int) -> None:
        for name, total in self._sums.items():
            total += examples * as_float64(update[name])
        self._examples += examples

    def finish(self) -> dict[str, Tensor]:
        if self._examples == 0:
            raise RoundError("no update was accepted, so there is nothing to average")
        averaged = {
            name: from_float64(total / self._examples, self._start[name].dtype)
            for name, total in self._sums.items()
        }
        return {name: averaged.get(name, tensor) for name, tensor in self._start.items()}
