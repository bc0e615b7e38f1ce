"""What is predicted is the network's output, voxel for voxel, on the source's grid."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from clients.data.volumes import Volume, read_volume
from clients.inference import Predictor
from clients.inference import predictor as module
from federation.errors import ModelError
from federation.fresh import fresh_version
from federation.networks import build_network, tensors_of
from tests.clients.inference.small import PLANES, experiment, write_study


def predictor(**model: object) -> Predictor:
    manifest, _ = fresh_version(experiment(**model), "main")
    return Predictor(manifest, tensors_of(build_network(manifest.architecture)))


def by_hand(volume: Volume) -> np.ndarray:
    """Through nibabel and torch alone: turned, normalised, padded, and back."""
    image = nibabel.Nifti1Image(volume.voxels, volume.affine)
    turned = nibabel.as_closest_canonical(image)
    voxels = np.asarray(turned.dataobj, np.float32)
    seen = voxels[voxels != 0]
    voxels[voxels != 0] = (seen - seen.mean()) / seen.std()
    before = [(40 - voxels.shape[0]) // 2, (40 - voxels.shape[1]) // 2, (32 - voxels.shape[2]) // 2]
    room = np.zeros((40, 40, 32), np.float32)
    inside = tuple(slice(b, b + size) for b, size in zip(before, voxels.shape, strict=True))
    room[inside] = voxels
    manifest, _ = fresh_version(experiment(), "main")
    network = build_network(manifest.architecture).eval()
    with torch.inference_mode():
        labels = network(torch.from_numpy(room)[None, None]).argmax(1)[0].numpy()[inside]
    back = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(turned.affine), nibabel.io_orientation(volume.affine)
    )
    return np.asarray(nibabel.orientations.apply_orientation(labels, back))


@pytest.mark.parametrize("site", PLANES)
def test_labels_are_the_networks_on_the_sources_grid(site: str, tmp_path: Path) -> None:
    volume = read_volume(write_study(tmp_path, site))
    labels = predictor().predict(volume)
    assert labels.shape == volume.voxels.shape
    assert len(np.unique(labels)) > 1
    assert (labels != by_hand(volume)).mean() < 1e-4  # where two scores are equal but for rounding


def test_an_image_larger_than_the_network_is_covered(tmp_path: Path) -> None:
    volume = read_volume(write_study(tmp_path))
    preprocessing = {"spacing_mm": [1, 1, 1], "size": [16, 16, 16]}
    labels = predictor(preprocessing=preprocessing).predict(volume)
    assert labels.shape == volume.voxels.shape
    assert all(labels[edge].any() for edge in (0, -1))


def test_a_large_image_is_done_slab_by_slab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = read_volume(write_study(tmp_path))
    preprocessing = {"spacing_mm": [1, 1, 1], "size": [16, 16, 16]}
    whole = predictor(preprocessing=preprocessing).predict(volume)
    monkeypatch.setattr(module, "_SCORES_BYTES", 1)
    slabs = predictor(preprocessing=preprocessing).predict(volume)
    assert (whole == slabs).mean() > 0.95  # windows lie elsewhere


def test_other_voxels_than_the_networks(tmp_path: Path) -> None:
    volume = read_volume(write_study(tmp_path))
    preprocessing = {"spacing_mm": [1.5, 1.5, 1.5], "size": [24, 28, 24]}
    labels = predictor(preprocessing=preprocessing).predict(volume)
    assert labels.shape == volume.voxels.shape
    assert labels.any()


def test_a_network_of_slices_predicts_on_volumes(tmp_path: Path) -> None:
    volume = read_volume(write_study(tmp_path))
    architecture = {
        "network": "monai.UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 3,
        "channels": [4, 8], "strides": [2], "norm": "INSTANCE",
    }  # fmt: skip
    preprocessing = {"orientation": "SAR", "spacing_mm": [1, 1], "size": [40, 40]}
    labels = predictor(architecture=architecture, preprocessing=preprocessing).predict(volume)
    assert labels.shape == volume.voxels.shape
    assert len(np.unique(labels)) > 1


def test_what_is_declared_becomes_of_labels(tmp_path: Path) -> None:
    volume = read_volume(write_study(tmp_path))
    declared = {"largest": [1], "least_mm3": 20.0, "filled": [2]}
    plain = predictor().predict(volume)
    changed = predictor(postprocessing=declared).predict(volume)
    touching = np.ones((3, 3, 3))
    assert ndimage.label(plain == 1, touching)[1] > 1
    assert ndimage.label(changed == 1, touching)[1] == 1
    parts, _ = ndimage.label(changed == 2, touching)
    assert np.bincount(parts.reshape(-1))[1:].min() >= 20
    assert not (ndimage.binary_fill_holes(changed == 2) & (changed == 0)).any()


def test_a_version_that_draws_nothing_is_refused() -> None:
    manifest, _ = fresh_version(experiment(), "main")
    with pytest.raises(ModelError, match="no label for each voxel"):
        Predictor(manifest.model_copy(update={"preprocessing": None}), {})
