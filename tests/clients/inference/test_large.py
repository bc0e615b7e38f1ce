"""A CT of 2,000 slices: memory stays within a few times the image."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import resource
import numpy as np
from clients.data.volumes import Volume
from clients.inference import Predictor
from federation.fresh import fresh_version
from federation.networks import build_network, tensors_of
from tests.clients.inference.small import experiment

preprocessing = {"orientation": "SAR", "spacing_mm": [1, 1, 1], "size": [64, 64, 64]}
manifest, _ = fresh_version(experiment(preprocessing=preprocessing), "main")
predictor = Predictor(manifest, tensors_of(build_network(manifest.architecture)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shape = (%d, 256, 256)
voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
volume = Volume(voxels=voxels, affine=np.eye(4), instances=(), frame_of_reference="")
labels = predictor.predict(volume)
assert labels.shape == shape and labels[-1].any() and labels[0].any()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(peak * 1024 / voxels.nbytes)
"""
FIXED = 2**30 / (2000 * 256 * 256 * 4)
"""The scores' share, which does not grow with the image."""


@pytest.mark.soak
def test_memory_is_a_few_times_the_image() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT % 2000], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 6 + FIXED
