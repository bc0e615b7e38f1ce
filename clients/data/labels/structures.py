"""An RT Structure Set on its image's grid (PS3.3 Sections A.19, C.8.8.5 and C.8.8.6).

Contours lie in the slices' planes. A voxel is marked where its centre is inside; contours of one
region in one slice are taken together by the even-odd rule, so that one within another is a hole,
whether it is drawn as one or through a keyhole. One that is there twice is taken once.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage

from clients.data.labels.canvas import Canvas
from clients.data.labels.segments import LabelHeader, Segment, Wanted, code_in, fold
from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import LPS_TO_RAS

SOP_CLASSES = (str(RTStructureSetStorage),)
SOURCE = "RTSTRUCT"

_OFF_PLANE = 0.1  # largest distance of a contour's points from their slice, in slices
_KINDS = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})


def header_of(dataset: Dataset) -> LabelHeader:
    """What a structure set refers to, and its regions of interest."""
    return LabelHeader(source=SOURCE, series=tuple(_series(dataset)), segments=_regions(dataset))


def draw(dataset: Dataset, canvas: Canvas, wanted: Wanted) -> None:
    """Mark the wanted regions of interest."""
    if canvas.is_projection:
        raise Unusable(Reason.LABELS_OFF_GRID, "contours of an image that lies nowhere")
    frames = {
        int(region.ROINumber): str(region.get("ReferencedFrameOfReferenceUID") or "")
        for region in dataset.StructureSetROISequence
    }
    numbers = wanted.match(_regions(dataset))
    to_index = np.asarray(np.linalg.inv(canvas.affine) @ LPS_TO_RAS, np.float64)
    for region in dataset.get("ROIContourSequence") or ():
        number = int(region.ReferencedROINumber)
        if number in numbers:
            if not canvas.has_frame_of_reference(frames.get(number, "")):
                _check_images(region, canvas)
            _draw_region(region, canvas, to_index, numbers[number])


def _draw_region(
    region: Dataset, canvas: Canvas, to_index: NDArray[np.float64], label: int
) -> None:
    by_slice: defaultdict[int, dict[bytes, NDArray[np.float64]]] = defaultdict(dict)
    for contour in region.get("ContourSequence") or ():
        points = _points(contour, to_index)
        if not canvas.reaches(points):  # before memory is taken for what it encloses
            raise Unusable(Reason.LABELS_OFF_GRID, "contours that leave the image")
        heights = points[:, 0]
        level = round(float(heights.mean()))
        if np.abs(heights - level).max() > _OFF_PLANE:
            raise Unusable(Reason.LABELS_OFF_GRID, "contours that do not lie in the slices' planes")
        named = {canvas.slices[uid] for uid in _named(contour) if uid in canvas.slices}
        if named and level not in named:
            raise Unusable(Reason.LABELS_OFF_GRID, "contours that name another image than theirs")
        by_slice[level][points.tobytes()] = points[:, 1:]
    for level, outlines in by_slice.items():
        inside, first = _inside(list(outlines.values()))
        start = np.array([level, *first])
        canvas.mark(inside[np.newaxis].astype(np.uint8) * np.uint8(label), start)


def _check_images(region: Dataset, canvas: Canvas) -> None:
    """Whether each contour names an image that it lies on.

    Some software makes up a frame of reference of its own, and means the images' all the same.
    """
    for contour in region.get("ContourSequence") or ():
        if not canvas.instances & _named(contour):
            raise Unusable(Reason.LABELS_OFF_GRID, "contours in another frame of reference")


def _named(contour: Dataset) -> set[str]:
    """The SOP Instance UIDs of the images that a contour says it lies on."""
    items = contour.get("ContourImageSequence") or ()
    return {str(item.get("ReferencedSOPInstanceUID")) for item in items}


def _points(contour: Dataset, to_index: NDArray[np.float64]) -> NDArray[np.float64]:
    """A contour's points (N, 3) as indices of the image."""
    if contour.get("ContourGeometricType") not in _KINDS:
        raise Unusable(
            Reason.LABELS_UNSUPPORTED, f"contours that are none of {', '.join(sorted(_KINDS))}"
        )
    numbers = np.array(contour.ContourData, np.float64)
    if numbers.size % 3 or not numbers.size or not np.isfinite(numbers).all():
        raise Unusable(Reason.LABELS_UNDECODABLE, "a contour whose data are no points")
    points = np.column_stack([numbers.reshape(-1, 3), np.ones(numbers.size // 3)])
    return np.asarray((to_index @ points.T)[:3].T, np.float64)


def _inside(
    outlines: list[NDArray[np.float64]],
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """Which voxels' centres are inside, and the row and column that the answer begins at."""
    every = np.concatenate(outlines)
    top, left = (int(value) for value in np.floor(every.min(axis=0)))
    bottom, right = (int(value) + 1 for value in np.ceil(every.max(axis=0)))
    rows, columns = np.mgrid[top:bottom, left:right]
    centres = np.column_stack([rows.ravel(), columns.ravel()])
    inside = np.zeros(len(centres), np.bool_)
    for outline in outlines:
        if len(outline) > 2:
            inside ^= Outline(outline, closed=False).contains_points(centres)
    return inside.reshape(rows.shape), (top, left)


def _regions(dataset: Dataset) -> tuple[Segment, ...]:
    observed = {
        int(item.ReferencedROINumber): item
        for item in dataset.get("RTROIObservationsSequence") or ()
    }
    return tuple(
        _region(item, observed.get(int(item.ROINumber), Dataset()))
        for item in dataset.StructureSetROISequence
    )


def _region(item: Dataset, observed: Dataset) -> Segment:
    codes = observed.get("RTROIIdentificationCodeSequence") or ()
    return Segment(
        number=int(item.ROINumber),
        label=fold(str(item.get("ROIName") or "")),
        meaning=fold(str(codes[0].get("CodeMeaning") or "")) if codes else "",
        kind=code_in(codes[0]) if codes else None,
        is_prediction=_is_prediction(item),
    )


def _is_prediction(item: Dataset) -> bool:
    """Whether a version of ours made it, by what it says of how."""
    description = str(item.get("ROIGenerationDescription") or "")
    return item.get("ROIGenerationAlgorithm") == "AUTOMATIC" and description.startswith("IODEEP.")


def _series(dataset: Dataset) -> Iterator[str]:
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                yield str(series.SeriesInstanceUID)
