import numpy as np
import pytest

from federation.samples.case import Problem, UnusableCase
from federation.samples.lossless import hounsfield_and_slope, stored_and_slope


@pytest.mark.parametrize("slope", ["5.95897", "0.0123", "2653.4617", "1"])
def test_float_voxels_come_back_exactly_from_integers_and_slope(slope: str) -> None:
    integers = np.random.default_rng(3).integers(0, 4000, (9, 8, 7))
    voxels = integers.astype(np.float32) * np.float32(slope)

    stored, text = stored_and_slope(voxels)

    assert stored.dtype == np.uint16
    assert np.array_equal(stored.astype(np.float32) * np.float32(text or "1"), voxels)
    assert np.array_equal(stored, integers)


def test_a_gap_of_several_scanner_steps_is_recognised() -> None:
    levels = np.array([0, 2, 5, 8, 11, 500], np.float32) * np.float32(7.25)

    stored, text = stored_and_slope(levels)

    assert text == "7.25"
    assert stored.tolist() == [0, 2, 5, 8, 11, 500]


def test_integers_are_stored_as_they_are() -> None:
    stored, text = stored_and_slope(np.array([[0, 255]], np.uint8))

    assert text is None
    assert stored.tolist() == [[0, 255]]


def test_an_empty_image_needs_no_slope() -> None:
    stored, text = stored_and_slope(np.zeros((2, 2), np.float32))

    assert text is None
    assert not stored.any()


@pytest.mark.parametrize(
    "voxels",
    [
        np.array([0.0, -1.0], np.float32),
        np.array([0.0, np.nan], np.float32),
        np.array([1.0, np.pi, np.e, 50000.1], np.float32),
        np.array([70000], np.int32),
        np.array([-1], np.int16),
        np.array([0.1], np.float64),
    ],
)
def test_voxels_that_would_lose_something_are_refused(voxels: np.ndarray) -> None:
    with pytest.raises(UnusableCase) as refused:
        stored_and_slope(voxels)

    assert refused.value.problem is Problem.NOT_LOSSLESS


@pytest.mark.parametrize("slope", ["0.5", "0.1", "0.0123", "1.5"])
def test_hounsfield_units_between_whole_ones_come_back_exactly(slope: str) -> None:
    integers = np.random.default_rng(3).integers(-1024, 3000, (9, 8, 7))
    voxels = integers.astype(np.float32) * np.float32(slope)

    stored, text = hounsfield_and_slope(voxels)

    assert stored.dtype == np.int16
    assert np.array_equal(stored.astype(np.float32) * np.float32(text), voxels)
    assert np.array_equal(stored, integers)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.float32, np.float64])
def test_whole_hounsfield_units_are_stored_as_they_are(dtype: type) -> None:
    stored, text = hounsfield_and_slope(np.array([[0, 100]], dtype))

    assert text == "1"
    assert stored.dtype == np.int16
    assert stored.tolist() == [[0, 100]]


@pytest.mark.parametrize(
    "voxels",
    [
        np.array([32768], np.int32),
        np.array([-32769.0], np.float32),
        np.array([0.0, np.nan], np.float32),
        np.array([0.0, -np.inf], np.float64),
        np.array([0.1], np.float64),
        np.array([1.0, np.pi, np.e, -30000.1], np.float32),
    ],
)
def test_hounsfield_units_that_would_lose_something_are_refused(voxels: np.ndarray) -> None:
    with pytest.raises(UnusableCase) as refused:
        hounsfield_and_slope(voxels)

    assert refused.value.problem is Problem.NOT_LOSSLESS
