"""Batch normalisation in a federation: what becomes of the statistics that it keeps.

Each site's batches have statistics of their own, which training moves along; the average of
networks has statistics that no site has seen (Li et al., *FedBN*, 2021, arXiv:2102.07623).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def statistics_layers(network: nn.Module) -> dict[str, _BatchNorm]:
    """The layers that keep a running mean and variance, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def names_of_layers(network: nn.Module) -> set[str]:
    """The names of all tensors of these layers, their own weights included."""
    return {
        f"{layer}.{name}".lstrip(".")
        for layer, module in statistics_layers(network).items()
        for name in module.state_dict()
    }


def freeze_statistics(network: nn.Module) -> None:
    """Normalise by the kept statistics while training too, and leave them as they are."""
    for module in statistics_layers(network).values():
        module.eval()


def estimate_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every such layer the mean and variance of what it really gets.

    batches: images (B, C, D, H, W) on the network's device; every layer before normalises each
             batch by itself, as in training (Wu and Johnson, *Rethinking "Batch" in BatchNorm*,
             2021, arXiv:2105.07576), while dropout is off

    Means and (biased) variances are those over all voxels of all batches, summed in float64.
    """
    layers = statistics_layers(network)
    training = network.training
    network.eval()
    for module in layers.values():
        module.train()
    with torch.inference_mode(), _summed(layers) as sums:
        for batch in batches:
            network(batch)
    network.train(training)
    for name, module in layers.items():
        assert module.running_mean is not None
        assert module.running_var is not None
        count, total, squares = sums[name]
        mean = total / count
        module.running_mean.copy_(mean)
        module.running_var.copy_((squares / count - mean**2).clamp(min=0))


@contextmanager
def _summed(layers: dict[str, _BatchNorm]) -> Iterator[dict[str, list[Any]]]:
    """While open: for each layer, values per channel, their sum, the sum of their squares."""
    sums: dict[str, list[Any]] = {name: [0, 0.0, 0.0] for name in layers}

    def hook(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values_CN = inputs[0].double().transpose(0, 1).flatten(1)
            sums[name][0] += values_CN.shape[1]
            sums[name][1] += values_CN.sum(dim=1)
            sums[name][2] += (values_CN**2).sum(dim=1)

        return add

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in layers.items()]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()
