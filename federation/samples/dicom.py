"""A case as DICOM: a classic single-frame series, CT or MR, and one SEG that refers to it.

CT Image Storage (PS3.3 Section A.3), MR Image Storage (Section A.4) and Segmentation Storage
(Section A.51), Explicit VR Little Endian. The same case gives the same bytes and UIDs; other
content gives other UIDs.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from federation.samples.case import (
    INVERSION_PREPARED,
    Case,
    LabelledImage,
    Modality,
    Plane,
    Problem,
    UnusableCase,
)
from federation.samples.lossless import hounsfield_and_slope, stored_and_slope

# The dates are invented, and fixed so that the same case gives the same bytes.
DATE, TIME = "20200101", "120000"

_NAMESPACE = uuid.UUID("c5a3f6de-4d7a-4c39-8cb4-3c7a1d4d9a52")
_CONVERSION = "1"  # part of every UID: raise it whenever the same case gives other bytes
# Which array axis (0 right, 1 anterior, 2 superior) the slices, rows and columns follow, and
# whether against its direction: columns run to the patient's left or back, rows to the back
# or feet, and slices along the cross product of the two (PS3.3 Section C.7.6.2.1.1).
_PLANES: dict[Plane, tuple[tuple[int, bool], ...]] = {
    "axial": ((2, False), (1, True), (0, True)),
    "coronal": ((1, True), (2, True), (0, True)),
    "sagittal": ((0, False), (2, True), (1, True)),
}
_SOP_CLASSES: dict[Modality, UID] = {"CT": CTImageStorage, "MR": MRImageStorage}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Slices:
    """A grid as DICOM sees it.

    pixels: (slices, rows, columns)
    affine: float64 (4, 4), index (slice, row, column) to LPS millimetres
    """

    pixels: NDArray[np.generic]
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Between slices, rows and columns."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0), np.float64)

    @property
    def directions(self) -> NDArray[np.float64]:
        """Unit vectors, as columns, in which slice, row and column index grow."""
        return np.asarray(self.affine[:3, :3] / self.spacing_mm, np.float64)

    def position(self, number: int) -> NDArray[np.float64]:
        """The centre of the first voxel of slice ``number`` (from 0), LPS millimetres."""
        return np.asarray(self.affine[:3, 3] + number * self.affine[:3, 0], np.float64)


def slices(array: NDArray[np.generic], affine: NDArray[np.float64], plane: Plane) -> Slices:
    """Cut an (X, Y, Z) array with a RAS affine into slices of ``plane``.

    Raises :class:`UnusableCase` where the axes are not at right angles: no series could hold
    such a grid.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        raise UnusableCase(Problem.GRID_UNUSABLE, "the image's axes are not at right angles")
    turns = _PLANES[plane]
    order = [axis for axis, _ in turns]
    pixels = np.transpose(array, order)
    matrix = np.eye(4)
    matrix[:, :3] = (_RAS_TO_LPS @ affine)[:, order]
    matrix[:, 3] = (_RAS_TO_LPS @ affine)[:, 3]
    for dimension, (_, against) in enumerate(turns):
        if against:
            matrix[:3, 3] += matrix[:3, dimension] * (pixels.shape[dimension] - 1)
            matrix[:3, dimension] *= -1
            pixels = np.flip(pixels, dimension)
    return Slices(pixels=np.ascontiguousarray(pixels), affine=matrix)


def image_series(case: Case, image: LabelledImage, digest: str) -> list[Dataset]:
    """One instance a slice, in geometric order; ``digest`` makes the UIDs.

    A CT's stored values are signed, those of an MR image are not. Raises :class:`UnusableCase`
    for voxels that no integers of 16 bits and a slope stand for, and for a grid that no series
    can hold.
    """
    shared = _shared_attributes(case, digest)
    stored: NDArray[np.uint16 | np.int16]
    slope: str | None
    if case.modality == "CT":
        stored, slope = hounsfield_and_slope(image.voxels)
        rescale_type = "HU"
    else:
        stored, slope = stored_and_slope(image.voxels)
        rescale_type = "US"
    grid = slices(stored, image.affine, case.plane)
    _add_pixel_description(shared, grid, float(slope or 1))
    if slope is not None:  # of MR a Standard Extended SOP class; its scanners write it too
        shared.RescaleIntercept, shared.RescaleSlope = "0", slope
        shared.RescaleType = rescale_type
    series = []
    for number, pixels in enumerate(grid.pixels):
        dataset = Dataset()
        dataset.update(shared)
        dataset.SOPInstanceUID = uid(case.modality.lower(), digest, number)
        dataset.InstanceNumber = number + 1
        position = grid.position(number)
        dataset.ImagePositionPatient = [decimal(value) for value in position]
        dataset.SliceLocation = decimal(float(position @ grid.directions[:, 0]))
        dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        series.append(dataset)
    return series


def uid(*words: object) -> str:
    """A UID made from ``words`` alone (PS3.5 Section B.2: 2.25 and a UUID)."""
    text = "|".join(str(word) for word in (_CONVERSION, *words))
    return f"2.25.{uuid.uuid5(_NAMESPACE, text).int}"


def decimal(value: float) -> str:
    """A Decimal String of at most 16 characters (PS3.5 Section 6.2), off by at most 1e-9."""
    text = f"{value + 0.0:.10g}"
    if len(text) > 16 or abs(float(text) - value) > 1e-9 * max(1.0, abs(value)):
        text = f"{round(value, 10) + 0.0:.10f}".rstrip("0").rstrip(".")[:16]
    return text


def coded(code: Code) -> Dataset:
    """A Code Sequence item (PS3.3 Section 8.8), new at each call: items must not be shared."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _shared_attributes(case: Case, digest: str) -> Dataset:
    """Patient, study, series and frame of reference: the same in every slice."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = _SOP_CLASSES[case.modality]
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = DATE
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = TIME
    ds.AccessionNumber = ""
    ds.Modality = case.modality
    ds.Manufacturer = ""
    ds.InstitutionName = f"Demo hospital {case.site}" if case.site else ""
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = case.collection
    ds.SeriesDescription = f"{case.name} {case.channel}".rstrip()
    ds.DerivationDescription = f"{case.collection}, re-encoded as DICOM"
    ds.PatientName = f"{case.patient_id}^"
    ds.PatientID = case.patient_id
    ds.PatientBirthDate = ""
    ds.PatientSex = ""
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "Invented pseudonym and dates"
    ds.BodyPartExamined = case.anatomy.body_part
    if case.anatomy.paired:
        ds.Laterality = ""
    if case.anatomy.region is not None:
        ds.AnatomicRegionSequence = [coded(case.anatomy.region)]
    if case.modality == "CT":
        ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
        ds.KVP = None
    else:
        ds.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
        ds.ScanningSequence = list(case.sequence.scanning)
        ds.SequenceVariant, ds.ScanOptions = case.sequence.variant, ""
        ds.MRAcquisitionType = case.sequence.acquisition
        ds.RepetitionTime = ds.EchoTime = ds.EchoTrainLength = None
        if "IR" in case.sequence.scanning:
            ds.InversionTime = None
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = uid("study", case.collection, case.site, case.patient_id, case.study)
    ds.SeriesInstanceUID = uid("series", digest)
    ds.StudyID = case.study
    ds.SeriesNumber = case.series_number
    ds.AcquisitionNumber = 1
    ds.FrameOfReferenceUID = uid("frame of reference", digest)
    ds.PositionReferenceIndicator = ""
    return ds


def _add_pixel_description(ds: Dataset, grid: Slices, slope: float) -> None:
    between_slices, between_rows, between_columns = grid.spacing_mm
    ds.SliceThickness = decimal(between_slices)
    ds.SpacingBetweenSlices = decimal(between_slices)
    ds.PixelSpacing = [decimal(between_rows), decimal(between_columns)]
    row, column = grid.directions[:, 2], grid.directions[:, 1]
    ds.ImageOrientationPatient = [decimal(value) for value in (*row, *column)]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = grid.pixels.shape[1:]
    ds.BitsAllocated = 16
    ds.PixelRepresentation = int(grid.pixels.dtype.kind == "i")
    ds.BitsStored = 12 if np.max(grid.pixels) < 4096 and not ds.PixelRepresentation else 16
    ds.HighBit = ds.BitsStored - 1
    low, high = _display_range(grid.pixels)
    ds.WindowCenter = f"{(low + high) / 2 * slope:.6g}"
    ds.WindowWidth = f"{max(1.0, (high - low) * slope):.6g}"


def _display_range(pixels: NDArray[np.generic]) -> Sequence[float]:
    values = pixels[pixels != 0]
    return [float(v) for v in np.percentile(values, [1, 99])] if values.size else [0.0, 1.0]


def content_digest(case: Case, image: LabelledImage) -> str:
    """SHA-256 over all that decides the bytes of the case's files."""
    words: tuple[object, ...] = (case.collection, case.site, case.name, case.patient_id)
    words += (case.study, case.plane, case.series_number, case.anatomy)
    if (case.modality, case.channel, case.sequence) != ("MR", "", INVERSION_PREPARED):
        # Left out of what was all there was at first, whose UIDs must not change.
        words += (case.modality, case.channel, case.sequence)
    digest = hashlib.sha256(repr(words).encode())
    for array in (image.voxels, image.labels, image.affine):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
