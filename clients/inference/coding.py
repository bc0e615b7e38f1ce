"""A version's output labels as coded segments (PS3.3 Section C.8.20.4)."""

from typing import cast

from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import SegmentDescription
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from federation.iodeep.labels import Concept
from federation.iodeep.manifest import OutputLabel, VersionManifest, uid_of
from federation.samples.meanings import category_of, segment_of

SOURCE = "IODeep Federation"


def algorithm_of(version: VersionManifest) -> AlgorithmIdentificationSequence:
    """What says that a version made something: its line's Patient ID, and its UID.

    :mod:`clients.data.labels.segments` knows predictions by it.
    """
    return AlgorithmIdentificationSequence(
        name=version.line.patient_id,
        family=cast(Code, codes.cid7162.ArtificialIntelligence),
        version=version.uid,
        source=SOURCE,
    )


def kind_of(output: OutputLabel, version: VersionManifest) -> tuple[CodedConcept, CodedConcept]:
    """Category and type of an output label; what has no public code gets one of our own."""
    if output.concept is not None:
        kind = _code(output.concept)
        return concept(category_of(kind)), concept(kind)
    segment = segment_of(output.number, output.name, _code(version.line.region))
    return concept(segment.category), concept(segment.kind)


def modifier_of(output: OutputLabel, version: VersionManifest) -> CodedConcept | None:
    """What makes a type more exact, such as Anterior."""
    if output.concept is not None:
        return concept(_code(output.modifier)) if output.modifier else None
    segment = segment_of(output.number, output.name, _code(version.line.region))
    return concept(segment.modifier) if segment.modifier else None


def description_of(output: OutputLabel, version: VersionManifest, made: str) -> SegmentDescription:
    """An output label as an AUTOMATIC segment; ``made`` makes its tracking UID."""
    category, kind = kind_of(output, version)
    modifier = modifier_of(output, version)
    description = SegmentDescription(
        segment_number=output.number,
        segment_label=output.name,
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm_of(version),
        anatomic_regions=[concept(_code(version.line.region))],
        tracking_uid=uid_of(f"{made}#tracking{output.number}"),
        tracking_id=f"{version.line.slug} {output.number}",
    )
    if modifier is not None:
        item: Dataset = description.SegmentedPropertyTypeCodeSequence[0]
        item.SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description


def concept(code: Code) -> CodedConcept:
    """A new item at each call, as highdicom keeps what it is given."""
    return CodedConcept(code.value, code.scheme_designator, code.meaning)


def _code(concept: Concept) -> Code:
    return Code(concept.value, concept.scheme, concept.meaning)
