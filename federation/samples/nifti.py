"""Cases that are two NIfTI files on one grid: the image, and the image of its labels."""

import hashlib
import itertools
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from federation.errors import DataError
from federation.samples.case import Case, LabelledImage, Problem, UnusableCase

MOST_VOXELS = 2**29
"""Of one image: 512 x 512 x 2048. A file of a few bytes can announce, and inflate to, anything."""

LARGEST_EXTENT = 65535
"""Of any axis, in voxels: Rows and Columns have 16 bits (PS3.3 Section C.7.6.3), and so that every
plane can be cut."""

SMALLEST_SPACING_MM, LARGEST_SPACING_MM = 0.01, 100.0

_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""By the code of the unit of space, the lowest three bits of xyzt_units; 0, unknown, means mm."""

_FARTHEST_APART_MM = 0.1
_ROUNDED_PER_MM = 1e-3
"""What a quaternion of float32 can be off by near a half turn, where most scans lie: 0.0005 of the
volume's diagonal was seen."""

_MOST_OTHER_SPACING = 0.01
_LEAST_SINGULAR = 1e-3  # of unit vectors; below it they lie in one plane, as far as float32 tells


@dataclass(frozen=True, kw_only=True)
class NiftiCase(Case):
    """A case whose voxels and labels are two NIfTI files.

    sha256_image, sha256_label: of the files, in lower case; empty where they are not known
    label_values: what stands for segments 1, 2, 3 … in the label image
    may_lack_labels: a label may mark no voxel, as long as another does
    channels: how many images on the same grid the image file holds
    channel_index: which of them this case is, from 0
    """

    image: Path
    label: Path
    sha256_image: str = field(default="", repr=False)
    sha256_label: str = field(default="", repr=False)
    label_values: tuple[int, ...]
    may_lack_labels: bool = False
    channels: int = 1
    channel_index: int = 0

    def read(self) -> LabelledImage:
        """Read and check both files. Raises :class:`UnusableCase`."""
        voxels, affine = read_nifti(
            self.image,
            "image",
            sha256=self.sha256_image,
            channels=self.channels,
            channel_index=self.channel_index,
        )
        label, label_affine = read_nifti(self.label, "label", sha256=self.sha256_label)
        if voxels.shape != label.shape:
            raise UnusableCase(
                Problem.SHAPES_DIFFER, f"image is {voxels.shape}, label is {label.shape}"
            )
        if not np.allclose(affine, label_affine, atol=1e-4):
            raise UnusableCase(Problem.AFFINES_DIFFER, "image and label lie on different grids")
        labels = _as_segments(label, self.label_values, may_lack=self.may_lack_labels)
        return LabelledImage(voxels=voxels, labels=labels, affine=affine)


def inside(folder: Path, name: str, where: str) -> Path:
    """The file ``name`` of ``folder``; whether it is there is not looked at.

    Raises :class:`DataError`, which begins with ``where``, for one that is not below the folder,
    also by a link.
    """
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # links in a circle; a zero byte
        raise DataError(f"{where}: {name!r:.100} is no file's name") from error
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{where}: {name} leads out of the folder")
    return path


def read_nifti(
    path: Path, role: str, *, sha256: str = "", channels: int = 1, channel_index: int = 0
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """One image's voxels (X, Y, Z) and affine (4, 4), index to RAS millimetres.

    The axes are turned to the nearest of right, anterior and superior; nothing is resampled. The
    file's unit of space is converted. ``role`` names the file in messages. Raises
    :class:`UnusableCase` for a file that is absent, damaged, or not the one with the digest
    ``sha256``, for a shape other than three axes and ``channels``, and for a grid that has no
    place, or two.
    """
    _check_file(path, role, sha256)
    try:
        file: Any = nibabel.load(path)
        shape = tuple(int(extent) for extent in file.shape)
        header = file.header
    except Exception as error:  # nibabel, gzip and zlib raise their own kinds
        raise UnusableCase(Problem.FILE_DAMAGED, f"the {role} file is no NIfTI image") from error
    _check_grid(shape, role, channels)
    affine = _affine_of(header, shape[:3], role)
    try:
        voxels = np.asanyarray(
            file.dataobj[..., channel_index] if len(shape) == 4 else file.dataobj
        )
    except Exception as error:  # as above, where less is there than the header says
        raise UnusableCase(Problem.FILE_DAMAGED, f"the {role} file is not whole") from error
    if voxels.dtype.kind not in "iuf":
        raise UnusableCase(
            Problem.GRID_UNUSABLE, f"the {role}'s voxels are {voxels.dtype}, not one number each"
        )
    turn: Any = io_orientation(affine)  # type: ignore[no-untyped-call]
    turned: Any = apply_orientation(voxels, turn)  # type: ignore[no-untyped-call]
    affine = affine @ inv_ornt_aff(turn, shape[:3])  # type: ignore[no-untyped-call]
    return turned, np.asarray(affine, np.float64)


def _check_file(path: Path, role: str, sha256: str) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a FIFO is to wait for who writes to it
            raise UnusableCase(
                Problem.FILE_DAMAGED, f"the {role} file {path.name} is no regular file"
            )
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest() if sha256 else ""
    except FileNotFoundError:
        raise UnusableCase(Problem.FILE_MISSING, f"the {role} file {path.name} is absent") from None
    except OSError as error:
        raise UnusableCase(Problem.FILE_DAMAGED, f"the {role} file cannot be read") from error
    if digest != sha256:
        raise UnusableCase(
            Problem.FILE_CHANGED, f"the {role} file {path.name} is not the one in the manifest"
        )


def _check_grid(shape: tuple[int, ...], role: str, channels: int) -> None:
    expected = f"expected three axes{f' and {channels} channels' if channels > 1 else ''}"
    found = shape[3] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or 0 in shape or found != channels:
        raise UnusableCase(Problem.GRID_UNUSABLE, f"the {role} has the shape {shape}; {expected}")
    if np.prod(shape[:3], dtype=np.float64) > MOST_VOXELS or max(shape[:3]) > LARGEST_EXTENT:
        raise UnusableCase(
            Problem.GRID_UNUSABLE,
            f"the {role} has the shape {shape}; expected at most {MOST_VOXELS} voxels, and "
            f"{LARGEST_EXTENT} along an axis",
        )


def _affine_of(header: Any, shape: tuple[int, ...], role: str) -> NDArray[np.float64]:
    """Index to RAS millimetres (4, 4): the sform where it is set, else the qform."""
    unit = int(header["xyzt_units"]) % 8
    if unit not in _MM_PER_UNIT:
        raise UnusableCase(
            Problem.GRID_UNUSABLE,
            f"the {role}'s unit of space is {unit}; expected 1 (m), 2 (mm) or 3 (µm)",
        )
    try:
        both = [header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]]
    except Exception as error:  # nibabel's own kind, or ValueError for a quaternion that is none
        raise UnusableCase(Problem.GRID_UNUSABLE, f"the {role}'s qform is no turn") from error
    to_mm = np.diag([*(3 * [_MM_PER_UNIT[unit]]), 1.0])
    affines = [to_mm @ np.asarray(one, np.float64) for one in both if one is not None]
    if not affines:
        raise UnusableCase(
            Problem.GRID_UNUSABLE,
            f"the {role} has neither sform nor qform, so that it has no left and right",
        )
    for affine in affines:
        _check_place(affine, role)
    _check_agreement(affines[0], affines[-1], shape, role)
    return affines[0]


def _check_place(affine: NDArray[np.float64], role: str) -> None:
    if not np.isfinite(affine).all():
        raise UnusableCase(
            Problem.GRID_UNUSABLE, f"the {role}'s affine gives its voxels no place or no extent"
        )
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing_mm.min() < SMALLEST_SPACING_MM or spacing_mm.max() > LARGEST_SPACING_MM:
        seen = " x ".join(f"{value:g}" for value in spacing_mm)
        raise UnusableCase(
            Problem.GRID_UNUSABLE,
            f"the {role}'s voxels are {seen} mm apart; expected {SMALLEST_SPACING_MM:g} to "
            f"{LARGEST_SPACING_MM:g}",
        )
    if np.linalg.matrix_rank(affine[:3, :3] / spacing_mm, tol=_LEAST_SINGULAR) < 3:
        raise UnusableCase(Problem.GRID_UNUSABLE, f"the {role}'s axes lie in one plane")


def _check_agreement(
    sform: NDArray[np.float64], qform: NDArray[np.float64], shape: tuple[int, ...], role: str
) -> None:
    """Of two affines neither is known to be the right one."""
    corners = np.array([*itertools.product(*((-0.5, extent - 0.5) for extent in shape), [1.0])])
    apart_mm = np.linalg.norm(corners @ (sform - qform)[:3].T, axis=1).max()
    diagonal_mm = float(np.linalg.norm(sform[:3, :3] @ np.array(shape)))
    sform_mm, qform_mm = (np.linalg.norm(one[:3, :3], axis=0) for one in (sform, qform))
    if apart_mm > max(_FARTHEST_APART_MM, _ROUNDED_PER_MM * diagonal_mm) or not np.allclose(
        sform_mm, qform_mm, rtol=_MOST_OTHER_SPACING, atol=0
    ):
        raise UnusableCase(
            Problem.GRID_UNUSABLE,
            f"the {role}'s sform and qform put its corners up to {apart_mm:.3g} mm apart; expected "
            "one place for it",
        )


def _as_segments(
    label: NDArray[Any], values: Sequence[int], *, may_lack: bool
) -> NDArray[np.uint8]:
    segments = np.zeros(label.shape, np.uint8)
    for number, value in enumerate(values, start=1):
        segments[label == value] = number
    if (unexpected := label[(label != 0) & (segments == 0)]).size:
        some = ", ".join(f"{value:g}" for value in np.unique(unexpected)[:8])
        raise UnusableCase(Problem.LABEL_UNEXPECTED, f"the label image holds the values {some}")
    counts = np.bincount(segments.ravel(), minlength=len(values) + 1)[1:]
    missing = [str(value) for value, count in zip(values, counts, strict=True) if not count]
    if len(missing) == len(values):
        raise UnusableCase(Problem.LABEL_MISSING, "the label image marks no voxel")
    if missing and not may_lack:
        raise UnusableCase(
            Problem.LABEL_MISSING, f"the label image holds no voxel of {', '.join(missing)}"
        )
    return segments
