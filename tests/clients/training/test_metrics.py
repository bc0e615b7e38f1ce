"""Dice worked by hand."""

import math

import pytest
import torch

from clients.training.metrics import dice_per_label, summarise


def volume(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).reshape(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (volume(0, 1, 2), volume(0, 1, 2), (1.0, 1.0)),
        (volume(1, 1, 0, 2), volume(1, 0, 2, 2), (2 / 3, 2 / 3)),
        (volume(0, 0, 0, 0), volume(1, 1, 2, 0), (0.0, 0.0)),
        (volume(1, 1, 1, 2), volume(1, 0, 0, 0), (0.5, math.nan)),
        (volume(0, 0), volume(0, 0), (math.nan, math.nan)),
    ],
)
def test_dice_by_hand(prediction, truth, expected):
    dice = dice_per_label(prediction, truth, labels=2)
    assert dice == pytest.approx(expected, nan_ok=True)


def test_a_label_that_a_case_lacks_does_not_enter_its_mean():
    evaluation = summarise([(0.5, math.nan), (1.0, 0.25)], [1.0, 2.0])

    assert evaluation.cases == 2
    assert evaluation.dice == (0.75, 0.25)
    assert evaluation.dice_mean == 0.5
    assert evaluation.loss == 1.5


def test_a_label_that_no_case_has_does_not_enter_the_mean_over_labels():
    evaluation = summarise([(0.5, math.nan)], [1.0])
    assert evaluation.dice == pytest.approx((0.5, math.nan), nan_ok=True)
    assert evaluation.dice_mean == 0.5


def test_no_label_at_all_has_no_mean():
    assert math.isnan(summarise([(math.nan,)], [1.0]).dice_mean)


def test_a_label_that_few_cases_have_is_told_neither_by_itself_nor_within_the_mean():
    dice = [(0.5, 0.25), (1.0, math.nan), (0.75, math.nan)]

    evaluation = summarise(dice, [1.0, 2.0, 3.0], least=2)

    assert evaluation.dice == pytest.approx((0.75, math.nan), nan_ok=True)
    assert evaluation.dice_mean == 0.75
    assert evaluation.loss == 2.0
