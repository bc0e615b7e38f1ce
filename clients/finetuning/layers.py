"""Which layers of a network are trained."""

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from federation.errors import ModelError

_NORMALISATION = (_NormBase, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


def train_only(network: nn.Module, layers: Literal["all", "head", "normalisation"]) -> int:
    """Let these layers learn and no others; how many parameters they have.

    The head is the last layer with parameters, in the order in which the network has them. Raises
    :class:`ModelError` where there is nothing to train.
    """
    own = {
        name: module
        for name, module in network.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    }
    match layers:
        case "all":
            chosen = list(own.values())
        case "head":
            chosen = list(own.values())[-1:]
        case "normalisation":
            chosen = [module for module in own.values() if isinstance(module, _NORMALISATION)]
    learning = {id(parameter) for module in chosen for parameter in module.parameters()}
    count = 0
    for parameter in network.parameters():
        parameter.requires_grad = id(parameter) in learning
        count += parameter.numel() if parameter.requires_grad else 0
    if not count:
        raise ModelError(
            f'layers = "{layers}" leaves nothing to train: the network has no such layer with '
            'parameters; use "all" or "head"'
        )
    return count
