"""A SEG as a label map on its image's grid (PS3.3 Section A.51, C.8.20).

Each frame is placed by its own plane position and orientation, whatever the order of frames
(PS3.3 Section C.7.6.16): empty slices may be absent, and slices may run against the image's.
Nothing is resampled, so the label map holds the SEG's voxels and no others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import SegmentationStorage

from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import LPS_TO_RAS, Volume

_LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # Label Map Segmentation, new in 2024
_OFF_GRID = 0.1  # largest distance of a frame's corner from the image's grid, voxels


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentName:
    """The names one segment answers to, in lower case.

    label:   Segment Label
    meaning: Segmented Property Type with its modifiers first, as "anterior hippocampus"
    """

    number: int
    label: str
    meaning: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationHeader:
    """What a SEG refers to and what its segments are, without its pixels."""

    series: tuple[str, ...]
    segments: tuple[SegmentName, ...]


def read_header(path: Path) -> SegmentationHeader:
    """A SEG's references (Common Instance Reference, PS3.3 Section C.12.2) and segments.

    Raises :class:`Unusable` for a file that is no SEG.
    """
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        _refuse_other_objects(dataset)
        return SegmentationHeader(
            series=tuple(
                str(item.SeriesInstanceUID) for item in dataset.get("ReferencedSeriesSequence", ())
            ),
            segments=_segment_names(dataset),
        )
    except Unusable:
        raise
    except Exception as error:  # a damaged file can raise anything in the parser
        raise Unusable(Reason.SEGMENTATION_UNDECODABLE, "a SEG that cannot be read") from error


def match_segments(segments: Sequence[SegmentName], wanted: Mapping[str, int]) -> dict[int, int]:
    """Segment numbers and the output label each stands for.

    A segment is wanted by its label first, else by its coded meaning, in any case. Several
    names, or segments, may stand for one output label. Raises :class:`Unusable` where an
    output label has no segment.
    """
    labels = {_fold(name): label for name, label in wanted.items()}
    found: dict[int, int] = {}
    for segment in segments:
        label = labels.get(segment.label) or labels.get(segment.meaning)
        if label is not None:
            found[segment.number] = label
    if missing := sorted(set(wanted.values()) - set(found.values())):
        names = [name for name, label in wanted.items() if label in missing]
        raise Unusable(Reason.SEGMENT_MISSING, f"no segment named {' or '.join(names)}")
    return found


def read_labels(path: Path, volume: Volume, wanted: Mapping[str, int]) -> NDArray[np.uint8]:
    """The label map uint8 (D, H, W) of a BINARY or LABELMAP SEG on ``volume``'s grid.

    wanted: segment names and their output labels, as :func:`match_segments` takes them

    Raises :class:`Unusable` where the SEG cannot be decoded, lacks a segment, gives one voxel
    two output labels, or does not lie on the grid.
    """
    try:
        dataset = pydicom.dcmread(path)
        _refuse_other_objects(dataset)
        segments = match_segments(_segment_names(dataset), wanted)
        _refuse_other_frame_of_reference(dataset, volume)
        frames = dataset.pixel_array.reshape(-1, int(dataset.Rows), int(dataset.Columns))
        return _place_frames(dataset, frames, segments, volume)
    except Unusable:
        raise
    except Exception as error:  # decoders raise their own kinds; 1-bit RLE has no decoder
        raise Unusable(Reason.SEGMENTATION_UNDECODABLE, "a SEG that cannot be decoded") from error


def _place_frames(
    dataset: Dataset, frames: NDArray[Any], segments: Mapping[int, int], volume: Volume
) -> NDArray[np.uint8]:
    labels = np.zeros(volume.voxels.shape, np.uint8)
    to_index = np.asarray(np.linalg.inv(volume.affine) @ LPS_TO_RAS, np.float64)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    label_map = dataset.SegmentationType == "LABELMAP"
    groups = dataset.PerFrameFunctionalGroupsSequence
    if len(groups) != len(frames):
        raise Unusable(Reason.SEGMENTATION_UNDECODABLE, "frames and their groups differ in number")
    for frame, group in zip(frames, groups, strict=True):
        if label_map:
            output = _as_outputs(frame, segments)
        else:
            number = int(
                _functional_group(group, shared, "SegmentIdentification").ReferencedSegmentNumber
            )
            output = (frame != 0).astype(np.uint8) * np.uint8(segments.get(number, 0))
        rows, columns = np.nonzero(output)
        if rows.size:
            indices = _grid_indices(group, shared, to_index, frame.shape, rows, columns)
            _write_voxels(labels, indices, output[rows, columns])
    return labels


def _as_outputs(frame: NDArray[Any], segments: Mapping[int, int]) -> NDArray[np.uint8]:
    """A LABELMAP frame's segment numbers as output labels; other segments become 0."""
    output = np.zeros(frame.shape, np.uint8)
    for number, label in segments.items():
        output[frame == number] = label
    return output


def _grid_indices(
    group: Dataset,
    shared: Dataset,
    to_index: NDArray[np.float64],
    shape: tuple[int, ...],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
) -> NDArray[np.intp]:
    """The image's indices (3, N) of a frame's voxels; raises where they are not its voxels."""
    position = _functional_group(group, shared, "PlanePosition").ImagePositionPatient
    orientation = _functional_group(group, shared, "PlaneOrientation").ImageOrientationPatient
    between_rows, between_columns = _functional_group(group, shared, "PixelMeasures").PixelSpacing
    frame_to_lps = np.zeros((4, 3))  # of (row, column, 1)
    frame_to_lps[:3, 0] = np.array(orientation[3:], float) * float(between_rows)
    frame_to_lps[:3, 1] = np.array(orientation[:3], float) * float(between_columns)
    frame_to_lps[:, 2] = [*map(float, position), 1.0]
    exact = (to_index @ frame_to_lps)[:3]
    whole = np.rint(exact)
    height, width = shape
    corners = np.array([[0, height - 1, 0, height - 1], [0, 0, width - 1, width - 1], [1, 1, 1, 1]])
    turned = np.abs(whole[:, :2]).sum(axis=0)
    if (turned != 1).any() or np.abs((exact - whole) @ corners).max() > _OFF_GRID:
        raise Unusable(Reason.LABELS_OFF_GRID, "a SEG whose frames do not lie on the image's grid")
    return np.asarray(whole @ np.stack([rows, columns, np.ones_like(rows)]), np.intp)


def _write_voxels(
    labels: NDArray[np.uint8], indices: NDArray[np.intp], values: NDArray[np.uint8]
) -> None:
    inside = (indices >= 0).all() and (indices.max(axis=1) < labels.shape).all()
    if not inside:
        raise Unusable(Reason.LABELS_OFF_GRID, "a SEG that marks voxels outside the image")
    there = labels[tuple(indices)]
    if ((there != 0) & (there != values)).any():
        raise Unusable(Reason.SEGMENTS_OVERLAP, "a voxel with two output labels")
    labels[tuple(indices)] = values


def _functional_group(group: Dataset, shared: Dataset, name: str) -> Dataset:
    """A functional group macro's item: the frame's own, else the one all frames share."""
    keyword = f"{name}Sequence"
    item: Dataset = (group if keyword in group else shared)[keyword].value[0]
    return item


def _refuse_other_objects(dataset: Dataset) -> None:
    if dataset.SOPClassUID not in (SegmentationStorage, _LABEL_MAP_STORAGE):
        raise Unusable(Reason.SEGMENTATION_UNDECODABLE, "an object that is no SEG")
    if dataset.SegmentationType not in ("BINARY", "LABELMAP"):
        raise Unusable(Reason.SEGMENTATION_UNDECODABLE, "a SEG that is not BINARY or LABELMAP")


def _refuse_other_frame_of_reference(dataset: Dataset, volume: Volume) -> None:
    uid = str(dataset.get("FrameOfReferenceUID") or "")
    if uid and volume.frame_of_reference and uid != volume.frame_of_reference:
        raise Unusable(Reason.LABELS_OFF_GRID, "a SEG in another frame of reference")


def _segment_names(dataset: Dataset) -> tuple[SegmentName, ...]:
    """All segments but a LABELMAP's background, which is number 0."""
    names = []
    for item in dataset.SegmentSequence:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence", ())
        meaning = " ".join(str(code.CodeMeaning) for code in (*modifiers, kind))
        names.append(
            SegmentName(
                number=int(item.SegmentNumber),
                label=_fold(str(item.get("SegmentLabel") or "")),
                meaning=_fold(meaning),
            )
        )
    return tuple(name for name in names if name.number != 0)


def _fold(name: str) -> str:
    return " ".join(name.casefold().split())
