"""Losses worked by hand."""

import math

import pytest
import torch

from clients.training.losses import build_loss

# One voxel of label 1 and one of background, scores that say each with certainty e or so.
SCORES_BKDHW = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).reshape(1, 2, 1, 1, 2)
LABEL = torch.tensor([0, 1], dtype=torch.uint8).reshape(1, 1, 1, 1, 2)
SURE = math.e / (1 + math.e)


def test_cross_entropy_by_hand():
    assert float(build_loss("ce")(SCORES_BKDHW, LABEL)) == pytest.approx(-math.log(SURE))


def test_dice_by_hand_counts_only_the_label():
    expected = 1 - 2 * SURE / (1 + (SURE + 1 - SURE))
    assert float(build_loss("dice")(SCORES_BKDHW, LABEL)) == pytest.approx(expected, rel=1e-4)


def test_dice_ce_is_their_sum():
    parts = [float(build_loss(name)(SCORES_BKDHW, LABEL)) for name in ("dice", "ce")]
    assert float(build_loss("dice_ce")(SCORES_BKDHW, LABEL)) == pytest.approx(sum(parts))


@pytest.mark.parametrize("name", ["dice_ce", "dice", "ce"])
def test_a_better_score_is_a_smaller_loss(name):
    loss = build_loss(name)
    assert loss(4 * SCORES_BKDHW, LABEL) < loss(SCORES_BKDHW, LABEL) < loss(-SCORES_BKDHW, LABEL)
