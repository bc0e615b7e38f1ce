"""Rounds share one schedule."""

import pytest

from clients.training.schedule import learning_rates, steps_per_round
from federation.config import TrainingTable


def table(**settings: object) -> TrainingTable:
    return TrainingTable.model_validate({"optimizer": {"lr": 0.1}, **settings})


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_rounds_continue_the_schedule_of_one_long_run(schedule):
    short = table(schedule=schedule, epochs=2, batch_size=2)
    long = table(schedule=schedule, epochs=10, batch_size=2)

    in_rounds = [
        rate for round in range(1, 6) for rate in learning_rates(short, 7, round=round, rounds=5)
    ]

    assert in_rounds == pytest.approx(list(learning_rates(long, 7, round=1, rounds=1)))
    assert len(in_rounds) == 5 * 2 * 4


def test_cosine_by_hand():
    rates = list(learning_rates(table(schedule="cosine", epochs=4), 2, round=1, rounds=1))
    assert rates == pytest.approx([0.1, 0.0853553391, 0.05, 0.0146446609])


def test_constant_stays():
    assert list(learning_rates(table(epochs=3), 2, round=7, rounds=9)) == [0.1] * 3


@pytest.mark.parametrize(("examples", "batch", "steps"), [(1, 4, 1), (4, 4, 1), (5, 4, 2)])
def test_the_last_batch_may_be_smaller(examples, batch, steps):
    assert steps_per_round(table(batch_size=batch), examples) == steps
