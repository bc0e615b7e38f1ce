"""The original authors' layer JSON ("DNN parser"): the document, checked; sizes in order of use.

Contino, Cruciata, Gambino, Pirrone, *IODeep*, 2024. ``architecture`` numbers the layers from "1"
and names each by a code; the n-th layer that convolves takes ``convolutional.cn<n>`` and
``kernel.kernel<n>``, the n-th that pools ``pooling.pool<n>``. The authors do not say where dense
and recurrent layers find theirs: here it is ``dense.dense<n>``, ``lstm.lstm<n>``, ``gru.gru<n>``,
and where such a section is absent, the next of ``convolutional``; ``dropout.dropout<n>`` is a rate,
0.5 unless given. ``upsample`` and ``bias`` say what their documents leave open.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from federation.networks.arguments import NetworkArguments
from federation.values import Value

MAX_LAYERS = 256

_SEQUENCE_CODES = frozenset(
    {"dsc1d", "cnn1d", "lstm", "gru", "Avgpool1d", "Maxpool1d", "batchNorm1d"}
)
_VECTOR_CODES = frozenset({"dense", "output"})
_AXES = {"image": 2, "sequence": 1, "vector": 0}

Code = Literal[
    "dsc1d", "dsc2d", "cnn1d", "cnn2d", "lstm", "gru", "Avgpool1d", "Avgpool2d", "Maxpool1d",
    "Maxpool2d", "Flatten", "dense", "dropout", "batchNorm1d", "batchNorm2d", "relu", "prelu",
    "tanh", "softmax", "sigmoid", "Upsample", "doubleConv", "ElbowUNet", "UpDoubleConv",
    "UpDoubleConv_out", "output",
]  # fmt: skip

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
    convolutional: dict[str, Width] = {}
    kernel: dict[str, KernelSize] = {}
    pooling: dict[str, PoolSize] = {}
    dense: dict[str, Width] = {}
    lstm: dict[str, Width] = {}
    gru: dict[str, Width] = {}
    dropout: dict[str, Rate] = {}
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
        _ = self.example_shape
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
        kind = self._kind()
        axes = _AXES[kind] + 1
        while len(sizes) > axes:
            spare = [index for index, size in enumerate(sizes) if size <= 1]
            if not spare:
                raise ValueError(
                    f"input_shape has {len(sizes)} sizes, but the first layers take a {kind}, "
                    f"which has {axes}"
                )
            del sizes[spare[-1]]
        if len(sizes) < axes or min(sizes) < 1:
            raise ValueError(
                f"input_shape is no shape of a {kind}: expected {axes} sizes, 1 or more"
            )
        if self.data_format.data_format == "channels_last":
            sizes = [sizes[-1], *sizes[:-1]]
        return tuple(sizes)

    def _kind(self) -> str:
        """What the first layer that says so takes; those after Flatten say nothing of the input."""
        for code in self.codes:
            if code == "Flatten":
                break
            if code in _SEQUENCE_CODES:
                return "sequence"
            if code in _VECTOR_CODES:
                return "vector"
            if code.endswith("2d") or "Conv" in code or code.startswith(("Elbow", "Upsample")):
                return "image"
        return "image"


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
    """A document as it stands, then with each choice that it leaves open."""
    yield dict(document)
    for upsample in get_args(Upsampling.model_fields["upsample"].annotation):
        for bias in (True, False):
            choice = {"upsample": {"upsample": upsample}, "bias": {"bias": bias}}
            if not choice.keys() & document.keys():
                yield {**document, **choice}
