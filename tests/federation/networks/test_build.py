"""Which architectures are built, to what shapes, and which are refused before anything is."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from federation.config import read_experiment
from federation.errors import ModelError
from federation.iodeep.architecture import Architecture
from federation.networks import build_network, check_volume, count_parameters
from federation.networks.allowed import NETWORKS, read_arguments
from federation.networks.arguments import keywords
from federation.networks.build import _CLASSES

CONFIGS = Path(__file__).parents[3] / "configs"

UNET: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8, 16],
    "strides": [2, 2],
}
SEGRESNET: dict[str, Any] = {
    "out_channels": 2,
    "init_filters": 8,
    "blocks_down": [1, 1],
    "blocks_up": [1],
}
DYNUNET: dict[str, Any] = {
    "out_channels": 4,
    "kernel_size": [3, 3, [3, 3, 1]],
    "strides": [1, 2, [2, 2, 1]],
    "upsample_kernel_size": [2, [2, 2, 1]],
    "filters": [4, 8, 8],
}


DENSENET: dict[str, Any] = {
    "out_channels": 3,
    "init_features": 4,
    "growth_rate": 4,
    "block_config": [1, 2],
    "bn_size": 2,
}


def architecture(network: str = "monai.UNet", **arguments: Any) -> Architecture:
    return Architecture(network=network, arguments=arguments)


@pytest.mark.parametrize(
    ("network", "arguments", "size", "classes"),
    [
        ("monai.UNet", UNET, (16, 24, 16), 3),
        ("monai.UNet", {**UNET, "num_res_units": 2, "norm": "BATCH"}, (8, 16, 8), 3),
        ("monai.UNet", {**UNET, "strides": [[2, 2, 1], 2], "dropout": 0.1}, (8, 8, 6), 3),
        ("monai.UNet", {**UNET, "norm": ["GROUP", {"num_groups": 1}]}, (8, 8, 8), 3),
        ("monai.UNet", {**UNET, "in_channels": 2, "act": "RELU"}, (8, 8, 8), 3),
        ("monai.SegResNet", SEGRESNET, (16, 16, 8), 2),
        ("monai.DynUNet", DYNUNET, (8, 16, 6), 4),
    ],
)
def test_networks_keep_the_size_of_a_volume(network, arguments, size, classes):
    described = architecture(network, **arguments)
    check_volume(described, size)

    scores = build_network(described)(torch.zeros(2, arguments.get("in_channels", 1), *size))

    assert scores.shape == (2, classes, *size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chanels": [4]}, "unknown argument 'chanels'; did you mean 'channels'?"),
        ({"__class__": "os"}, "unknown argument '__class__'"),
        ({"channels": [10**9, 8, 16]}, "argument channels.0"),
        ({"channels": [4, -8, 16]}, "argument channels.1"),
        ({"channels": "4, 8, 16"}, "argument channels"),
        ({"channels": [4.0, 8, 16]}, "argument channels.0"),
        ({"channels": [4] * 1000}, "argument channels"),
        ({"channels": [[[[4]]], 8, 16]}, "argument channels.0"),
        ({"strides": [10**9, 2]}, "argument strides.0"),
        ({"strides": [2]}, "3 channels need 2 strides, seen 1"),
        ({"out_channels": True}, "argument out_channels"),
        ({"out_channels": 10**400}, "argument out_channels"),
        ({"spatial_dims": 4}, "argument spatial_dims"),
        ({"strides": [[2, 2], 2]}, "2 numbers for the 3 axes"),
        ({"kernel_size": 2}, "argument kernel_size"),
        ({"num_res_units": 10**6}, "argument num_res_units"),
        ({"norm": {"name": "INSTANCE"}}, "argument norm"),
        ({"norm": ["INSTANCE", {"num_features": 10**9}]}, "argument norm"),
        ({"norm": ["GROUP", {"num_groups": 3}]}, "do not fit together"),
        ({"act": "eval"}, "argument act"),
        ({"dropout": 1.5}, "argument dropout"),
        ({"dropout": math.nan}, "argument dropout|cannot be built"),
        ({"bias": "yes"}, "argument bias"),
        ({"channels": [1024] * 8, "strides": [2] * 7, "kernel_size": 7}, "parameters; at most"),
    ],
)
def test_build_refuses(arguments, message):
    described = Architecture.model_construct(network="monai.UNet", arguments={**UNET, **arguments})
    with pytest.raises(ModelError, match=message):
        build_network(described)


def test_build_refuses_an_unknown_network_and_names_the_nearest():
    with pytest.raises(ModelError, match=r"'monai.Unet'; did you mean 'monai.UNet'\?"):
        build_network(architecture("monai.Unet"))
    with pytest.raises(ModelError, match=r"unknown network 'os.system'; this software builds"):
        build_network(architecture("os.system", command="true"))


def test_build_names_a_missing_argument():
    with pytest.raises(ModelError, match="argument 'channels' is missing"):
        build_network(architecture(out_channels=2, strides=[2]))


def test_build_lists_all_problems_but_not_without_end():
    with pytest.raises(ModelError, match=r"argument act.*; argument bias") as two:
        build_network(architecture(**UNET, act=1, bias=2))
    assert "more" not in str(two.value)
    with pytest.raises(ModelError, match=r"; and 995 more$") as many:
        build_network(architecture(**UNET, **{f"junk{n}": n for n in range(1000)}))
    assert len(str(many.value)) < 1000


def test_build_refuses_junk_nested_beyond_measure():
    junk: Any = []
    for _ in range(100_000):
        junk = [junk]
    described = Architecture.model_construct(network="monai.UNet", arguments={**UNET, "norm": junk})
    with pytest.raises(ModelError, match="no JSON document"):
        build_network(described)


@pytest.mark.parametrize(
    ("network", "arguments", "length"),
    [
        ("monai.SegResNet", {**SEGRESNET, "blocks_up": [1, 1]}, "need 1 blocks_up, seen 2"),
        ("monai.DynUNet", {**DYNUNET, "strides": [1, 2, 2, 2]}, "seen 3, 4 and 2"),
    ],
)
def test_lists_of_levels_must_agree(network, arguments, length):
    with pytest.raises(ModelError, match=length):
        build_network(architecture(network, **arguments))


def test_same_seed_same_weights_and_torch_keeps_its_own_random_state():
    state = torch.random.get_rng_state()
    first, again, other = (
        torch.cat([p.flatten() for p in build_network(architecture(**UNET), seed=s).parameters()])
        for s in (1, 1, 2)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_count_parameters_by_hand():
    # One convolution 1→2 (27·2 + 2), one 2→4 (27·8 + 4), one transposed (4+2)→2 (27·12 + 2),
    # and a PReLU weight after each of the first two.
    network = build_network(architecture(out_channels=2, channels=[2, 4], strides=[2]))
    assert count_parameters(network) == 56 + 220 + 326 + 2


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((9, 8, 8), "does not take volumes of 9x8x8 voxels"),
        ((4, 4, 4), "does not take volumes of 4x4x4"),
        ((4096, 4096, 4096), "would hold"),
        ((2**40, 2**40, 2**40), "does not take volumes"),
    ],
)
def test_check_volume_refuses(size, message):
    with pytest.raises(ModelError, match=message):
        check_volume(architecture(**UNET), size)


def test_check_volume_refuses_an_output_of_another_size():
    described = architecture(**{**UNET, "channels": [4, 8], "strides": [2]})
    with pytest.raises(ModelError, match="turns volumes of"):
        check_volume(described, (15, 16, 16))


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        (DENSENET, (16, 24, 20)),
        ({**DENSENET, "norm": "INSTANCE", "act": "PRELU", "dropout_prob": 0.1}, (32, 16, 16)),
        ({**DENSENET, "norm": ["GROUP", {"num_groups": 2}], "in_channels": 2}, (16, 16, 16)),
        ({**DENSENET, "spatial_dims": 2}, (31, 33)),
    ],
)
def test_a_densenet_gives_one_score_a_class_and_image(arguments, size):
    described = architecture("monai.DenseNet", **arguments)
    check_volume(described, size)

    scores = build_network(described)(torch.zeros(2, arguments.get("in_channels", 1), *size))

    assert scores.shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "size", "message"),
    [
        ({"block_config": []}, (16, 16, 16), "argument block_config"),
        ({"block_config": [65]}, (16, 16, 16), "argument block_config.0"),
        ({"growth_rate": 257}, (16, 16, 16), "argument growth_rate"),
        ({"bn_size": 0}, (16, 16, 16), "argument bn_size"),
        ({"dropout_prob": 1.0}, (16, 16, 16), "argument dropout_prob"),
        ({"pretrained": True}, (16, 16, 16), "unknown argument 'pretrained'"),
        ({"norm": ["GROUP", {"num_groups": 3}]}, (16, 16, 16), "groups that do not divide"),
        (
            {"block_config": [64] * 8, "growth_rate": 256, "bn_size": 16}, (16, 16, 16),
            "at most 1,073,741,824 are allowed",
        ),
        ({"norm": "INSTANCE"}, (8, 8, 8), "choose a larger size, or fewer blocks"),
        ({}, (2048, 2048, 2048), "would hold"),
        ({}, (16, 16), "has spatial_dims = 3, and the preprocessing's size has 2 axes"),
    ],
)  # fmt: skip
def test_a_densenet_beyond_bounds_is_refused(arguments, size, message):
    with pytest.raises(ModelError, match=message):
        check_volume(architecture("monai.DenseNet", **{**DENSENET, **arguments}), size)


@pytest.mark.parametrize("document", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_experiments_can_be_built(document):
    model = read_experiment(document).model
    assert model.architecture
    assert model.preprocessing
    check_volume(model.architecture, model.preprocessing.size)


def test_every_listed_network_has_a_class_with_exactly_these_arguments():
    assert NETWORKS.keys() == _CLASSES.keys() | {"iodeep.layers"}
    described = {
        "monai.UNet": UNET,
        "monai.SegResNet": SEGRESNET,
        "monai.DynUNet": DYNUNET,
        "monai.DenseNet": DENSENET,
    }
    for network, arguments in described.items():
        given = keywords(read_arguments(architecture(network, **arguments)))
        assert arguments.keys() <= given.keys()
