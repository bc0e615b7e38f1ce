"""Output labels on an image's grid, marked one after another."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import Volume


class Canvas:
    """A label map, empty at first.

    labels:    uint8 (D, H, W)
    affine:    the image's
    instances: the image's SOP Instance UIDs
    slices:    which slice is an instance's, of those that have one
    """

    def __init__(self, volume: Volume) -> None:
        self.labels = np.zeros(volume.voxels.shape, np.uint8)
        self._shape: tuple[int, ...] = volume.voxels.shape
        self.affine = volume.affine
        self.instances = frozenset(volume.instances)
        frames = Counter(volume.instances)
        self.slices = {uid: index for index, uid in enumerate(volume.instances) if frames[uid] == 1}
        self.is_projection = volume.is_projection
        self._frame_of_reference = volume.frame_of_reference

    def has_frame_of_reference(self, uid: str) -> bool:
        """Whether positions mean the same in both, as far as both say."""
        return not uid or not self._frame_of_reference or uid == self._frame_of_reference

    def reaches(self, indices: NDArray[np.float64]) -> bool:
        """Whether points (N, 3) are on the grid, or within a voxel of it."""
        return bool((indices >= -1.5).all() and (indices <= np.add(self._shape, 0.5)).all())

    def mark(self, output: NDArray[np.uint8], start: NDArray[np.intp]) -> None:
        """Mark a block of the grid that begins at ``start``; 0 marks nothing.

        Raises :class:`Unusable` for a voxel outside the image, or of two output labels.
        """
        first = [int(index) for index in start]
        inside = tuple(
            slice(max(0, -at), max(0, min(length, size - at)))
            for at, length, size in zip(first, output.shape, self._shape, strict=True)
        )
        marked = output[inside]
        if np.count_nonzero(marked) != np.count_nonzero(output):
            raise Unusable(Reason.LABELS_OFF_GRID, "labels that mark voxels outside the image")
        there = self.labels[
            tuple(
                slice(at + part.start, at + part.stop)
                for at, part in zip(first, inside, strict=True)
            )
        ]
        drawn = marked != 0
        if (drawn & (there != 0) & (there != marked)).any():
            raise Unusable(Reason.SEGMENTS_OVERLAP, "a voxel with two output labels")
        np.copyto(there, marked, where=drawn)
