"""A hospital of many small studies, some of them broken, each in its own way.

Every study is one series of four slices of 8 x 8 voxels and a SEG of two structures, written from
one that pydicom and highdicom made, with UIDs and a patient of its own.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from clients.data.quarantine import Reason
from tests.segs import seg_of

SEGMENTS = ("inner structure", "outer structure")
EDGE, SLICES = 8, 4

Study = list[Dataset]
"""Slices, then what labels them."""


def write_studies(count: int, broken: Mapping[str, int], folder: Path) -> Iterator[list[Path]]:
    """The files of ``count`` studies, so many of them broken in each of the ways of FAULTS."""
    template = _template()
    folder.mkdir(parents=True, exist_ok=True)
    whole = {}
    for number, dataset in enumerate(template, start=1):
        path = folder / f"template-{number}"
        dataset.save_as(path, enforce_file_format=True)
        whole[f"5.{number}"] = path.read_bytes()
        path.unlink()
    faults = [name for name, share in broken.items() for _ in range(share)]
    for number in range(count):
        own = _prefix(number)
        if number < len(faults):
            yield _write(FAULTS[faults[number]][1](_own(template, number)), folder)
            continue
        paths = []
        for end, content in whole.items():  # of the same length, so the files stay whole
            changed = content.replace(_prefix(0).encode(), own.encode())
            changed = changed.replace(_patient(0).encode(), _patient(number).encode())
            path = folder / f"{own}.{end}.dcm"
            path.write_bytes(changed)
            paths.append(path)
        yield paths


def _prefix(number: int) -> str:
    return f"1.2.826.0.1.3680043.8.498.{10_000_000 + number}"


def _patient(number: int) -> str:
    return f"PATIENT-{number:06d}"


def _write(study: Study, folder: Path) -> list[Path]:
    paths = []
    for dataset in study:
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        path = folder / f"{dataset.SOPInstanceUID}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _template() -> Study:
    random = np.random.default_rng(1)
    study = [_slice(height, random) for height in range(SLICES)]
    labels = np.zeros((SLICES, EDGE, EDGE), np.uint8)
    labels[1:3, 2:6, 2:6] = 2
    labels[1:3, 3:5, 3:5] = 1
    seg = seg_of(study, labels, SEGMENTS)
    template = [*study, seg]
    _name(template, 0)
    return template


def _slice(height: int, random: np.random.Generator) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{height + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.4", "1.2.5", "1.2.6"
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P", "P^P", "", ""
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260101", "000000", "1", ""
    ds.ReferringPhysicianName = ""
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "MR", 1, height + 1
    ds.BodyPartExamined = "BRAIN"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.ImagePositionPatient = [0, 0, height]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [1, 1], 1
    ds.Rows = ds.Columns = EDGE
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.PixelData = random.integers(0, 1000, (EDGE, EDGE), np.uint16).tobytes()
    return ds


def _own(template: Study, number: int) -> Study:
    """A copy under UIDs of its own."""
    study = copy.deepcopy(template)
    _name(study, number)
    return study


def _name(study: Study, number: int) -> None:
    prefix = _prefix(number)
    for index, ds in enumerate(study, start=1):
        ds.PatientID = _patient(number)
        ds.StudyInstanceUID, ds.FrameOfReferenceUID = f"{prefix}.1", f"{prefix}.2"
        ds.SOPInstanceUID = f"{prefix}.5.{index}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.SeriesInstanceUID = f"{prefix}.{3 if index <= SLICES else 4}"
    study[-1].ReferencedSeriesSequence[0].SeriesInstanceUID = f"{prefix}.3"


# --- faults -------------------------------------------------------------------------------


def _of_slice(**attributes: object) -> Callable[[Study], Study]:
    """Of the second slice."""

    def change(study: Study) -> Study:
        for keyword, value in attributes.items():
            setattr(study[1], keyword, value)
        return study

    return change


def _of_seg(change: Callable[[Dataset], object]) -> Callable[[Study], Study]:
    def changed(study: Study) -> Study:
        change(study[-1])
        return study

    return changed


def _repeated(study: Study) -> Study:
    """Every slice once more, as if two series were in one."""
    again = [copy.deepcopy(ds) for ds in study[:SLICES]]
    for ds in again:
        ds.SOPInstanceUID += ".9"
    return [*again, *study]


def _without_patient(study: Study) -> Study:
    for ds in study:
        ds.PatientID = ""
    return study


def _overlap(seg: Dataset) -> None:
    """The frames of the second structure mark what those of the first do."""
    first, second = (
        [
            number
            for number, group in enumerate(seg.PerFrameFunctionalGroupsSequence)
            if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == segment
        ]
        for segment in (1, 2)
    )
    frames = seg.pixel_array.copy()
    for source, target in zip(first, second, strict=True):
        frames[target] |= frames[source]
    seg.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()


def _propose(seg: Dataset) -> None:
    for segment in seg.SegmentSequence:
        segment.SegmentAlgorithmType = "AUTOMATIC"
        segment.SegmentAlgorithmName = "IODEEP.MR.12738006.0.unet"


def _empty(seg: Dataset) -> None:
    seg.PixelData = bytes(len(seg.PixelData))


def _two_segs(study: Study) -> Study:
    again = copy.deepcopy(study[-1])
    again.SOPInstanceUID += ".9"
    again.SeriesInstanceUID += ".9"
    return [*study, again]


def _half_a_gap(study: Study) -> Study:
    study[-2].ImagePositionPatient = [0, 0, 3.5]
    return study


def _refer_elsewhere(seg: Dataset) -> None:
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4.5"


FAULTS: Mapping[str, tuple[tuple[Reason, ...], Callable[[Study], Study]]] = {
    "no SEG": ((Reason.NO_LABELS,), lambda study: study[:-1]),
    "a SEG of absent images": (
        (Reason.IMAGES_ABSENT, Reason.NO_LABELS),  # of the SEG, and of the images beside it
        _of_seg(_refer_elsewhere),
    ),
    "images lost": ((Reason.IMAGES_ABSENT,), lambda study: study[-1:]),
    "two SEGs": ((Reason.SEVERAL_LABELS,), _two_segs),
    "a prediction": ((Reason.PREDICTION,), _of_seg(_propose)),
    "an empty SEG": ((Reason.LABELS_EMPTY,), _of_seg(_empty)),
    "overlapping segments": ((Reason.SEGMENTS_OVERLAP,), _of_seg(_overlap)),
    "another structure": (
        (Reason.SEGMENT_MISSING,),
        _of_seg(lambda seg: setattr(seg.SegmentSequence[1], "SegmentLabel", "tail")),
    ),
    "another frame of reference": (
        (Reason.LABELS_OFF_GRID,),
        _of_seg(lambda seg: setattr(seg, "FrameOfReferenceUID", "1.2.3.4.5")),
    ),
    "a SEG cut short": (
        (Reason.LABELS_UNDECODABLE,),
        _of_seg(lambda seg: setattr(seg, "PixelData", seg.PixelData[:4])),
    ),
    "no Patient ID": ((Reason.NO_PATIENT_ID,), _without_patient),
    "a slice missing": ((Reason.SLICE_MISSING,), lambda study: [study[0], *study[2:]]),
    "every slice twice": ((Reason.SLICES_REPEATED,), _repeated),
    "a slice out of place": ((Reason.SLICES_IRREGULAR,), _half_a_gap),
    "a slice of another size": (
        (Reason.SLICES_IRREGULAR,),
        _of_slice(Rows=4, PixelData=bytes(4 * EDGE * 2)),
    ),
    "pixels cut short": ((Reason.IMAGE_UNDECODABLE,), _of_slice(PixelData=b"\0\0")),
    "colour": (
        (Reason.IMAGE_UNSUPPORTED,),
        _of_slice(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0,
                  PixelData=bytes(EDGE * EDGE * 6)),
    ),
    "an unlabelled scout": ((Reason.NO_LABELS,), lambda study: study[:1]),
}  # fmt: skip
