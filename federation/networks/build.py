"""From an architecture to a module, with its size known before memory is taken for it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from torch import nn

from federation.errors import ModelError
from federation.iodeep.architecture import Architecture
from federation.iodeep.weights import Tensor
from federation.networks.allowed import NETWORKS, read_arguments
from federation.networks.arguments import NetworkArguments, VolumeArguments, keywords
from federation.networks.layered import MAX_ACTIVATIONS, LayeredNetwork
from federation.networks.layers import LayerArguments
from federation.networks.state import check_state, renamed_in_order
from federation.task import TaskName

MAX_PARAMETERS = 2**30
"""4 GiB of float32; nnU-Net's largest 3D networks have about a fortieth of it."""

_CLASSES: Mapping[str, Callable[..., nn.Module]] = {
    "monai.DenseNet": DenseNet,
    "monai.DynUNet": DynUNet,
    "monai.SegResNet": SegResNet,
    "monai.UNet": UNet,
}


_FITTING: Mapping[TaskName, str] = {
    "segmentation": "multiples of the product of its strides",
    "classification": "a larger size, or fewer blocks",
}


def build_network(architecture: Architecture, *, seed: int = 0) -> nn.Module:
    """The network of an architecture, on the CPU, with initial weights drawn from ``seed``.

    MONAI's networks map ``float32 (B, in_channels, D, H, W)`` to scores ``float32 (B,
    out_channels, D, H, W)``, or ``(B, out_channels)`` where they are for classification;
    ``iodeep.layers`` takes what its document says. The same
    architecture and seed give the same weights; torch's own random state is left as it was.

    Raises :class:`ModelError` for anything not on the allow-list, and for more than
    ``MAX_PARAMETERS`` parameters: they are counted before memory is taken.
    """
    arguments = read_arguments(architecture)
    _outline(architecture, arguments)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _construct(architecture, arguments)


def check_tensors(architecture: Architecture, tensors: Mapping[str, Tensor]) -> None:
    """Check that tensors are a whole state of the network; nothing is allocated for it.

    Raises :class:`ModelError` when the network is refused, or names, shapes and dtypes are not
    exactly those of its state.
    """
    check_state(_outline(architecture, read_arguments(architecture)), tensors)


def named_as(architecture: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names of the network's state, where they have others but the same order.

    Other software names the same layers otherwise. Taken in order, each must be of the same kind
    (the last word of its name), dtype and shape. Raises :class:`ModelError` as
    :func:`check_tensors` does.
    """
    network = _outline(architecture, read_arguments(architecture))
    renamed = renamed_in_order(network, tensors)
    check_state(network, renamed)
    return renamed


def check_task(architecture: Architecture, task: TaskName, labels: int) -> None:
    """Check that a network does a task with so many labels beside 0.

    A network in the original authors' layer JSON, which no site trains, is not looked at. Raises
    :class:`ModelError` when the network is refused, is for another task, or gives another number
    of scores.
    """
    arguments = read_arguments(architecture)
    if not isinstance(arguments, VolumeArguments):
        return
    if arguments.task != task:
        scores = {"segmentation": "each voxel", "classification": "a whole image"}
        fitting = ", ".join(
            name
            for name, kind in NETWORKS.items()
            if issubclass(kind, VolumeArguments) and kind.task == task
        )
        raise ModelError(
            f"network {architecture.network} gives scores for {scores[arguments.task]}, and task "
            f"{task!r} needs them for {scores[task]}: choose {fitting}, or task = "
            f'"{arguments.task}"'
        )
    if arguments.out_channels != labels + 1:
        raise ModelError(
            f"network {architecture.network} has out_channels = {arguments.out_channels}, and "
            f"{labels} labels need {labels + 1}: one each, and one for what is none of them"
        )


def check_volume(architecture: Architecture, size: tuple[int, ...]) -> None:
    """Check that a network takes volumes, or slices, of ``size`` voxels per axis, one at a time.

    Nothing is computed or allocated. Raises :class:`ModelError` when the network is refused, when
    it takes slices and the size is a volume's or the other way round, when the output would be of
    another size (or, of a network for classification, not one score a class), and when the layers
    would give out more than ``MAX_ACTIVATIONS`` values.
    """
    arguments = read_arguments(architecture)
    if not isinstance(arguments, VolumeArguments):
        raise ModelError(
            f"network {architecture.network} takes no volumes, which a federation trains on; "
            "choose one of MONAI's with spatial_dims = 3, or 2 for slices"
        )
    if arguments.spatial_dims != len(size):
        raise ModelError(
            f"network {architecture.network} has spatial_dims = {arguments.spatial_dims}, and the "
            f"preprocessing's size has {len(size)} axes; make them the same"
        )
    network = _outline(architecture, arguments)
    activations = 0

    def add(_module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal activations
        activations += output.numel() if isinstance(output, torch.Tensor) else 0

    for layer in network.modules():
        if not any(layer.children()):
            layer.register_forward_hook(add)
    shown = "x".join(str(voxels) for voxels in size)
    try:
        volume = torch.empty((1, arguments.in_channels, *size), device="meta")
        output_shape = tuple(network(volume).shape)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"network {architecture.network} does not take volumes of {shown} voxels; choose "
            f"{_FITTING[arguments.task]}, above one voxel at its lowest level"
        ) from error
    expected: tuple[int, ...] = (1, arguments.out_channels)
    if arguments.task == "segmentation":
        expected += tuple(size)
    if output_shape != expected:
        given = "x".join(str(voxels) for voxels in output_shape[2:])
        raise ModelError(
            f"network {architecture.network} turns volumes of {shown} voxels into {given}; "
            f"choose {_FITTING[arguments.task]}"
        )
    if activations > MAX_ACTIVATIONS:
        raise ModelError(
            f"network {architecture.network} would hold {activations:,} values for one volume "
            f"of {shown} voxels; at most {MAX_ACTIVATIONS:,} are allowed: make either smaller"
        )


def count_parameters(network: nn.Module) -> int:
    """How many numbers training may change; buffers are not counted."""
    return sum(math.prod(parameter.shape) for parameter in network.parameters())


def _construct(architecture: Architecture, arguments: NetworkArguments) -> nn.Module:
    if isinstance(arguments, LayerArguments):
        return LayeredNetwork(arguments)
    return _CLASSES[architecture.network](**keywords(arguments))


def _outline(architecture: Architecture, arguments: NetworkArguments) -> nn.Module:
    """The network on torch's meta device: layers and shapes without memory."""
    try:
        with torch.device("meta"):
            network = _construct(architecture, arguments)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(
            f"network {architecture.network} cannot be built from arguments that do not fit "
            "together, such as groups that do not divide channels"
        ) from error
    parameters = count_parameters(network)
    if parameters > MAX_PARAMETERS:
        raise ModelError(
            f"network {architecture.network} would have {parameters:,} parameters; at most "
            f"{MAX_PARAMETERS:,} are allowed: use fewer channels or levels"
        )
    return network
