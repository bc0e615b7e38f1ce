"""Labels from a network's grid back onto the voxels of the source image."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ON_A_VOXEL = 1e-3  # how far from a voxel's centre counts as on it, voxels
_SLAB_BYTES = 2**28
_VOXEL_BYTES = 128  # that a voxel takes while it is interpolated


def onto_source(
    labels: Tensor, affine: NDArray[np.float64], shape: tuple[int, ...], source: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Labels uint8 (D, H, W) at ``affine`` as labels uint8 of ``shape`` at ``source``.

    affine, source: float64 (4, 4), index to RAS millimetres

    Voxels that lie on voxels take their label. Between them, the label whose indicator is largest
    by linear interpolation counts; beyond the grid, none. Works through slabs of slices, so that
    no more than a little memory is taken besides the result.
    """
    to_network = np.linalg.inv(affine) @ source
    if (exact := _whole(to_network, shape)) is not None:
        return _indexed(labels.numpy(), exact, shape)
    result = np.zeros(shape, np.uint8)
    numbers = [int(number) for number in np.unique(labels.numpy()) if number]
    if not numbers:
        return result
    thick = max(1, _SLAB_BYTES // (shape[1] * shape[2] * _VOXEL_BYTES))
    for first in range(0, shape[0], thick):
        last = min(first + thick, shape[0])
        result[first:last] = _interpolated(labels, to_network, (first, last), shape, numbers)
    return result


def _whole(to_network: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.intp] | None:
    """The map from source to network indices, where each source voxel lies on a network's."""
    whole = np.rint(to_network)
    corners = np.array(
        [(d, h, w, 1) for d in (0, shape[0]) for h in (0, shape[1]) for w in (0, shape[2])]
    ).T
    if np.abs((to_network - whole) @ corners).max() > _ON_A_VOXEL:
        return None
    if (np.abs(whole[:3, :3]).sum(axis=0) != 1).any():
        return None
    return np.asarray(whole, np.intp)


def _indexed(
    labels: NDArray[np.uint8], exact: NDArray[np.intp], shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """By turning and cutting alone."""
    axes = [int(np.flatnonzero(exact[:3, column])[0]) for column in range(3)]
    result = np.zeros(shape, np.uint8)
    here, there = [], []
    for axis, (size, of) in enumerate(zip(shape, axes, strict=True)):
        sign, offset = int(exact[of, axis]), int(exact[of, 3])
        at = np.arange(size) * sign + offset
        inside = np.flatnonzero((at >= 0) & (at < labels.shape[of]))
        here.append(inside)
        there.append(at[inside])
    turned = labels.transpose(axes)
    result[np.ix_(*here)] = turned[np.ix_(*there)]
    return result


def _interpolated(
    labels: Tensor,
    to_network: NDArray[np.float64],
    slab: tuple[int, int],
    shape: tuple[int, ...],
    numbers: list[int],
) -> NDArray[np.uint8]:
    """Slices ``slab`` of the source."""
    indices = (np.arange(*slab), np.arange(shape[1]), np.arange(shape[2]))
    index = np.stack(np.meshgrid(*indices, indexing="ij"), -1)
    at = index @ to_network[:3, :3].T + to_network[:3, 3]  # (d, H, W, 3), network indices
    lowest = np.floor(at.min(axis=(0, 1, 2))).astype(int) - 1
    highest = np.ceil(at.max(axis=(0, 1, 2))).astype(int) + 2
    lowest = np.clip(lowest, 0, labels.shape)
    highest = np.clip(highest, 0, labels.shape)
    result = torch.zeros(index.shape[:3], dtype=torch.uint8)
    if (highest <= lowest).any():
        return result.numpy()
    part = labels[tuple(slice(a, b) for a, b in zip(lowest, highest, strict=True))]
    places = torch.from_numpy((2 * (at - lowest) + 1) / (highest - lowest) - 1).float()
    best = torch.zeros(index.shape[:3])
    background = torch.ones(index.shape[:3])
    for number in numbers:
        share = torch.nn.functional.grid_sample(
            (part == number).float()[None, None],
            places.flip(-1)[None],
            padding_mode="zeros",
            align_corners=False,
        )[0, 0]
        background -= share
        result[share > best] = number
        best = torch.maximum(best, share)
    result[background > best] = 0
    return result.numpy()
