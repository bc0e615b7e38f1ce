import numpy as np
import pytest

from federation.samples.lossless import stored_and_slope
from federation.samples.phantom import LOOKS, phantom_cases


def test_the_same_seed_draws_the_same_phantom() -> None:
    one, again = (phantom_cases("A", 3, 1, seed=7)[1].read() for _ in range(2))

    assert np.array_equal(one.voxels, again.voxels)
    assert np.array_equal(one.labels, again.labels)


@pytest.mark.parametrize(
    ("site", "number", "seed"), [("A", 1, 7), ("B", 0, 7), ("A", 0, 8)], ids=str
)
def test_another_case_site_or_seed_draws_another(site: str, number: int, seed: int) -> None:
    first = phantom_cases("A", 2, 0, seed=7)[0].read()

    assert not np.array_equal(
        phantom_cases(site, 2, 0, seed=seed)[number].read().labels, first.labels
    )


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    short, long = phantom_cases("A", 2, 0), phantom_cases("A", 5, 0)

    assert short == long[:2]


def test_the_last_cases_are_for_testing_and_each_is_a_patient() -> None:
    cases = phantom_cases("C", 8, 3)

    assert [case.split for case in cases] == ["train"] * 5 + ["test"] * 3
    assert len({case.patient_id for case in cases}) == 8


def test_four_sites_have_four_scanners() -> None:
    looks = {phantom_cases(site, 1, 0)[0].look for site in "ABCD"}  # type: ignore[attr-defined]

    assert looks == set(LOOKS)
    assert {look.plane for look in looks} == {"axial", "coronal", "sagittal"}


@pytest.mark.parametrize("site", list("ABCD"))
def test_every_phantom_has_both_structures_and_is_stored_without_loss(site: str) -> None:
    for case in phantom_cases(site, 6, 0):
        image = case.read()
        stored, slope = stored_and_slope(image.voxels)

        assert np.array_equal(stored.astype(np.float32) * np.float32(slope or 1), image.voxels)
        assert (image.labels == 1).sum() > 100
        assert (image.labels == 2).sum() > 300


def test_a_shape_that_never_looks_at_the_image_scores_low() -> None:
    """The best fixed shape's Dice; a small U-Net passes 0.85 within six epochs of 28 cases."""
    masks = np.stack([case.read().labels > 0 for case in phantom_cases("A", 24, 0)])
    frequency = masks[:16].mean(axis=0)

    best = max(
        np.mean([2 * (mask & shape).sum() / (mask.sum() + shape.sum()) for mask in masks[16:]])
        for shape in (frequency >= level for level in (0.1, 0.2, 0.3, 0.5))
    )

    assert best < 0.65
