"""Federated averaging (McMahan et al. 2017, arXiv:1602.05629)."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from federation.errors import RoundError
from federation.iodeep.statistics import mean_of
from federation.iodeep.weights import FLOATING, Tensor
from server.strategies.arithmetic import as_float64, from_float64


class FedAvg:
    """The mean of the sites' weights, weighted by their numbers of examples.

    Statistics that batch normalisation keeps are pooled: the variance over all sites' values is
    the mean of their variances and the variance of their means, so that sites with other
    intensities do not end in a network that underestimates what it will meet.

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
            total += examples * self._moment(name, update)
        self._examples += examples

    def _moment(self, name: str, update: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """What is summed: a tensor's values, and for a variance the second moment."""
        values = as_float64(update[name])
        mean = mean_of(name)
        if mean is None or mean not in self._sums:
            return values
        return values + as_float64(update[mean]) ** 2

    def finish(self) -> dict[str, Tensor]:
        if self._examples == 0:
            raise RoundError("no update was accepted, so there is nothing to average")
        means = {name: total / self._examples for name, total in self._sums.items()}
        for name in means:
            mean = mean_of(name)
            if mean is not None and mean in means:
                means[name] = np.maximum(means[name] - means[mean] ** 2, 0.0)
        averaged = {
            name: from_float64(values, self._start[name].dtype) for name, values in means.items()
        }
        return {name: averaged.get(name, tensor) for name, tensor in self._start.items()}
