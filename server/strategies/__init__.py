"""One algorithm a file. A strategy folds updates in as they come and ends in the next weights."""

from collections.abc import Mapping
from typing import Protocol

from federation.config import StrategyTable
from federation.iodeep.weights import Tensor
from server.strategies.fedavg import FedAvg

__all__ = ["FedAvg", "Strategy", "build_strategy"]


class Strategy(Protocol):
    """The aggregation of one round. Updates come in roster order, one at a time."""

    def add(self, update: Mapping[str, Tensor], examples: int) -> None:
        """Fold in one site's trained weights, which were checked against the start's."""

    def finish(self) -> dict[str, Tensor]:
        """The next version's weights. Raises RoundError where nothing was added."""


def build_strategy(settings: StrategyTable, start: Mapping[str, Tensor]) -> Strategy:
    """The strategy that an experiment names, for a round that starts from ``start``."""
    match settings.name:
        case "fedavg" | "centralised" | "local":  # the mean of one update is that update
            return FedAvg(start)
