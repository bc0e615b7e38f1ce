"""Labels as a SEG beside their images (PS3.3 Section A.51), and their volumes as an SR (PS3.16
TID 1500).

Their UIDs are made from the version, the series and its instances, so the same version on the same
series gives the same ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from clients.data.volumes import LPS_TO_RAS, Volume
from clients.inference.coding import (
    SOURCE,
    concept,
    description_of,
    kind_of,
    modifier_of,
)
from federation.iodeep.manifest import VersionManifest, uid_of
from federation.software import software

_SEG_NUMBER, _SR_NUMBER = 9701, 9702  # of their series: far from what scanners count


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """The UIDs of what a version makes of a series; ``key`` makes them."""

    key: str

    @classmethod
    def of(cls, version: VersionManifest, series: str, instances: Sequence[str]) -> "Results":
        return cls(key="/".join((version.uid, series, *sorted(set(instances)))))

    def uid(self, what: str) -> str:
        """A UID for ``what``: ``seg``, ``sr``, or something within them."""
        return uid_of(f"{self.key}#{what}")


def write_results(
    volume: Volume,
    labels: NDArray[np.uint8],
    images: Sequence[Path],
    version: VersionManifest,
    results: Results,
    folder: Path,
    *,
    note: str = "",
) -> tuple[list[Path], dict[int, float]]:
    """Write the SEG and, but of a projection, the SR; their paths, and the volume in millilitres
    of each output label.

    labels: uint8 (D, H, W) on the volume's grid
    note:   what a reader of the SEG must know, up to 64 characters
    """
    sources = _in_order(images, volume)
    seg = _segmentation(volume, labels, sources, version, results, note)
    paths = [folder / "seg.dcm"]
    seg.save_as(paths[0], enforce_file_format=True)
    if volume.is_projection:
        return paths, {}
    counts = np.bincount(labels.reshape(-1), minlength=len(version.outputs) + 1)
    voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
    volumes_ml = {one.number: float(counts[one.number]) * voxel_ml for one in version.outputs}
    report = _report(seg, sources, version, results, volumes_ml)
    paths.append(folder / "sr.dcm")
    report.save_as(paths[1], enforce_file_format=True)
    return paths, volumes_ml


def _in_order(images: Sequence[Path], volume: Volume) -> list[Dataset]:
    """The images' headers in the order of the volume's slices; of an enhanced one, itself."""
    headers = {
        str(ds.SOPInstanceUID): ds
        for ds in (dcmread(path, stop_before_pixels=True) for path in images)
    }
    return [headers[uid] for uid in dict.fromkeys(volume.instances)]


def _segmentation(
    volume: Volume,
    labels: NDArray[np.uint8],
    sources: Sequence[Dataset],
    version: VersionManifest,
    results: Results,
    note: str,
) -> Dataset:
    pixels: NDArray[np.uint8] | highdicom.Volume = labels
    if len(sources) == 1 and len(labels) > 1:
        pixels = highdicom.Volume(
            labels,
            LPS_TO_RAS @ volume.affine,
            coordinate_system="PATIENT",
            frame_of_reference_uid=volume.frame_of_reference or None,
        )
    seg: Dataset = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=[
            description_of(output, version, results.key) for output in version.outputs
        ],
        series_instance_uid=results.uid("seg series"),
        series_number=_SEG_NUMBER,
        sop_instance_uid=results.uid("seg"),
        instance_number=1,
        manufacturer=SOURCE,
        manufacturer_model_name="iodeep site predict",
        software_versions=software(),
        device_serial_number="0",
        content_label="PREDICTION",
        content_description=(note or "Proposed by a network, accepted by nobody")[:64],
    )
    seg.SeriesDescription = f"{version.line.slug} {version.branch}:{version.round}"
    return seg


def _report(
    seg: Dataset,
    sources: Sequence[Dataset],
    version: VersionManifest,
    results: Results,
    volumes_ml: Mapping[int, float],
) -> Dataset:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid_of(f"{version.uid}#device"),
        name=SOURCE,
        manufacturer_name=SOURCE,
        model_name=version.line.patient_id,
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            )
        ),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[
            _measured(seg, number, volume_ml, version, results)
            for number, volume_ml in volumes_ml.items()
        ],
    )
    report: Dataset = sr.Comprehensive3DSR(
        evidence=[seg, *sources],
        content=content[0],
        series_instance_uid=results.uid("sr series"),
        series_number=_SR_NUMBER,
        sop_instance_uid=results.uid("sr"),
        instance_number=1,
        manufacturer=SOURCE,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    report.SeriesDescription = f"{seg.SeriesDescription} volumes"
    return report


def _measured(
    seg: Dataset, number: int, volume_ml: float, version: VersionManifest, results: Results
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    output = version.outputs[number - 1]
    _, kind = kind_of(output, version)
    modifier = modifier_of(output, version)
    algorithm = sr.AlgorithmIdentification(name=version.line.patient_id, version=version.uid)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=results.uid(f"tracking{number}"),
            identifier=f"{version.line.slug} {number}",
        ),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=number,
            source_series=sr.SourceSeriesForSegmentation(
                seg.ReferencedSeriesSequence[0].SeriesInstanceUID
            ),
        ),
        finding_type=kind,
        finding_sites=[sr.FindingSite(anatomic_location=kind, topographical_modifier=modifier)],
        algorithm_id=algorithm,
        measurements=[
            sr.Measurement(
                name=concept(codes.SCT.Volume),
                value=round(volume_ml, 6),
                unit=codes.UCUM.CubicCentimeter,
            )
        ],
    )
