"""The original authors' layer JSON ("DNN parser"): the document, checked; sizes in order of use.

Contino, Cruciata, Gambino, Pirrone, *IODeep*, 2024. ``architecture`` numbers the layers from "1"
and names each by a code; the n-th layer with channels to choose takes ``convolutional.cn<n>``, the
n-th that convolves ``kernel.kernel<n>``, the n-th that pools ``pooling.pool<n>``. The authors do
not say where dense and recurrent layers find their units: here it is ``dense.dense<n>``,
``lstm.lstm<n>``, ``gru.gru<n>``, and where such a section is absent, the next of ``convolutional``.
``dropout.dropout<n>`` is a rate, 0.5 unless given. ``upsample`` and ``bias`` say what their
documents leave open.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from federation.networks.arguments import NetworkArguments
from federation.values import Value

MAX_LAYERS = 256

Code = Literal[
    "dsc1d", "dsc2d", "cnn1d", "cnn2d", "lstm", "gru", "Avgpool1d", "Avgpool2d", "Maxpool1d",
    "Maxpool2d", "Flatten", "dense", "dropout", "batchNorm1d", "batchNorm2d", "relu", "prelu",
    "tanh", "softmax", "sigmoid", "Upsample", "doubleConv", "ElbowUNet", "UpDoubleConv",
    "UpDoubleConv_out", "output",
]  # fmt: skip

AXES: Mapping[str, tuple[int, ...]] = {
    "dsc1d": (1,),
    "dsc2d": (2,),
    "cnn1d": (1,),
    "cnn2d": (2,),
    "lstm": (1,),
    "gru": (1,),
    "Avgpool1d": (1,),
    "Avgpool2d": (2,),
    "Maxpool1d": (1,),
    "Maxpool2d": (2,),
    "dense": (0, 1),
    "batchNorm1d": (0, 1),
    "batchNorm2d": (2,),
    "Upsample": (1, 2),
    "doubleConv": (2,),
    "ElbowUNet": (2,),
    "UpDoubleConv": (2,),
    "UpDoubleConv_out": (2,),
    "output": (0, 1),
}
"""What a layer takes, by its axes besides batch and channels; what is not here takes anything."""

KINDS = ("vector", "sequence", "image")  # by axes: (B, C), (B, C, L), (B, C, H, W)

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,32}$")]
Size = Annotated[int, Field(ge=0, le=4096)]
Width = Annotated[int, Field(ge=1, le=4096)]
KernelSize = Annotated[int, Field(ge=1, le=31)]
PoolSize = Annotated[int, Field(ge=1, le=16)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Number = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}$")]


def _spelled(code: object) -> object:
    return "ElbowUNet" if code == "ElbowUnet" else code


def _as_text(number: object) -> object:
    return str(number) if type(number) is int else number


class _Section(Value):
    model_config = ConfigDict(strict=True)


class InputShape(_Section):
    """Sizes of one example in the order of ``data_format``; one of 0 or 1 may be left over."""

    input_shape0: Size
    input_shape1: Size | None = None
    input_shape2: Size | None = None
    label_shape: Width = 1


class Stride(_Section):
    stride: Annotated[int, Field(ge=1, le=8)] = 1


class Padding(_Section):
    padding: Annotated[int, Field(ge=0, le=15)] = 0


class PaddingConv(_Section):
    padding_conv: Annotated[int, Field(ge=0, le=15)] = 0


class DataFormat(_Section):
    data_format: Literal["channels_last", "channels_first"] = "channels_last"


class Backend(_Section):
    backend: Literal["pytorch", "tensorflow"] = "pytorch"


class Upsampling(_Section):
    upsample: Literal["bilinear", "transposed"] = "bilinear"


class Bias(_Section):
    bias: bool = True


class LayerArguments(NetworkArguments):
    """``iodeep.layers``: a network as the original authors' document writes it.

    padding:         of convolutions; ``padding_conv`` of 1x1 and transposed ones
    skip_connection: number of a layer → number of a later one, to whose output its own is joined
    data_format:     in which order ``input_shape`` is given; the network itself takes tensors
                     ``float32 (B, C, H, W)``, ``(B, C, L)`` or ``(B, C)``
    backend:         what the authors ran it with; no other network follows from it
    upsample:        how ``Upsample`` doubles: ``bilinear``, or ``transposed``, a convolution that
                     halves the channels
    bias:            whether the convolutions of the double ones have biases
    """

    input_shape: InputShape
    architecture: Annotated[
        dict[Number, Annotated[Code, BeforeValidator(_spelled)]],
        Field(min_length=1, max_length=MAX_LAYERS),
    ]
    convolutional: dict[Key, Width] = {}
    kernel: dict[Key, KernelSize] = {}
    pooling: dict[Key, PoolSize] = {}
    dense: dict[Key, Width] = {}
    lstm: dict[Key, Width] = {}
    gru: dict[Key, Width] = {}
    dropout: dict[Key, Rate] = {}
    stride: Stride = Stride()
    padding: Padding = Padding()
    padding_conv: PaddingConv = PaddingConv()
    skip_connection: dict[Number, Annotated[Number, BeforeValidator(_as_text)]] = {}
    data_format: DataFormat = DataFormat()
    backend: Backend = Backend()
    upsample: Upsampling = Upsampling()
    bias: Bias = Bias()

    @model_validator(mode="after")
    def _check(self) -> Self:
        numbers = sorted(map(int, self.architecture))
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"the layers are not numbered from 1 to {len(numbers)} without gaps")
        for source, target in self.skip_connection.items():
            for number in (source, target):
                if number not in self.architecture:
                    raise ValueError(f"skip connection {source} to {target}: no layer {number}")
            if int(source) >= int(target):
                raise ValueError(
                    f"skip connection {source} to {target} does not lead to a later layer"
                )
        _ = self.example_shape  # raises where there is none
        return self

    @property
    def codes(self) -> list[str]:
        """The layers' codes in order."""
        return [self.architecture[str(number + 1)] for number in range(len(self.architecture))]

    @property
    def joins(self) -> Mapping[int, tuple[int, ...]]:
        """Which layers' outputs are joined to the output of which, all numbered from 1."""
        found: dict[int, tuple[int, ...]] = {}
        for source, target in sorted(self.skip_connection.items(), key=lambda pair: int(pair[0])):
            found[int(target)] = (*found.get(int(target), ()), int(source))
        return found

    @property
    def example_shape(self) -> tuple[int, ...]:
        """One example without the batch, channels first: (C, H, W), (C, L) or (C,)."""
        shape = self.input_shape
        given = (shape.input_shape0, shape.input_shape1, shape.input_shape2)
        sizes = [size for size in given if size is not None]
        axes = self._axes_taken(sum(size > 0 for size in sizes) - 1)
        while len(sizes) > axes + 1:
            spare = [size for size in (0, 1) if size in sizes]
            if not spare:
                raise ValueError(
                    f"input_shape has {len(sizes)} sizes; the first layers take one {KINDS[axes]}, "
                    f"which has {axes + 1}"
                )
            del sizes[len(sizes) - 1 - sizes[::-1].index(spare[0])]
        if len(sizes) <= axes or min(sizes) < 1:
            raise ValueError(f"input_shape is no {KINDS[axes]}: expected {axes + 1} sizes above 0")
        if self.data_format.data_format == "channels_last":
            sizes = [sizes[-1], *sizes[:-1]]
        return tuple(sizes)

    def _axes_taken(self, given: int) -> int:
        """The axes that the first layer asks for which is not content with anything.

        Layers after Flatten say nothing of the input; ``given`` decides what they leave open.
        """
        until = self.codes.index("Flatten") if "Flatten" in self.codes else len(self.codes)
        asked = [AXES[code] for code in self.codes[:until] if code in AXES]
        if not asked:
            return max(given, 0)
        return given if given in asked[0] else asked[0][0]


class Sizes:
    """Hands out a document's sizes in the order in which layers ask for them."""

    def __init__(self, arguments: LayerArguments) -> None:
        self._arguments = arguments
        self._asked: dict[str, int] = {}

    def convolved(self) -> tuple[int, int]:
        """Output channels and kernel of the next layer that convolves."""
        return self._next("convolutional", "cn"), self._next("kernel", "kernel")

    def pool(self) -> int:
        return self._next("pooling", "pool")

    def units(self, section: Literal["dense", "lstm", "gru"]) -> int:
        """Units of the next such layer. Raises :class:`ValueError` as all of these do."""
        if getattr(self._arguments, section):
            return self._next(section, section)
        return self._next("convolutional", "cn")

    def rate(self) -> float:
        rate: float = self._arguments.dropout.get(f"dropout{self._count('dropout')}", 0.5)
        return rate

    def _next(self, section: str, prefix: str) -> int:
        key = f"{prefix}{self._count(section)}"
        sizes: Mapping[str, int] = getattr(self._arguments, section)
        if key not in sizes:
            raise ValueError(f"{section}.{key} is missing")
        return sizes[key]

    def _count(self, section: str) -> int:
        self._asked[section] = self._asked.get(section, 0) + 1
        return self._asked[section]


def readings(document: Mapping[str, JsonValue]) -> Iterator[dict[str, JsonValue]]:
    """A document with every choice that it leaves open: first as it stands, then with others."""
    choices: dict[str, tuple[JsonValue, ...]] = {
        "upsample": ({"upsample": "bilinear"}, {"upsample": "transposed"}),
        "bias": ({"bias": True}, {"bias": False}),
    }
    open_ones = [name for name in choices if name not in document]
    for number, chosen in enumerate(product(*(choices[name] for name in open_ones))):
        yield {**document, **(dict(zip(open_ones, chosen, strict=True)) if number else {})}
