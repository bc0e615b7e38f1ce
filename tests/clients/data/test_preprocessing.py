"""Volumes as networks take them: three axes or slices, cut to size or whole for patches."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from clients.data.preprocessing import (
    part_cut_off,
    preprocess_image,
    preprocess_labels,
    spacing_after,
    whole_image,
)
from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import Volume
from federation.iodeep.architecture import Preprocessing

SHAPE = (6, 20, 30)


@pytest.fixture
def volume() -> Volume:
    """Axial: slices 5 mm apart, rows towards the back, columns to the left, 1 x 1 mm."""
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, :3] = np.array([[0, 0, -1.0], [0, -1.0, 0], [5.0, 0, 0]])
    voxels = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    return Volume(voxels=voxels, affine=affine, instances=("1.2",) * 6, frame_of_reference="1.2.3")


def test_slices_lie_across_the_first_axis_of_the_orientation(volume: Volume) -> None:
    axial = Preprocessing(orientation="SPL", spacing_mm=(1, 1), intensity="none", size=(20, 30))
    image = preprocess_image(volume, axial)
    assert image.shape == (1, *SHAPE)
    assert np.array_equal(image[0].numpy(), volume.voxels)
    assert spacing_after(volume, axial) == (5.0, 1, 1)

    sagittal = axial.model_copy(update={"orientation": "RSP", "size": (32, 20)})
    image = preprocess_image(volume, sagittal)
    assert image.shape == (1, 30, 32, 20)
    assert spacing_after(volume, sagittal) == (1.0, 1, 1)


def test_only_rows_and_columns_of_slices_are_resampled(volume: Volume) -> None:
    coarse = Preprocessing(orientation="SPL", spacing_mm=(2, 2), intensity="none", size=(10, 15))
    image = preprocess_image(volume, coarse)
    labels = preprocess_labels((volume.voxels > 100).astype(np.uint8), volume, coarse)
    assert image.shape == labels.shape == (1, 6, 10, 15)


@pytest.mark.parametrize("degrees", [0, 10, -10, 30])
def test_slices_across_an_oblique_series_are_as_far_apart_as_its_pixels(degrees: float) -> None:
    """Sagittal, slices 10 mm apart, tilted: axial ones come of its rows, 1 mm apart."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, 0] = 10 * cosine, 0, -10 * sine
    affine[:3, 1] = -sine, 0, -cosine
    affine[:3, 2] = 0, -1, 0
    voxels = np.zeros((4, 50, 30), np.float32)
    tilted = Volume(voxels=voxels, affine=affine, instances=("1.2",) * 4, frame_of_reference="1")
    taken = Preprocessing(orientation="SPR", spacing_mm=(1, 1), intensity="none", size=(30, 32))

    assert preprocess_image(tilted, taken).shape == (1, 50, 30, 32)
    assert spacing_after(tilted, taken) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("across_mm", [1e3, 1e8, 1e100])
def test_no_memory_is_taken_for_what_would_not_fit(volume: Volume, across_mm: float) -> None:
    far = replace(volume, affine=volume.affine * [across_mm, across_mm, across_mm, 1])
    taken = Preprocessing(orientation="SPL", spacing_mm=(1, 1, 1), size=SHAPE)
    labels = np.ones(SHAPE, np.uint8)
    for take in (
        lambda: preprocess_image(far, taken),
        lambda: whole_image(far, taken),
        lambda: preprocess_labels(labels, far, taken),
        lambda: part_cut_off(labels, far, taken),
    ):
        with pytest.raises(Unusable) as refused:
            take()
        assert refused.value.reason is Reason.IMAGE_UNSUPPORTED


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, np.linalg.LinAlgError])
def test_what_monai_cannot_do_leaves_one_study_out(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("monai.transforms.spatial.array.Spacing.__call__", fail)
    taken = Preprocessing(orientation="SPL", spacing_mm=(5, 1, 1), size=SHAPE)
    with pytest.raises(Unusable, match="cannot be brought onto") as refused:
        preprocess_image(volume, taken)
    assert refused.value.reason is Reason.IMAGE_UNSUPPORTED


def test_a_projection_keeps_its_rows_and_columns(volume: Volume) -> None:
    projection = replace(volume, voxels=volume.voxels[:1], is_projection=True)
    taken = Preprocessing(orientation="RAS", spacing_mm=(1, 1), intensity="none", size=(20, 30))
    image = preprocess_image(projection, taken)
    assert np.array_equal(image[0].numpy(), projection.voxels)


def test_patches_are_taken_of_the_whole_which_is_at_least_as_large(volume: Volume) -> None:
    taken = Preprocessing(
        orientation="SPL", spacing_mm=(5, 1, 1), intensity="none", size=(8, 16, 16), fit="patches"
    )
    assert preprocess_image(volume, taken).shape == (1, 8, 20, 30)
    cropped = taken.model_copy(update={"fit": "crop"})
    assert preprocess_image(volume, cropped).shape == (1, 8, 16, 16)


def test_a_window_becomes_nought_to_one(volume: Volume) -> None:
    taken = Preprocessing(
        orientation="SPL", spacing_mm=(5, 1, 1), intensity="window", window=(100, 300), size=SHAPE
    )
    image = preprocess_image(volume, taken)[0].numpy()
    assert np.allclose(image, np.clip((volume.voxels - 100) / 200, 0, 1), atol=1e-6)


@pytest.mark.parametrize("lowest", [-1e9, 1000, 1e9], ids=["all", "some", "none"])
def test_zscore_is_monais_bit_for_bit(volume: Volume, lowest: float) -> None:
    """Whose own takes ten times the memory; what is zero is not there, for both."""
    from monai.transforms.intensity.array import NormalizeIntensity

    there = np.where(volume.voxels < lowest, 0, volume.voxels).astype(np.float32)
    changed = replace(volume, voxels=there)
    plain = Preprocessing(orientation="SPL", spacing_mm=(5, 1, 1), intensity="none", size=SHAPE)
    found = preprocess_image(changed, plain.model_copy(update={"intensity": "zscore"}))
    assert np.array_equal(changed.voxels, there)  # MONAI's also writes into the image itself
    expected = NormalizeIntensity(nonzero=True)(preprocess_image(changed, plain).clone())
    assert found.numpy().tobytes() == np.asarray(expected).tobytes()


def test_what_the_crop_leaves_out_is_told(volume: Volume) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, :, 10:20] = 1
    labels[:, :, 28:] = 2
    taken = Preprocessing(orientation="SPL", spacing_mm=(5, 1, 1), size=(6, 20, 20))
    assert part_cut_off(labels, volume, taken) == pytest.approx(2 / 12)
    whole = taken.model_copy(update={"size": SHAPE})
    assert part_cut_off(labels, volume, whole) == 0
    assert part_cut_off(np.zeros(SHAPE, np.uint8), volume, taken) == 0


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"spacing_mm": (1, 1, 1), "size": (8, 8)}, "spacing_mm has 3 axes and size 2"),
        ({"spacing_mm": (1,), "size": (8,)}, "at least 2 items"),
        ({"spacing_mm": (1, 1), "size": (8, 8), "intensity": "window"}, "go together"),
        ({"spacing_mm": (1, 1), "size": (8, 8), "window": (0, 1)}, "go together"),
        (
            {"spacing_mm": (1, 1), "size": (8, 8), "intensity": "window", "window": (1, 1)},
            "begins with the lower",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(table: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Preprocessing(**table)
