"""Label objects as files: what they are, and their labels on an image's grid."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset

from clients.data.labels import reports, segmentation, structures
from clients.data.labels.canvas import Canvas
from clients.data.labels.segments import LabelHeader, Wanted
from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import Volume

_DRAWING = (segmentation, structures)


def read_header(path: Path) -> LabelHeader:
    """What a label object refers to and marks, or says.

    Raises :class:`Unusable` for a file that is none.
    """
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        header: LabelHeader = _kind_of(dataset, (*_DRAWING, reports)).header_of(dataset)
        return header
    except Unusable:
        raise
    except Exception as error:  # a damaged file can raise anything in the parser
        raise Unusable(Reason.LABELS_UNDECODABLE, "a label object that cannot be read") from error


def read_labels(paths: Sequence[Path], volume: Volume, wanted: Wanted) -> NDArray[np.uint8]:
    """The label map uint8 (D, H, W) that one or several objects draw on ``volume``'s grid.

    Raises :class:`Unusable` where one cannot be decoded or does not lie on the grid, where an
    output label has no segment in any of them, a voxel has two, or none has any.
    """
    canvas = Canvas(volume)
    segments = []
    for path in paths:
        try:
            dataset = pydicom.dcmread(path)
            kind = _kind_of(dataset, _DRAWING)
            segments += kind.header_of(dataset).segments
            kind.draw(dataset, canvas, wanted)
        except Unusable:
            raise
        except Exception as error:  # decoders raise their own kinds; 1-bit RLE has no decoder
            raise Unusable(
                Reason.LABELS_UNDECODABLE, "a label object that cannot be decoded"
            ) from error
    wanted.check(segments)
    if not canvas.labels.any():
        raise Unusable(Reason.LABELS_EMPTY, "labels that mark no voxel")
    return canvas.labels


def _kind_of(dataset: Dataset, kinds: Sequence[ModuleType]) -> ModuleType:
    for kind in kinds:
        if dataset.SOPClassUID in kind.SOP_CLASSES:
            return kind
    raise Unusable(Reason.LABELS_UNDECODABLE, "an object that holds no labels")
