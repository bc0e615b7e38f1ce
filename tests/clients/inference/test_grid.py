"""Labels come back onto the voxels that the image has."""

import itertools

import numpy as np
import pytest
import torch

from clients.inference.grid import onto_source


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flipped", [(), (0,), (1, 2), (0, 1, 2)])
def test_turned_voxels_keep_their_labels(order: tuple[int, ...], flipped: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    source = random.integers(0, 3, (5, 6, 7)).astype(np.uint8)
    affine = np.diag([2.0, 1.5, 1.0, 1.0])
    affine[:3, 3] = (-3, 4, 5)
    labels = np.flip(source.transpose(order), flipped).copy()
    turned = np.eye(4)[[*order, 3]].T
    for axis in flipped:
        turn = np.eye(4)
        turn[axis, axis], turn[axis, 3] = -1, labels.shape[axis] - 1
        turned = turned @ turn
    back = onto_source(torch.from_numpy(labels), affine @ turned, source.shape, affine)
    assert np.array_equal(back, source)


def test_what_was_padded_or_cut_off_comes_back_where_it_was() -> None:
    source = np.ones((4, 4, 4), np.uint8)
    cut = np.eye(4)
    cut[:3, 3] = 1
    back = onto_source(torch.ones((2, 2, 2), dtype=torch.uint8), cut, source.shape, np.eye(4))
    assert back.sum() == 8
    assert back[1:3, 1:3, 1:3].all()
    padded = np.eye(4)
    padded[:3, 3] = -2
    labels = torch.zeros((8, 8, 8), dtype=torch.uint8)
    labels[2:6, 2:6, 2:6] = 2
    assert (onto_source(labels, padded, source.shape, np.eye(4)) == 2).all()


def test_between_voxels_the_nearer_label_counts() -> None:
    """A ball on a grid of 2 mm, seen on one of 0.7 mm that is turned by 20 degrees."""
    index = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"), -1)
    ball = (np.linalg.norm(index * 2.0 - 19, axis=-1) < 12).astype(np.uint8) * 2
    turn = np.deg2rad(20)
    source = np.eye(4)
    source[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    source[:3, :3] *= 0.7
    source[:3, 3] = (3, -8, 2)
    shape = (50, 50, 50)
    back = onto_source(torch.from_numpy(ball), np.diag([2.0, 2, 2, 1]), shape, source)
    places = np.stack(np.meshgrid(*[np.arange(50)] * 3, indexing="ij"), -1) @ source[:3, :3].T
    truth = np.linalg.norm(places + source[:3, 3] - 19, axis=-1) < 12
    overlap = 2 * (truth & (back == 2)).sum() / (truth.sum() + (back == 2).sum())
    assert overlap > 0.96  # of a ball six voxels in radius
    off_mm = places[truth].mean(axis=0) - places[back == 2].mean(axis=0)
    assert np.abs(off_mm).max() < 0.1
    assert set(np.unique(back)) <= {0, 2}


def test_beside_the_grid_there_is_nothing() -> None:
    far = np.eye(4)
    far[:3, 3] = 1000.5
    labels = torch.ones((4, 4, 4), dtype=torch.uint8)
    assert not onto_source(labels, np.eye(4) * [[1.5], [1], [1], [1]], (3, 3, 3), far).any()
