"""The frames of image objects: where each one lies, and its values when they are asked for.

Single-frame objects have their place in the Image Plane Module (PS3.3 Section C.7.6.2), enhanced
ones in their functional groups (Section C.7.6.16); projections such as CR and DX have none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset

from clients.data.pixels import check_kind, read_pixels
from clients.data.quarantine import Reason, Unusable

_DEFER_BYTES = 1024  # larger elements, the pixels, stay in the file until they are decoded
_FLAT = np.array([1.0, 0, 0, 0, 1, 0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Acquisition:
    """What tells apart acquisitions that one series holds, as far as it is said.

    image_type: values 3 and 4 of Image Type, such as M and P
    echo_ms:    Echo Time
    moment:     Temporal Position Identifier or Index
    """

    image_type: tuple[str, ...]
    echo_ms: float | None
    moment: float | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plane:
    """One frame of an image object, its pixels still in the file.

    instance:      SOP Instance UID of the object
    frame:         which of its frames, from 0
    position:      of the first voxel's centre, mm in LPS
    orientation:   direction cosines along a row, then along a column
    spacing_mm:    between rows, then between columns
    is_projection: it lies nowhere; position and orientation are made up
    is_of_many:    its object has more frames
    acquisition:   what it was acquired as
    """

    instance: str
    frame: int
    frame_of_reference: str
    shape: tuple[int, int]
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing_mm: NDArray[np.float64]
    is_projection: bool
    is_of_many: bool
    acquisition: Acquisition
    dataset: Dataset
    transformation: Dataset

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.orientation[:3], self.orientation[3:])

    def read(self) -> NDArray[np.float32]:
        """Its values (H, W), once: what was read of the file is let go of.

        Raises :class:`Unusable` for pixels that cannot be decoded.
        """
        values = read_pixels(
            self.dataset, self.frame, self.transformation, is_projection=self.is_projection
        )
        if not self.is_of_many:
            self.dataset.pop("PixelData", None)
        return values

    def __repr__(self) -> str:
        return f"Plane({self.shape[0]} x {self.shape[1]}, frame {self.frame})"


def read_planes(path: Path) -> list[Plane]:
    """All frames of one object. Raises :class:`Unusable` for what is no image of numbers."""
    try:
        dataset = pydicom.dcmread(path, defer_size=_DEFER_BYTES)
        check_kind(dataset)
        return list(_planes(dataset))
    except Unusable:
        raise
    except Exception as error:  # a damaged file can raise anything in the parser
        raise Unusable(Reason.IMAGE_UNDECODABLE, "an image that is no readable DICOM") from error


def _planes(dataset: Dataset) -> Iterator[Plane]:
    count = int(dataset.get("NumberOfFrames") or 1)
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        if count != 1:
            raise Unusable(Reason.IMAGE_UNSUPPORTED, "several frames, which say no place each")
        acquisition = _acquisition(dataset, dataset, dataset)
        yield _plane(dataset, 0, dataset, dataset, dataset, dataset, acquisition)
        return
    groups = dataset.PerFrameFunctionalGroupsSequence
    shared = dataset.SharedFunctionalGroupsSequence[0]
    if len(groups) != count:
        raise Unusable(Reason.IMAGE_UNDECODABLE, "frames and their groups differ in number")
    for frame, group in enumerate(groups):
        position, orientation, measures, echo, content = (
            functional_group(group, shared, name)
            for name in (
                "PlanePosition", "PlaneOrientation", "PixelMeasures", "MREcho", "FrameContent"
            )
        )  # fmt: skip
        # Multi-frame Secondary Capture has its rescale at the top (PS3.3 Section C.8.6.3).
        transformation = functional_group(group, shared, "PixelValueTransformation") or dataset
        acquisition = _acquisition(dataset, echo, content)
        yield _plane(dataset, frame, position, orientation, measures, transformation, acquisition)


def functional_group(group: Dataset, shared: Dataset, name: str) -> Dataset:
    """A functional group macro's item: the frame's own, else the one all frames share; else an
    empty one."""
    keyword = f"{name}Sequence"
    for holder in (group, shared):
        if holder.get(keyword):
            item: Dataset = holder[keyword].value[0]
            return item
    return Dataset()


def _plane(
    dataset: Dataset,
    frame: int,
    position: Dataset,
    orientation: Dataset,
    measures: Dataset,
    transformation: Dataset,
    acquisition: Acquisition,
) -> Plane:
    # A projection has neither; what has one of the two is a slice, and lacks the other.
    lies = "ImagePositionPatient" in position or "ImageOrientationPatient" in orientation
    spacing = "PixelSpacing"
    if not lies and spacing not in measures:
        spacing = "ImagerPixelSpacing"
    return Plane(
        instance=str(dataset.SOPInstanceUID),
        frame=frame,
        frame_of_reference=str(dataset.get("FrameOfReferenceUID") or ""),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        position=_numbers(position, "ImagePositionPatient", 3) if lies else np.zeros(3),
        orientation=_numbers(orientation, "ImageOrientationPatient", 6) if lies else _FLAT,
        spacing_mm=_spacing(measures, spacing),
        is_projection=not lies,
        is_of_many=dataset.get("PerFrameFunctionalGroupsSequence") is not None,
        acquisition=acquisition,
        dataset=dataset,
        transformation=transformation,
    )


def _acquisition(dataset: Dataset, echo: Dataset, content: Dataset) -> Acquisition:
    types = dataset.get("ImageType") or ()
    echoes = (_number(echo, keyword) for keyword in ("EchoTime", "EffectiveEchoTime"))
    moments = (
        _number(content, keyword)
        for keyword in ("TemporalPositionIdentifier", "TemporalPositionIndex")
    )
    return Acquisition(
        image_type=() if isinstance(types, str) else tuple(str(value) for value in types[2:4]),
        echo_ms=next((value for value in echoes if value is not None), None),
        moment=next((value for value in moments if value is not None), None),
    )


def _number(dataset: Dataset, keyword: str) -> float | None:
    """None where it is not there, or no number."""
    try:
        number = float(dataset.get(keyword))
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _spacing(dataset: Dataset, keyword: str) -> NDArray[np.float64]:
    spacing_mm = _numbers(dataset, keyword, 2)
    if (spacing_mm <= 0).any():
        raise Unusable(Reason.IMAGE_UNSUPPORTED, f"an image whose {keyword} is not above 0 mm")
    return spacing_mm


def _numbers(dataset: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    values = dataset.get(keyword)
    if values is None or len(values) != count:
        raise Unusable(Reason.IMAGE_UNSUPPORTED, f"an image without {keyword}")
    numbers = np.array([float(value) for value in values])
    if not np.isfinite(numbers).all():
        raise Unusable(Reason.IMAGE_UNSUPPORTED, f"an image whose {keyword} is not finite")
    return numbers
