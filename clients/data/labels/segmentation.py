"""A SEG on its image's grid (PS3.3 Sections A.51 and C.8.20).

Each frame is placed by its own plane position and orientation, whatever the order of frames
(PS3.3 Section C.7.6.16): empty slices may be absent, and slices may run against the image's.
Nothing is resampled, so the label map holds the SEG's voxels and no others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import SegmentationStorage

from clients.data.decoding import decode_frame
from clients.data.labels.canvas import Canvas
from clients.data.labels.segments import LabelHeader, Segment, Wanted, segment_of
from clients.data.planes import functional_group
from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import LPS_TO_RAS

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # Label Map Segmentation, new in 2024
SOP_CLASSES = (str(SegmentationStorage), LABEL_MAP_STORAGE)
SOURCE = "SEG"

_OFF_GRID = 0.1  # largest distance of a frame's corner from the image's grid, voxels
_COARSER = 1.01  # from so many slices of the image on, a SEG's are farther apart
_HALF = 0.5  # from so much of a voxel, or so probable, a fraction counts


def header_of(dataset: Dataset) -> LabelHeader:
    """What a SEG refers to (Common Instance Reference, PS3.3 Section C.12.2) and marks."""
    _check_kind(dataset)
    return LabelHeader(
        source=SOURCE,
        series=tuple(
            str(item.SeriesInstanceUID) for item in dataset.get("ReferencedSeriesSequence", ())
        ),
        segments=_segments(dataset),
    )


def draw(dataset: Dataset, canvas: Canvas, wanted: Wanted) -> None:
    """Mark the wanted segments of a BINARY, FRACTIONAL or LABELMAP SEG."""
    _check_kind(dataset)
    if not canvas.has_frame_of_reference(str(dataset.get("FrameOfReferenceUID") or "")):
        raise Unusable(Reason.LABELS_OFF_GRID, "a SEG in another frame of reference")
    numbers = wanted.match(_segments(dataset))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    groups = dataset.PerFrameFunctionalGroupsSequence
    if len(groups) != int(dataset.NumberOfFrames):
        raise Unusable(Reason.LABELS_UNDECODABLE, "frames and their groups differ in number")
    to_index = np.asarray(np.linalg.inv(canvas.affine) @ LPS_TO_RAS, np.float64)
    if not canvas.is_projection:
        _check_distance(groups, shared, to_index)
    for index, group in enumerate(groups):
        if canvas.is_projection and not _is_of(dataset, group, shared, canvas):
            continue
        output = _outputs(dataset, index, group, shared, numbers)
        if output is not None and output.any():
            _place(canvas, output, _to_canvas(group, shared, to_index, output.shape, canvas))


def _is_of(dataset: Dataset, group: Dataset, shared: Dataset, canvas: Canvas) -> bool:
    """Whether a frame is drawn on this projection: it has no place that would say so.

    Raises :class:`Unusable` where neither the frame nor the SEG says that it is.
    """
    derived = group.get("DerivationImageSequence") or shared.get("DerivationImageSequence") or ()
    named = {
        str(source.ReferencedSOPInstanceUID)
        for item in derived
        for source in item.get("SourceImageSequence") or ()
    }
    if named:
        return bool(named & canvas.instances)
    referred = {
        str(instance.ReferencedSOPInstanceUID)
        for series in dataset.get("ReferencedSeriesSequence") or ()
        for instance in series.get("ReferencedInstanceSequence") or ()
    }
    if referred != canvas.instances:
        raise Unusable(
            Reason.LABELS_OFF_GRID, "a SEG whose frames do not say which projection they are of"
        )
    return True


def _check_distance(
    groups: Sequence[Dataset], shared: Dataset, to_index: NDArray[np.float64]
) -> None:
    """Whether its slices are as close as the image's: of farther ones every other would be empty.

    Empty frames may be left out, so those there may be far apart. If none are next to each other,
    Pixel Measures (PS3.3 Section C.7.6.16.2.1) decide. They do not where some are, as software
    copies the images', and these can be wrong.
    """
    orientation = functional_group(groups[0], shared, "PlaneOrientation").ImageOrientationPatient
    across = np.cross(*np.array(orientation, float).reshape(2, 3))
    per_mm = to_index[:3, :3] @ across  # slices of the image
    axis = int(np.abs(per_mm).argmax())
    positions = [
        functional_group(group, shared, "PlanePosition").ImagePositionPatient for group in groups
    ]
    indices = np.array(positions, float) @ to_index[axis, :3] + to_index[axis, 3]
    steps = np.diff(np.unique(np.rint(indices)))
    if (steps == 1).any():
        return
    measures = functional_group(groups[0], shared, "PixelMeasures")
    said = float(measures.get("SpacingBetweenSlices") or 0) * abs(per_mm[axis])
    if not said and steps.size:  # slices need not be as far apart as they are thick
        thick = float(measures.get("SliceThickness") or 0) * abs(per_mm[axis])
        said = thick if abs(thick / steps.min() - 1) < _COARSER - 1 else 0
    if said > _COARSER:
        raise Unusable(Reason.LABELS_OFF_GRID, "a SEG whose slices are farther apart than images")


def _outputs(
    dataset: Dataset, index: int, group: Dataset, shared: Dataset, numbers: Mapping[int, int]
) -> NDArray[np.uint8] | None:
    """A frame (H, W) as output labels; None where it is of a segment that is not wanted."""
    if dataset.SegmentationType == "LABELMAP":
        frame = _frame(dataset, index)
        output = np.zeros(frame.shape, np.uint8)
        for number, label in numbers.items():
            output[frame == number] = label
        return output
    item = functional_group(group, shared, "SegmentIdentification")
    wanted = numbers.get(int(item.ReferencedSegmentNumber))
    if wanted is None:
        return None
    frame = _frame(dataset, index)
    if dataset.SegmentationType == "FRACTIONAL":
        marked = frame >= _HALF * float(dataset.MaximumFractionalValue)
    else:
        marked = frame != 0
    return marked.astype(np.uint8) * np.uint8(wanted)


def _frame(dataset: Dataset, index: int) -> NDArray[Any]:
    """A frame (H, W) as it is stored.

    Of bits that are packed one frame right behind the other (PS3.5 Section 8.1.1), pydicom gives
    all frames or the wrong bits of one.
    """
    if int(dataset.BitsAllocated) != 1 or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return decode_frame(dataset, index)
    height, width = int(dataset.Rows), int(dataset.Columns)
    first, offset = divmod(index * height * width, 8)
    count = height * width
    packed = np.frombuffer(dataset.PixelData, np.uint8)[first : first + (offset + count + 7) // 8]
    return np.unpackbits(packed, bitorder="little")[offset : offset + count].reshape(height, width)


def _to_canvas(
    group: Dataset,
    shared: Dataset,
    to_index: NDArray[np.float64],
    shape: tuple[int, ...],
    canvas: Canvas,
) -> NDArray[np.intp]:
    """What makes a frame's (row, column, 1) the image's (d, h, w): an integer (3, 3).

    Raises :class:`Unusable` where the frame's voxels are not the image's.
    """
    if canvas.is_projection:
        if shape != canvas.labels.shape[1:]:
            raise Unusable(Reason.LABELS_OFF_GRID, "a SEG of another size than its projection")
        return np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.intp)
    position = functional_group(group, shared, "PlanePosition").ImagePositionPatient
    orientation = functional_group(group, shared, "PlaneOrientation").ImageOrientationPatient
    between_rows, between_columns = functional_group(group, shared, "PixelMeasures").PixelSpacing
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
    return np.asarray(whole, np.intp)


def _place(canvas: Canvas, output: NDArray[np.uint8], to_canvas: NDArray[np.intp]) -> None:
    """Mark a frame, turned and cut as the image lies."""
    start = to_canvas[:, 2].copy()
    axes = [int(np.flatnonzero(to_canvas[:, column])[0]) for column in (0, 1)]
    for frame_axis, axis in enumerate(axes):
        if to_canvas[axis, frame_axis] < 0:
            output = np.flip(output, frame_axis)
            start[axis] -= output.shape[frame_axis] - 1
    if axes[0] > axes[1]:
        output = output.T
    (across,) = {0, 1, 2} - set(axes)
    canvas.mark(np.expand_dims(output, across), start)


def _segments(dataset: Dataset) -> tuple[Segment, ...]:
    """All segments but a LABELMAP's background, which is number 0."""
    segments = (segment_of(item) for item in dataset.SegmentSequence)
    return tuple(segment for segment in segments if segment.number != 0)


def _check_kind(dataset: Dataset) -> None:
    kind: Any = dataset.get("SegmentationType")
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise Unusable(Reason.LABELS_UNDECODABLE, "a SEG that is not BINARY, FRACTIONAL, LABELMAP")
