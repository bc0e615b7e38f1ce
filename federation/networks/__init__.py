"""Networks: from an architecture, which is data, to a module, and its weights to and fro."""

from federation.networks.build import (
    build_network,
    check_task,
    check_tensors,
    check_volume,
    count_parameters,
    named_as,
)
from federation.networks.state import load_tensors, tensors_of

__all__ = [
    "build_network",
    "check_task",
    "check_tensors",
    "check_volume",
    "count_parameters",
    "load_tensors",
    "named_as",
    "tensors_of",
]
