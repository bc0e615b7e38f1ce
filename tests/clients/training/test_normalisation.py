"""What becomes of batch normalisation where sites differ."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from clients.training import Segmenter, names_of_layers
from clients.training.normalisation import estimate_statistics, statistics_layers
from federation.config import TrainingTable
from federation.iodeep.architecture import Architecture
from federation.iodeep.weights import FLOATING, Tensor
from federation.networks import build_network, load_tensors, tensors_of
from server.strategies import FedAvg
from server.strategies.arithmetic import as_float64, from_float64
from tests.clients.training.examples import Case, boxes

Weights = dict[str, Tensor]


def network() -> nn.Module:
    arguments = {"out_channels": 3, "channels": [8, 16], "strides": [2], "norm": "BATCH"}
    return build_network(Architecture(network="monai.UNet", arguments=arguments), seed=0)


def trainer(weights: Weights | None = None, **settings: object) -> Segmenter:
    table = {"optimizer": {"lr": 0.02}, "batch_size": 4, "steps": 5, **settings}
    made = network()
    if weights is not None:
        load_tensors(made, weights)
    return Segmenter(made, TrainingTable.model_validate(table), labels=2, device="cpu")


def copy_of(module: nn.Module) -> Weights:
    return {
        name: Tensor(dtype=t.dtype, shape=t.shape, pieces=(memoryview(bytes(t.data)),))
        for name, t in tensors_of(module).items()
    }


def test_estimated_statistics_are_those_of_all_values():
    layer = nn.Sequential(nn.BatchNorm3d(2))
    images = [torch.randn(3, 2, 4, 5, 6) + 7, torch.randn(1, 2, 4, 5, 6) * 3]
    estimate_statistics(layer, images)
    values = torch.cat(images).double().transpose(0, 1).flatten(1)
    (norm,) = statistics_layers(layer).values()
    torch.testing.assert_close(norm.running_mean.double(), values.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        norm.running_var.double(), values.var(1, unbiased=False), rtol=1e-5, atol=1e-6
    )
    assert layer.training


def test_estimating_changes_statistics_alone():
    one = trainer()
    before = copy_of(one.network)
    one.estimate_statistics(boxes(4))
    changed = {
        name for name, t in tensors_of(one.network).items() if bytes(t.data) != before[name].data
    }
    assert {name.rpartition(".")[2] for name in changed - {"num_batches_tracked"}} <= {
        "running_mean", "running_var", "num_batches_tracked",
    }  # fmt: skip
    assert any(name.endswith("running_var") for name in changed)


def test_frozen_statistics_stay_while_weights_learn():
    one = trainer(normalisation="frozen")
    before = copy_of(one.network)
    one.fit(boxes(4), seed=1)
    after = tensors_of(one.network)
    changed = {name for name in after if bytes(after[name].data) != before[name].data}
    assert changed
    assert not [name for name in changed if "running_" in name or "tracked" in name]


def naive(updates: list[Weights]) -> Weights:
    """The mean of everything, statistics included, as most do."""
    first, *_ = updates
    return {
        name: from_float64(np.mean([as_float64(u[name]) for u in updates], axis=0), tensor.dtype)
        if tensor.dtype in FLOATING
        else tensor
        for name, tensor in first.items()
    }


def averaged(updates: list[Weights]) -> Weights:
    strategy = FedAvg(updates[0])
    for update in updates:
        strategy.add(update, 1)
    return strategy.finish()


def federate(
    sites: list[list[Case]],
    held_out: list[list[Case]],
    merge: Callable[[list[Weights]], Weights],
    *,
    local: bool = False,
) -> list[float]:
    """Dice of each site after ten rounds; ``local`` sites go on with their own layers."""
    own_names = names_of_layers(network())
    own: list[Weights] = [{}, {}]
    version = copy_of(network())
    for round in range(1, 11):
        updates = []
        for number, examples in enumerate(sites):
            one = trainer(version | own[number])
            one.fit(examples, seed=100 * round + number)
            updates.append(copy_of(one.network))
        if local:
            own = [{name: update[name] for name in own_names} for update in updates]
        version = merge(updates)
    return [
        trainer(version | own[n]).evaluate(examples).dice_mean
        for n, examples in enumerate(held_out)
    ]


def test_naive_averaging_collapses_where_sites_differ_and_local_layers_do_not():
    """The second scanner's values are three times as large, and ten higher."""

    def scanned(cases: list[Case]) -> list[Case]:
        return [Case(image=3 * case.image + 10, label=case.label) for case in cases]

    sites = [boxes(8, seed=1), scanned(boxes(8, seed=2))]
    held_out = [boxes(6, seed=3), scanned(boxes(6, seed=4))]
    assert max(federate(sites, held_out, naive)) < 0.4
    assert min(federate(sites, held_out, averaged, local=True)) > 0.85


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_pooled_variance_knows_that_sites_differ_in_mean(scale: float):
    layers = [nn.Sequential(nn.BatchNorm3d(1)) for _ in range(2)]
    images = [torch.randn(4, 1, 8, 8, 8), scale * torch.randn(4, 1, 8, 8, 8) + 6]
    for layer, image in zip(layers, images, strict=True):
        estimate_statistics(layer, [image])
    pooled = averaged([copy_of(layer) for layer in layers])
    expected = torch.cat(images).double().var(unbiased=False)
    assert as_float64(pooled["0.running_var"])[0] == pytest.approx(float(expected), rel=1e-5)
