"""Image and label change together, from one seed."""

import pytest
import torch

from clients.training.augmentation import RandomChanges
from federation.config import Augmentation
from tests.clients.training.examples import boxes

MOVES = {"rotate_degrees": 15.0, "scale": 0.15, "translate": 2.0, "flip": (0, 1, 2)}
EVERYTHING = Augmentation(probability=0.8, noise=0.1, intensity=0.2, **MOVES)


def test_nothing_asked_nothing_changed():
    case = boxes(1)[0]
    image, label = RandomChanges(Augmentation(), seed=1)(case.image, case.label)
    assert torch.equal(image, case.image)
    assert torch.equal(label, case.label)


def test_same_seed_same_changes_bit_for_bit():
    cases = boxes(8)
    first, again, other = (
        [changes(case.image, case.label) for case in cases]
        for changes in (RandomChanges(EVERYTHING, seed=seed) for seed in (2**62 + 5, 2**62 + 5, 6))
    )

    for (image, label), (image_again, label_again) in zip(first, again, strict=True):
        assert torch.equal(image, image_again)
        assert torch.equal(label, label_again)
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("move", MOVES)
def test_image_and_label_move_together(move):
    # A ball off the centre: the image is the depth below its surface in voxels, the label is
    # where that is positive, and 2 from a depth of 3. Nearest neighbours are at most 0.87
    # voxels away, so farther from a surface image and label must agree.
    axes = torch.meshgrid(*(torch.arange(20.0),) * 3, indexing="ij")
    depth = (
        6.0
        - sum((axis - centre) ** 2 for axis, centre in zip(axes, (9, 10, 12), strict=True)).sqrt()
    )
    label = ((depth > 0).to(torch.uint8) + (depth > 3).to(torch.uint8))[None]
    changes = RandomChanges(Augmentation(probability=1.0, **{move: MOVES[move]}), seed=3)

    for _ in range(5):
        image, changed = changes(depth[None], label)

        assert not torch.equal(image, depth[None])
        assert set(changed.unique().tolist()) == {0, 1, 2}
        assert (changed[image < -1] == 0).all()
        assert (changed[(image > 1) & (image < 2)] == 1).all()
        assert (changed[image > 4] == 2).all()


def test_changes_keep_shape_dtype_and_the_original():
    case = boxes(1)[0]
    before = case.image.clone(), case.label.clone()
    for _ in range(5):
        image, label = RandomChanges(EVERYTHING, seed=4)(case.image, case.label)
        assert type(image) is type(label) is torch.Tensor
        assert (image.shape, image.dtype) == (case.image.shape, torch.float32)
        assert (label.shape, label.dtype) == (case.label.shape, torch.uint8)
    assert torch.equal(case.image, before[0])
    assert torch.equal(case.label, before[1])


def test_noise_and_intensity_leave_the_label():
    case = boxes(1)[0]
    settings = Augmentation(probability=1.0, noise=0.1, intensity=0.2)
    image, label = RandomChanges(settings, seed=5)(case.image, case.label)
    assert torch.equal(label, case.label)
    assert not torch.equal(image, case.image)
    assert (image - case.image).abs().max() < 2.0
