"""A network of numbered layers with skip connections, out of the original authors' layer JSON."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from federation.errors import ModelError
from federation.networks.layers import AXES, KINDS, LayerArguments, Sizes

MAX_ACTIVATIONS = 2**32
"""Values that all layers together give out for one example: 16 GiB of float32."""

_BATCH = 2  # of the examples that shapes are worked out with

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a layer stands: what comes in (batch first), and where it finds its sizes."""

    arguments: LayerArguments
    sizes: Sizes
    incoming: Shape

    @property
    def channels(self) -> int:
        return self.incoming[1]

    @property
    def axes(self) -> int:
        """2 for images (B, C, H, W), 1 for sequences (B, C, L), 0 for vectors (B, C)."""
        return len(self.incoming) - 2


class LayeredNetwork(nn.Module):
    """Layers one after another; what a skip connection joins comes first among the channels.

    Takes ``float32 (B, *arguments.example_shape)``. The state's names are the layers' numbers,
    counted from 0 as torch does: ``0.weight``, or ``0.3.weight`` within a double convolution.
    """

    def __init__(self, arguments: LayerArguments) -> None:
        """Raises :class:`ModelError` naming the layer where shapes do not fit, before any memory
        is taken."""
        super().__init__()
        self._joins = arguments.joins
        self._kept = {source for sources in self._joins.values() for source in sources}
        sizes = Sizes(arguments)
        for number, (code, incoming) in enumerate(
            zip(arguments.codes, _incoming_shapes(arguments), strict=True)
        ):
            place = _Place(arguments=arguments, sizes=sizes, incoming=incoming)
            self.add_module(str(number), _LAYERS[code](place))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Scores for a batch."""
        kept: dict[int, torch.Tensor] = {}
        for number, layer in enumerate(self.children(), start=1):
            values = _joined(
                layer(values), [kept[source] for source in self._joins.get(number, ())]
            )
            if number in self._kept:
                kept[number] = values
        return values


def _incoming_shapes(arguments: LayerArguments) -> list[Shape]:
    """What comes into each layer, worked out on torch's meta device, without memory."""
    sizes = Sizes(arguments)
    shapes: list[Shape] = [(_BATCH, *arguments.example_shape)]
    outputs: list[torch.Tensor] = []
    for number, code in enumerate(arguments.codes, start=1):
        place = _Place(arguments=arguments, sizes=sizes, incoming=shapes[-1])
        sources = [outputs[source - 1] for source in arguments.joins.get(number, ())]
        try:
            with torch.device("meta"):
                outputs.append(_fitted(code, place, sources))
        except ValueError as error:
            shown = "x".join(str(size) for size in place.incoming[1:])
            raise ModelError(
                f"layer {number} ({code}) cannot be built on {shown} (channels first): {error}"
            ) from error
        shapes.append(tuple(outputs[-1].shape))
        given = sum(math.prod(shape) for shape in shapes[1:]) // _BATCH
        if given > MAX_ACTIVATIONS:
            raise ModelError(
                f"the layers to number {number} would give out {given:,} values for one "
                f"example; at most {MAX_ACTIVATIONS:,} are allowed"
            )
    return shapes[:-1]


def _fitted(code: str, place: _Place, sources: list[torch.Tensor]) -> torch.Tensor:
    """What a layer gives out. Raises :class:`ValueError` with the reason where it gives nothing.

    torch's own words name its insides; they stay the error's cause.
    """
    taken = AXES.get(code, (place.axes,))
    if place.axes not in taken:
        kinds = " or ".join(f"{KINDS[axes]}s" for axes in taken)
        raise ValueError(f"it takes {kinds}, not {KINDS[place.axes]}s")
    layer = _LAYERS[code](place).eval()
    try:
        values = _joined(layer(torch.empty(place.incoming)), sources)
    except (RuntimeError, ValueError) as error:
        joined = ", or with what is joined to it" if sources else ""
        raise ValueError(f"its sizes do not fit together with that{joined}") from error
    if not all(values.shape):
        raise ValueError("nothing is left of it")
    return values


def _joined(values: torch.Tensor, sources: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([*sources, values], dim=1) if sources else values


# --- layers -------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """A recurrent layer along sequences (B, C, L), giving (B, units, L)."""

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if values.is_meta:  # step by step, torch would take hours to say this
            return values.new_empty((len(values), self.layer.hidden_size, values.shape[2]))
        sequence, _ = self.layer(values.transpose(1, 2))
        return torch.as_tensor(sequence).transpose(1, 2)


class Dense(nn.Linear):
    """A dense layer on vectors (B, C); of a sequence (B, C, L) it takes the last step."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return super().forward(values[..., -1] if values.dim() > 2 else values)


_CONVOLUTIONS: Mapping[int, type[nn.Conv1d | nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}


def _convolution(
    place: _Place, inputs: int, outputs: int, kernel: int, *, groups: int = 1, bias: bool = True
) -> nn.Module:
    arguments = place.arguments
    padding = arguments.padding.padding if kernel > 1 else arguments.padding_conv.padding_conv
    return _CONVOLUTIONS[place.axes](
        inputs,
        outputs,
        kernel,
        stride=arguments.stride.stride,
        padding=padding,
        groups=groups,
        bias=bias,
    )


def _cnn(place: _Place) -> nn.Module:
    return _convolution(place, place.channels, *place.sizes.convolved())


def _depth_separable(place: _Place) -> nn.Module:
    outputs, kernel = place.sizes.convolved()
    depthwise = _convolution(place, place.channels, place.channels, kernel, groups=place.channels)
    return nn.Sequential(depthwise, _CONVOLUTIONS[place.axes](place.channels, outputs, 1))


def _double_convolution(place: _Place) -> nn.Module:
    outputs, kernel = place.sizes.convolved()
    bias = place.arguments.bias.bias
    return nn.Sequential(
        _convolution(place, place.channels, outputs, kernel, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        _convolution(place, outputs, outputs, kernel, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _upsample(place: _Place) -> nn.Module:
    if place.arguments.upsample.upsample == "bilinear":
        mode = "bilinear" if place.axes == 2 else "linear"
        return nn.Upsample(scale_factor=2, mode=mode, align_corners=True)
    if place.channels % 2:
        raise ValueError(f"transposed, it halves the channels, and {place.channels} is odd")
    transposed = nn.ConvTranspose2d if place.axes == 2 else nn.ConvTranspose1d
    padding = place.arguments.padding_conv.padding_conv
    return transposed(place.channels, place.channels // 2, 2, stride=2, padding=padding)


def _lstm(place: _Place) -> nn.Module:
    return Recurrent(nn.LSTM(place.channels, place.sizes.units("lstm"), batch_first=True))


def _gru(place: _Place) -> nn.Module:
    return Recurrent(nn.GRU(place.channels, place.sizes.units("gru"), batch_first=True))


_LAYERS: Mapping[str, Callable[[_Place], nn.Module]] = {
    "dsc1d": _depth_separable,
    "dsc2d": _depth_separable,
    "cnn1d": _cnn,
    "cnn2d": _cnn,
    "lstm": _lstm,
    "gru": _gru,
    "Avgpool1d": lambda place: nn.AvgPool1d(place.sizes.pool()),
    "Avgpool2d": lambda place: nn.AvgPool2d(place.sizes.pool()),
    "Maxpool1d": lambda place: nn.MaxPool1d(place.sizes.pool()),
    "Maxpool2d": lambda place: nn.MaxPool2d(place.sizes.pool()),
    "Flatten": lambda _: nn.Flatten(),
    "dense": lambda place: Dense(place.channels, place.sizes.units("dense")),
    "dropout": lambda place: nn.Dropout(place.sizes.rate()),
    "batchNorm1d": lambda place: nn.BatchNorm1d(place.channels),
    "batchNorm2d": lambda place: nn.BatchNorm2d(place.channels),
    "relu": lambda _: nn.ReLU(),
    "prelu": lambda _: nn.PReLU(),
    "tanh": lambda _: nn.Tanh(),
    "softmax": lambda _: nn.Softmax(dim=1),
    "sigmoid": lambda _: nn.Sigmoid(),
    "Upsample": _upsample,
    "doubleConv": _double_convolution,
    "ElbowUNet": _double_convolution,
    "UpDoubleConv": _double_convolution,
    "UpDoubleConv_out": _double_convolution,
    "output": lambda place: Dense(place.channels, place.arguments.input_shape.label_shape),
}
