"""Cases that are two NIfTI files on one grid: the image, and the image of its labels."""

import hashlib
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

    The axes are turned to the nearest of right, anterior and superior; nothing is resampled.
    ``role`` names the file in messages. Raises :class:`UnusableCase` for a file that is absent,
    damaged, or not the one with the digest ``sha256``, and for a shape other than three axes and
    ``channels``.
    """
    _check_file(path, role, sha256)
    try:
        file: Any = nibabel.load(path)
        shape = tuple(int(extent) for extent in file.shape)
        affine = np.asarray(file.affine, np.float64)
    except Exception as error:  # nibabel, gzip and zlib raise their own kinds
        raise UnusableCase(Problem.FILE_DAMAGED, f"the {role} file is no NIfTI image") from error
    _check_grid(shape, affine, role, channels)
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


def _check_grid(
    shape: tuple[int, ...], affine: NDArray[np.float64], role: str, channels: int
) -> None:
    expected = f"expected three axes{f' and {channels} channels' if channels > 1 else ''}"
    found = shape[3] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or 0 in shape or found != channels:
        raise UnusableCase(Problem.GRID_UNUSABLE, f"the {role} has the shape {shape}; {expected}")
    if np.prod(shape[:3], dtype=np.float64) > MOST_VOXELS:
        raise UnusableCase(
            Problem.GRID_UNUSABLE,
            f"the {role} has the shape {shape}; expected at most {MOST_VOXELS} voxels",
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not lengths.all():
        raise UnusableCase(
            Problem.GRID_UNUSABLE, f"the {role}'s affine gives its voxels no place or no extent"
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
