"""The original authors' layer JSON: every code's shapes, and what is refused before building."""

import time
from contextlib import suppress
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.errors import ModelError
from federation.iodeep.architecture import Architecture
from federation.networks import build_network, count_parameters, tensors_of
from federation.networks.layers import MAX_LAYERS, Code
from tests.federation.networks.documents import UNET, document

IMAGE = {"input_shape0": 16, "input_shape1": 12, "input_shape2": 3}
SEQUENCE = {"input_shape0": 20, "input_shape1": 5}
ONE_CONVOLUTION: dict[str, Any] = {
    "convolutional": {"cn1": 8},
    "kernel": {"kernel1": 3},
    "padding": {"padding": 1},
}

# layers, input shape as the document gives it, other sections, one example out
CODES = [
    (["cnn2d"], IMAGE, ONE_CONVOLUTION, (8, 16, 12)),
    (["cnn2d"], IMAGE, {**ONE_CONVOLUTION, "stride": {"stride": 2}}, (8, 8, 6)),
    (["cnn2d"], IMAGE, {**ONE_CONVOLUTION, "padding": {"padding": 0}}, (8, 14, 10)),
    (["dsc2d"], IMAGE, ONE_CONVOLUTION, (8, 16, 12)),
    (["doubleConv"], IMAGE, ONE_CONVOLUTION, (8, 16, 12)),
    (["ElbowUNet"], IMAGE, ONE_CONVOLUTION, (8, 16, 12)),
    (["ElbowUnet"], IMAGE, ONE_CONVOLUTION, (8, 16, 12)),
    (["UpDoubleConv"], IMAGE, ONE_CONVOLUTION, (8, 16, 12)),
    (["UpDoubleConv_out"], IMAGE, ONE_CONVOLUTION, (8, 16, 12)),
    (["Maxpool2d"], IMAGE, {"pooling": {"pool1": 2}}, (3, 8, 6)),
    (["Avgpool2d"], IMAGE, {"pooling": {"pool1": 4}}, (3, 4, 3)),
    (["batchNorm2d"], IMAGE, {}, (3, 16, 12)),
    (["Upsample"], IMAGE, {}, (3, 32, 24)),
    (["cnn2d", "Upsample"], IMAGE, {**ONE_CONVOLUTION, "upsample": {"upsample": "transposed"}},
     (4, 32, 24)),
    (["Flatten"], IMAGE, {}, (576,)),
    (["relu"], IMAGE, {}, (3, 16, 12)),
    (["prelu"], IMAGE, {}, (3, 16, 12)),
    (["tanh"], IMAGE, {}, (3, 16, 12)),
    (["sigmoid"], IMAGE, {}, (3, 16, 12)),
    (["softmax"], IMAGE, {}, (3, 16, 12)),
    (["dropout"], IMAGE, {"dropout": {"dropout1": 0.25}}, (3, 16, 12)),
    (["cnn1d"], SEQUENCE, ONE_CONVOLUTION, (8, 20)),
    (["dsc1d"], SEQUENCE, ONE_CONVOLUTION, (8, 20)),
    (["Maxpool1d", "cnn1d"], SEQUENCE, {**ONE_CONVOLUTION, "pooling": {"pool1": 2}}, (8, 10)),
    (["Avgpool1d", "cnn1d"], SEQUENCE, {**ONE_CONVOLUTION, "pooling": {"pool1": 5}}, (8, 4)),
    (["batchNorm1d"], SEQUENCE, {}, (5, 20)),
    (["lstm"], SEQUENCE, {"lstm": {"lstm1": 7}}, (7, 20)),
    (["gru"], SEQUENCE, {"gru": {"gru1": 7}}, (7, 20)),
    (["gru", "dense"], SEQUENCE, {"gru": {"gru1": 7}, "dense": {"dense1": 4}}, (4,)),
    (["lstm", "Upsample"], SEQUENCE, {"lstm": {"lstm1": 6}}, (6, 40)),
    (["dense"], {"input_shape0": 10}, {"dense": {"dense1": 4}}, (4,)),
    (["dense"], {"input_shape0": 10}, {"convolutional": {"cn1": 4}}, (4,)),
    (["dense", "batchNorm1d", "output"], {"input_shape0": 10, "label_shape": 2},
     {"dense": {"dense1": 4}}, (2,)),
    (["cnn2d", "Flatten", "output"], {**IMAGE, "label_shape": 5}, ONE_CONVOLUTION, (5,)),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "input_shape", "sections", "shape"), CODES)
def test_every_code_gives_out_its_shape(layers, input_shape, sections, shape):
    network = build_network(document(layers, input_shape, **sections)).eval()
    height_width_channels = [input_shape[key] for key in input_shape if key != "label_shape"]
    example = [height_width_channels[-1], *height_width_channels[:-1]]
    assert network(torch.zeros(2, *example)).shape == (2, *shape)


def test_the_table_has_every_code() -> None:
    assert {code for layers, *_ in CODES for code in layers} - {"ElbowUnet"} == set(get_args(Code))


def test_the_published_unet_runs_and_is_built_the_same_again() -> None:
    architecture = Architecture(network="iodeep.layers", arguments=UNET)
    network = build_network(architecture, seed=3).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 1, 224, 224)
    # Worked by hand: 9 double convolutions on 3, 64 … 1024 and, joined, 1536, 768, 384, 192.
    widths = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    widths += [(1536, 512), (768, 256), (384, 128), (192, 64)]
    by_hand = sum(9 * o * (i + o) + 6 * o for i, o in widths) + 65
    assert count_parameters(network) == by_hand
    again = tensors_of(build_network(architecture, seed=3))
    assert {name: t.sha256() for name, t in tensors_of(network).items()} == {
        name: t.sha256() for name, t in again.items()
    }


def test_a_skip_connection_joins_the_sources_channels_first() -> None:
    layers = ["prelu", "relu", "relu"]
    network = build_network(
        document(layers, {"input_shape0": 2, "input_shape1": 2, "input_shape2": 1},
                 skip_connection={"1": 2})
    )  # fmt: skip
    out = network(torch.full((1, 1, 2, 2), -4.0))
    assert out[0, :, 0, 0].tolist() == [0, 0]
    out = network(torch.full((1, 1, 2, 2), 4.0))
    assert out.shape == (1, 2, 2, 2)


@pytest.mark.parametrize(
    ("shape", "order", "example"),
    [
        ({"input_shape0": 4, "input_shape1": 6, "input_shape2": 3}, "channels_last", (3, 4, 6)),
        ({"input_shape0": 3, "input_shape1": 4, "input_shape2": 6}, "channels_first", (3, 4, 6)),
    ],
)
def test_the_data_format_orders_the_input_shape(shape, order, example):
    network = build_network(
        document(["batchNorm2d"], shape, data_format={"data_format": order})
    ).eval()
    assert network(torch.zeros(1, *example)).shape == (1, *example)


@pytest.mark.parametrize(
    "shape", [(20, 5, 1), (20, 5, 0), (20, 1, 5), (0, 20, 5)], ids=lambda shape: str(shape)
)
def test_a_sequences_spare_size_is_left_over(shape):
    named = {f"input_shape{index}": size for index, size in enumerate(shape)}
    network = build_network(document(["gru"], named, gru={"gru1": 4}))
    assert network(torch.zeros(1, 5, 20)).shape == (1, 4, 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": {"1": "exec"}}, "argument architecture"),
        ({"architecture": {}}, "argument architecture"),
        ({"architecture": {"1": "relu", "3": "relu"}}, "not numbered from 1 to 2"),
        ({"architecture": {"0": "relu"}}, "argument architecture"),
        ({"architecture": {str(n): "relu" for n in range(1, MAX_LAYERS + 2)}}, "architecture"),
        ({"convolutional": {"cn1": 10**9}}, "argument convolutional"),
        ({"convolutional": {"cn1": -1}}, "argument convolutional"),
        ({"convolutional": {"cn2": 8}}, "layer 1 (cnn2d).*convolutional.cn1 is missing"),
        ({"kernel": {}}, "layer 1 (cnn2d).*kernel.kernel1 is missing"),
        ({"kernel": {"kernel1": 31}}, "layer 1 (cnn2d).*do not fit together"),
        ({"skip_connection": {"2": "1"}, "architecture": {"1": "cnn2d", "2": "relu"}},
         "2 to 1 does not lead to a later layer"),
        ({"skip_connection": {"1": "1"}}, "1 to 1 does not lead to a later layer"),
        ({"skip_connection": {"1": "9"}}, "skip connection 1 to 9: no layer 9"),
        ({"skip_connection": {"1": "2"}, "architecture": {"1": "cnn2d", "2": "Flatten"}},
         "layer 2 (Flatten).*joined to it"),
        ({"architecture": {"1": "cnn1d"}}, "input_shape has 3 sizes"),
        ({"architecture": {"1": "cnn2d", "2": "lstm"}, "lstm": {"lstm1": 3}},
         "layer 2 (lstm).*takes sequences, not images"),
        ({"architecture": {"1": "cnn2d", "2": "dense"}, "dense": {"dense1": 3}},
         "layer 2 (dense).*not images"),
        ({"convolutional": {"it's": 3}}, "argument convolutional"),
        ({"input_shape": {"input_shape0": 0, "input_shape1": 4, "input_shape2": 3}},
         "expected 3 sizes"),
        ({"input_shape": {"input_shape0": 10**9}}, "argument input_shape"),
        ({"input_shapes": {}}, "unknown argument 'input_shapes'; did you mean 'input_shape'?"),
        ({"architecture": {"1": "cnn2d", **{str(n): "Upsample" for n in range(2, 60)}}},
         r"layers to number \d+ would give out|layer \d+ \(Upsample\)"),
        ({"architecture": {"1": "cnn2d", "2": "Flatten", "3": "dense"},
          "input_shape": {"input_shape0": 1024, "input_shape1": 1024, "input_shape2": 3},
          "dense": {"dense1": 4096}}, "parameters; at most"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_by_name_and_at_once(change, message):
    base = document(["cnn2d"], IMAGE, **ONE_CONVOLUTION).arguments
    begin = time.monotonic()
    pattern = message if "\\" in message else message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ModelError, match=pattern):
        build_network(Architecture(network="iodeep.layers", arguments={**base, **change}))
    assert time.monotonic() - begin < 20


def test_a_long_sequence_takes_no_time_to_work_out() -> None:
    """torch would go step by step, even without memory."""
    begin = time.monotonic()
    layers = ["cnn1d", *["Upsample"] * 6, "lstm", "gru", "lstm"]
    sections = {"lstm": {"lstm1": 2, "lstm2": 3}, "gru": {"gru1": 2}, **ONE_CONVOLUTION}
    network = build_network(document(layers, {"input_shape0": 4096, "input_shape1": 1}, **sections))
    assert count_parameters(network) > 0
    assert time.monotonic() - begin < 20
    small = build_network(document(["lstm"], SEQUENCE, lstm={"lstm1": 7}))
    assert small(torch.zeros(3, 5, 20)).shape == (3, 7, 20)


# --- fuzz ---------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-2, 40), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
SECTION = st.dictionaries(
    st.one_of(st.sampled_from([f"{p}{n}" for p in ("cn", "kernel", "pool", "input_shape")
                               for n in range(4)]), st.text(max_size=6)),
    NUMBERS, max_size=5,
)  # fmt: skip
LAYERS = st.lists(st.sampled_from(get_args(Code)), min_size=1, max_size=8).map(
    lambda codes: {str(n): code for n, code in enumerate(codes, start=1)}
)
SMALL = st.integers(1, 9)
PLAUSIBLE = st.fixed_dictionaries(
    {
        "input_shape": st.fixed_dictionaries(
            {"input_shape0": SMALL}, optional={"input_shape1": SMALL, "input_shape2": SMALL}
        ),
        "architecture": LAYERS,
        "convolutional": st.just({f"cn{n}": n for n in range(1, 9)}),
        "kernel": st.lists(st.integers(1, 4), min_size=8, max_size=8).map(
            lambda sizes: {f"kernel{n}": size for n, size in enumerate(sizes, start=1)}
        ),
        "pooling": st.just({f"pool{n}": 2 for n in range(1, 9)}),
    },
    optional={
        "skip_connection": st.dictionaries(SMALL.map(str), SMALL.map(str), max_size=3),
        "padding": st.fixed_dictionaries({"padding": st.integers(0, 3)}),
    },
)
WILD = st.dictionaries(
    st.sampled_from(["input_shape", "architecture", "convolutional", "kernel", "skip_connection",
                     "padding", "x"]),
    st.one_of(SECTION, LAYERS, NUMBERS, st.none(), st.lists(NUMBERS, max_size=2)),
)  # fmt: skip


@pytest.mark.parametrize(
    "inputs", [150, pytest.param(100_000, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])]
)
def test_no_document_does_anything_but_build_or_be_refused(inputs: int) -> None:
    @settings(
        max_examples=inputs, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.one_of(PLAUSIBLE, PLAUSIBLE, WILD))
    def build(arguments: dict[str, Any]) -> None:
        with suppress(ModelError):
            built = build_network(Architecture(network="iodeep.layers", arguments=arguments))
            assert count_parameters(built) < 10**6

    build()
