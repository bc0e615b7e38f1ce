"""Federated averaging, and what is not let into it."""

import numpy as np
import pytest

from federation.errors import RoundError, UpdateError
from federation.iodeep.weights import Tensor
from server.strategies import FedAvg
from server.strategies.arithmetic import as_float64, check_update, from_float64


def f32(*values: float) -> Tensor:
    return from_float64(np.array(values), "F32")


def i64(value: int) -> Tensor:
    return Tensor(dtype="I64", shape=(), pieces=(memoryview(np.array(value, "<i8").tobytes()),))


START = {"w": f32(1.0, 2.0), "count": i64(5)}


def average(*updates: tuple[dict[str, Tensor], int]) -> dict[str, Tensor]:
    strategy = FedAvg(START)
    for update, examples in updates:
        strategy.add(update, examples)
    return strategy.finish()


def test_the_mean_is_weighted_by_examples() -> None:
    one, three = {"w": f32(1, 10), "count": i64(9)}, {"w": f32(4, 0), "count": i64(9)}
    result = average((one, 1), (three, 3))
    np.testing.assert_array_equal(as_float64(result["w"]), [(1 + 3 * 4) / 4, 10 / 4])


def test_two_equal_sites_aggregate_to_the_same_weights() -> None:
    update = {"w": f32(0.1, 1 / 3), "count": i64(5)}
    result = average((update, 7), (update, 13))
    assert bytes(result["w"].data) == bytes(update["w"].data)


def test_integers_are_never_averaged() -> None:
    result = average(({"w": f32(1, 1), "count": i64(100)}, 1))
    assert bytes(result["count"].data) == bytes(START["count"].data)


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(RoundError):
        FedAvg(START).finish()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_every_floating_dtype_survives_the_arithmetic(dtype: str) -> None:
    values = np.array([0.0, 1.0, -2.5, 0.15625, 1024.0])
    np.testing.assert_array_equal(as_float64(from_float64(values, dtype)), values)


def test_bfloat16_rounds_to_nearest_even() -> None:
    # 8 bits of significand: 1 + 1/256 lies midway between 1 and 1 + 1/128
    values = np.array([1 + 1 / 256, 1 + 3 / 256, 1 + 1.1 / 256])
    np.testing.assert_array_equal(
        as_float64(from_float64(values, "BF16")), [1.0, 1 + 2 / 128, 1 + 1 / 128]
    )


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"w": f32(1, 2)}, "1 tensors are missing"),
        ({"w": f32(1, 2), "count": i64(5), "x": i64(1)}, "1 are unknown"),
        ({"w": f32(1, 2, 3), "count": i64(5)}, "expected"),
        ({"w": from_float64(np.array([1.0, 2.0]), "F64"), "count": i64(5)}, "expected"),
        ({"w": f32(np.nan, 2), "count": i64(5)}, "not finite"),
        ({"w": f32(np.inf, 2), "count": i64(5)}, "not finite"),
        ({"w": f32(1000, 2), "count": i64(5)}, "norm"),
    ],
)
def test_a_bad_update_is_refused_by_reason(update: dict[str, Tensor], said: str) -> None:
    with pytest.raises(UpdateError, match=said):
        check_update(update, START, max_ratio=10)


def test_a_good_update_gives_the_norm_of_its_change() -> None:
    assert check_update({"w": f32(4, 6), "count": i64(5)}, START, 10) == pytest.approx(5.0)
