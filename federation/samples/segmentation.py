"""The labels of a case as a BINARY DICOM SEG (PS3.3 Section A.51)."""

from collections.abc import Sequence

import highdicom
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.coding import Code

from federation.samples.case import Anatomy, Case, LabelledImage, Segment
from federation.samples.dicom import DATE, TIME, coded, slices, uid
from federation.software import software

_MANUFACTURER = "IODeep Federation"
_SERIES_OFFSET = 100


def segmentation(
    case: Case, image: LabelledImage, series: Sequence[Dataset], digest: str
) -> Dataset:
    """A SEG of ``image.labels`` that refers to ``series``; ``digest`` makes the UIDs.

    It describes every segment of the case's anatomy, also one that marks no voxel here.
    """
    seg = highdicom.seg.Segmentation(
        source_images=series,
        pixel_array=slices(image.labels, image.affine, case.plane).pixels,
        segmentation_type="BINARY",
        segment_descriptions=[
            _description(segment, case.anatomy, digest) for segment in case.anatomy.segments
        ],
        series_instance_uid=uid("seg series", digest),
        series_number=case.series_number + _SERIES_OFFSET,
        sop_instance_uid=uid("seg", digest),
        instance_number=1,
        manufacturer=_MANUFACTURER,
        manufacturer_model_name="iodeep import",
        software_versions=software(),
        device_serial_number="0",
        content_label="REFERENCE",
        content_description="Reference labels",
    )
    seg.SeriesDescription = f"{case.name} {case.channel}".rstrip() + " labels"
    _make_reproducible(seg, digest)
    return seg


def _description(
    segment: Segment, anatomy: Anatomy, digest: str
) -> highdicom.seg.SegmentDescription:
    """New concepts at each call: highdicom keeps the objects, and their modifiers, it is given."""
    description = highdicom.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.name,
        segmented_property_category=_concept(segment.category),
        segmented_property_type=_concept(segment.kind),
        algorithm_type="MANUAL",
        anatomic_regions=None if anatomy.region is None else [_concept(anatomy.region)],
        tracking_uid=uid("tracking", digest, segment.number),
        tracking_id=f"segment {segment.number}",
    )
    if segment.modifier is not None:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(segment.modifier)]
    return description


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme_designator, code.meaning)


def _make_reproducible(seg: Dataset, digest: str) -> None:
    """Replace what highdicom takes from the clock or at random."""
    seg.SeriesDate = seg.ContentDate = DATE
    seg.SeriesTime = seg.ContentTime = TIME
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        if keyword in seg:
            del seg[keyword]
    if "ContributingEquipmentSequence" in seg:
        del seg.ContributingEquipmentSequence
    organization = uid("dimension organization", digest)
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
