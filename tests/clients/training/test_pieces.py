"""Networks that take slices, or patches, of what a site has."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from clients.training import Segmenter
from clients.training.pieces import Pieces, cut_out
from federation.config import Augmentation, Optimizer, TrainingTable
from federation.iodeep.architecture import Architecture, Preprocessing
from federation.networks import build_network, check_volume

SLICES = Preprocessing(orientation="SPL", spacing_mm=(1, 1), size=(16, 16))
FAST = Optimizer(lr=0.02)
PATCHES = Preprocessing(spacing_mm=(1, 1, 1), size=(8, 8, 8), fit="patches")


@dataclass(frozen=True)
class Made:
    image: Tensor
    label: Tensor


def made(depth: int, edge: int = 16, seed: int = 0) -> Made:
    """A bright block on noise, labelled 1."""
    image = torch.randn((1, depth, edge, edge), generator=torch.Generator().manual_seed(seed)) / 4
    label = torch.zeros((1, depth, edge, edge), dtype=torch.uint8)
    label[:, 1:-1, 4:10, 5:11] = 1
    return Made(image + 2 * label, label)


def unet(dims: int) -> nn.Module:
    described = Architecture(
        network="monai.UNet",
        arguments={"spatial_dims": dims, "out_channels": 2, "channels": [8, 16], "strides": [2]},
    )
    check_volume(described, (16,) * dims)
    return build_network(described, seed=1)


def test_every_slice_is_an_example() -> None:
    examples = [made(3), made(5)]
    pieces = Pieces(SLICES).of(examples)
    assert [(one.example, one.slice) for one in pieces] == [
        *((0, depth) for depth in range(3)),
        *((1, depth) for depth in range(5)),
    ]
    image, label = cut_out(examples, pieces[4])
    assert torch.equal(image, examples[1].image[:, 1])
    assert torch.equal(label, examples[1].label[:, 1])


def test_slices_are_scored_as_the_volume_that_they_are() -> None:
    example = made(40)
    threshold = lambda images: torch.cat([1 - images, images], dim=1)  # noqa: E731
    scores = Pieces(SLICES).scores(threshold, example.image)
    assert scores.shape == (1, 2, 40, 16, 16)
    assert torch.equal(scores[0, 1], example.image[0])


@pytest.mark.parametrize("fit", ["crop", "patches"])
def test_a_network_of_slices_learns(fit: str) -> None:
    taken = SLICES.model_copy(update={"fit": fit, "size": (8, 8) if fit == "patches" else (16, 16)})
    settings = TrainingTable(
        steps=60,
        batch_size=8,
        optimizer=FAST,
        augmentation=Augmentation(flip=(0, 1), rotate_degrees=10, scale=0.1),
    )
    trainer = Segmenter(unet(2), settings, labels=1, preprocessing=taken, device="cpu")
    examples = [made(6, seed=seed) for seed in range(3)]

    result = trainer.fit(examples, seed=1)

    assert (result.examples, result.steps) == (18, 60)
    evaluation = trainer.evaluate([made(5, seed=9)])
    assert evaluation.cases == 1
    assert evaluation.dice_mean > 0.8
    assert trainer.predict(made(5).image).shape == (1, 5, 16, 16)


def test_a_network_of_patches_learns_on_volumes_of_any_size() -> None:
    settings = TrainingTable(steps=80, batch_size=4, optimizer=FAST)
    trainer = Segmenter(unet(3), settings, labels=1, preprocessing=PATCHES, device="cpu")
    examples = [made(12, seed=1), made(9, edge=20, seed=2), made(16, seed=3)]

    result = trainer.fit(examples, seed=1)

    assert (result.examples, result.steps) == (3, 80)
    assert trainer.evaluate([made(11, edge=18, seed=9)]).dice_mean > 0.8


def test_the_same_seed_takes_the_same_patches() -> None:
    settings = TrainingTable(steps=4, batch_size=2)
    losses = []
    for seed in (1, 1, 2):
        trainer = Segmenter(unet(3), settings, labels=1, preprocessing=PATCHES, device="cpu")
        losses.append(trainer.fit([made(12), made(16)], seed=seed).loss)
    assert losses[0] == losses[1] != losses[2]
