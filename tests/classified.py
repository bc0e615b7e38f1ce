"""Small classified images: CT or DX with a bright blob or none, and what says which."""

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

EDGE = 16
FINDING = Code("121071", "DCM", "Finding")
BLOB = Code("4147007", "SCT", "Mass")
NONE = Code("17621005", "SCT", "Normal")
VALUES = (BLOB, NONE)
TRACKING = hd.sr.TrackingIdentifier(
    uid=generate_uid(entropy_srcs=["tracking"]), identifier="finding"
)


def write_series(
    folder: Path, name: str, *, has_blob: bool, seed: int, slices: int = EDGE, modality: str = "CT"
) -> list[Path]:
    """A CT of slices, or a projection of one, of noise about 100 with a blob of 160 in it.

    Patient ID and UIDs follow from ``name``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    voxels = 100 + 8 * random.standard_normal((slices, EDGE, EDGE))
    if has_blob:
        d, h, w = (int(n) for n in random.integers(2, EDGE - 8, 3))
        d = d if slices > 1 else 0
        voxels[d : d + 6, h : h + 6, w : w + 6] += 60
    paths = []
    for number, plane in enumerate(voxels.astype(np.uint16)):
        ds = _instance(name, number, modality)
        if modality == "CT":
            ds.ImagePositionPatient = [0, 0, number]
            ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            ds.PixelSpacing = [1, 1]
            ds.FrameOfReferenceUID = uid(name, "frame")
        else:
            ds.ImagerPixelSpacing = [1, 1]
        ds.PixelData = plane.tobytes()
        paths.append(folder / f"{name}-{number}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def _instance(name: str, number: int, modality: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = CTImageStorage if modality == "CT" else ComputedRadiographyImageStorage
    ds.SOPInstanceUID = uid(name, number)
    ds.PatientID, ds.PatientName = patient(name), f"Secret^{name}"
    ds.PatientBirthDate, ds.PatientSex = "", "O"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(name, "study"), uid(name, "series")
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240101", "120000", "1", ""
    ds.ReferringPhysicianName = ""
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = modality, 1, number + 1
    ds.Rows = ds.Columns = EDGE
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    return ds


def patient(name: str) -> str:
    return f"SECRET-{name}"


def uid(name: str, what: object) -> str:
    return str(generate_uid(entropy_srcs=[f"{name}/{what}"]))


def write_report(images: Sequence[Path], value: Code, *, series_uid: str = "") -> Path:
    """A measurement report (TID 1500) beside the images, with one finding of this value."""
    evidence = [pydicom.dcmread(path) for path in images]
    observer = hd.sr.ObserverContext(
        observer_type=hd.sr.CodedConcept("121006", "DCM", "Person"),
        observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(name="Doe^Jane"),
    )
    evaluation = hd.sr.QualitativeEvaluation(
        name=hd.sr.CodedConcept.from_code(FINDING), value=hd.sr.CodedConcept.from_code(value)
    )
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TRACKING,
        qualitative_evaluations=[evaluation],
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(evidence[0])],
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_person_context=observer),
        procedure_reported=hd.sr.CodedConcept("77477000", "SCT", "CT"),
        imaging_measurements=[group],
    )
    name = images[0].stem.rpartition("-")[0]
    document = hd.sr.ComprehensiveSR(
        evidence=evidence,
        content=content[0],
        series_number=9,
        series_instance_uid=series_uid or uid(name, "report series"),
        sop_instance_uid=uid(name, f"report {value.value} {series_uid}"),
        instance_number=1,
        manufacturer="tests",
    )
    path = images[0].with_name(f"{name}-report-{value.value}.dcm")
    document.save_as(path)
    return path
