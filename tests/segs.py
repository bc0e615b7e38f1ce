"""DICOM SEGs as highdicom writes them."""

from collections.abc import Iterable, Sequence

import highdicom
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset


def seg_of(
    images: Sequence[Dataset],
    pixels: "NDArray[np.generic] | highdicom.Volume",
    names: Iterable[str],
    *,
    kind: str = "BINARY",
) -> Dataset:
    """A SEG of ``images``, its segments called ``names``, from 1 on."""
    concept = highdicom.sr.CodedConcept("706342009", "SCT", "Phantom")
    seg: Dataset = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=concept,
                segmented_property_type=concept,
                algorithm_type="MANUAL",
            )
            for number, name in enumerate(names, start=1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=9,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="tests",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
    )
    return seg
