"""A released network, ready for one study after another."""

import os
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.data.preprocessing import whole_image
from clients.data.volumes import Volume
from clients.inference.grid import onto_source
from clients.inference.postprocessing import apply
from clients.training import Segmenter
from federation.config import TrainingTable
from federation.errors import ModelError
from federation.iodeep.manifest import VersionManifest
from federation.iodeep.weights import Tensor as Weights
from federation.networks import build_network, check_task, load_tensors

_SCORES_BYTES = 2**30
"""What the scores of all labels may take at once; a larger image is done slab by slab."""


class Predictor:
    """Segments images with one version. Keep it: building the network takes longer than using it.

    Raises :class:`ModelError` for a version that gives no label for each voxel, or does not say
    how images become its input.
    """

    def __init__(
        self,
        version: VersionManifest,
        tensors: Mapping[str, Weights],
        *,
        device: torch.device | str | None = None,
    ) -> None:
        preprocessing = version.preprocessing
        if version.task != "segmentation" or preprocessing is None:
            raise ModelError(
                f"version {version.uid} of {version.line} gives no label for each voxel, or does "
                "not say how images become its input; expected a segmentation with preprocessing"
            )
        check_task(version.architecture, version.task, len(version.outputs))
        network = build_network(version.architecture)
        load_tensors(network, tensors)
        self.version = version
        self._preprocessing = preprocessing
        self._segmenter = Segmenter(
            network,
            TrainingTable(threads=os.cpu_count() or 1),
            labels=len(version.outputs),
            preprocessing=preprocessing.model_copy(update={"fit": "patches"}),
            device=device,
        )

    def predict(self, volume: Volume) -> NDArray[np.uint8]:
        """The most likely output label of each voxel, uint8 (D, H, W) on the volume's own grid.

        Windows of the network's size slide over the whole image, a quarter overlapping; then what
        the version declares as post-processing.
        """
        image, affine = whole_image(volume, self._preprocessing)
        labels = onto_source(self._labels(image), affine, volume.voxels.shape, volume.affine)
        return apply(self.version.postprocessing, labels, volume.affine)

    def _labels(self, image: Tensor) -> Tensor:
        """Labels uint8 (D, H, W) of an image (1, D, H, W), on its grid."""
        depth = image.shape[1]
        per_slice = image[0, 0].numel() * (len(self.version.outputs) + 1) * 4
        thick = max(1, _SCORES_BYTES // per_slice)
        if thick >= depth:
            return self._segmenter.predict(image)[0]
        window = 1 if self._preprocessing.takes_slices else self._preprocessing.size[0]
        thick = max(thick, 2 * window)
        halo = 0 if self._preprocessing.takes_slices else window
        labels = torch.empty(image.shape[1:], dtype=torch.uint8)
        for first in range(0, depth, thick):
            last = min(first + thick, depth)
            start, stop = max(0, first - halo), min(depth, last + halo)
            slab = self._segmenter.predict(image[:, start:stop])[0]
            labels[first:last] = slab[first - start : last - start]
        return labels
