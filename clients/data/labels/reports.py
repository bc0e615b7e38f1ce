"""Structured reports on images: SR documents (PS3.3 Sections A.35 and C.17).

Measurement reports (PS3.16 TID 1500) and documents of any other template are read alike: a content
item of value type CODE or TEXT counts by its value, whatever finding it is the value of. Why there
was an examination, what was known before, and what only names or describes things counts for
nothing. Whether somebody verified the document is not looked at.
"""

from collections.abc import Iterator, Mapping, Sequence

from pydicom import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExtensibleSRStorage,
    SegmentationStorage,
    SurfaceSegmentationStorage,
)

from clients.data.labels.segments import LabelHeader, Segment, code_in, fold
from clients.data.quarantine import Reason, Unusable

SOP_CLASSES = tuple(
    str(uid)
    for uid in (
        BasicTextSRStorage,
        EnhancedSRStorage,
        ComprehensiveSRStorage,
        Comprehensive3DSRStorage,
        ExtensibleSRStorage,
    )
)
SOURCE = "SR"

NO_FINDINGS = frozenset(
    {
        ("11329-0", "LN"),  # History, as sections are coded today (PS3.16 CID 7001)
        ("18785-6", "LN"),  # Indications for Procedure
        ("18834-2", "LN"),  # Previous Findings
        ("55108-5", "LN"),  # Patient Presentation
        ("55111-9", "LN"),  # Current Procedure Descriptions
        ("55114-3", "LN"),  # Prior Procedure Descriptions
        ("55115-0", "LN"),  # Request
        ("55752-0", "LN"),  # Clinical Information
        ("121060", "DCM"),  # History; from here on as sections were coded, and items are (CID 7002)
        ("121062", "DCM"),  # Request
        ("121064", "DCM"),  # Current Procedure Descriptions
        ("121065", "DCM"),  # Procedure Description
        ("121066", "DCM"),  # Prior Procedure Descriptions
        ("121068", "DCM"),  # Previous Findings
        ("121069", "DCM"),  # Previous Finding
        ("121109", "DCM"),  # Indications for Procedure
        ("121110", "DCM"),  # Patient Presentation
        ("111401", "DCM"),  # Reason for Procedure
        ("122139", "DCM"),  # Reason for Study
        ("111513", "DCM"),  # Relevant Previous Procedures
        ("111531", "DCM"),  # Previous Procedure
        ("111549", "DCM"),  # Previous Reports
        ("111028", "DCM"),  # Image Library (TID 1600), which describes images
        ("112039", "DCM"),  # Tracking Identifier (TID 1501), a name such as "lesion 2"
    }
)
"""Concept names of items that say nothing of the images' class, nor does anything below them."""

_MOST_ITEMS = 100_000
_LONGEST = 64  # characters of a text that can be a class; reports' prose is left where it is
_DRAWN = (SegmentationStorage, SurfaceSegmentationStorage)
_COORDINATES = ("SCOORD", "SCOORD3D", "TCOORD")
_MOST_SOURCES = 16  # of coordinates, which have one; any number of items may refer to them

_Said = tuple[Segment, frozenset[str] | None]
"""A value, and the series that it is said of; None where it names none, and means all."""


def header_of(dataset: Dataset) -> LabelHeader:
    """The series that a report is evidence of, and its values.

    Of the Current Requested Procedure Evidence Sequence (PS3.3 Section C.17.2), which names every
    instance of the same study that the content refers to. Where values are said of some of these
    series, it is those series. Raises :class:`Unusable` where it says one thing of one of them and
    something else of another: a header has the same values for all its series.
    """
    evidence = _evidence_of(dataset)
    said = list(_values(dataset, evidence))
    series = _series_of(said, tuple(dict.fromkeys(evidence.values())))
    return LabelHeader(
        source=SOURCE,
        series=series,
        segments=tuple(
            value for value, about in said if about is None or about.intersection(series[:1])
        ),
    )


def _evidence_of(document: Dataset) -> dict[str, str]:
    """Series Instance UIDs by those of their instances, and by themselves."""
    found = {}
    for study in document.get("CurrentRequestedProcedureEvidenceSequence") or ():
        for one in study.get("ReferencedSeriesSequence") or ():
            series = str(one.SeriesInstanceUID)
            found[series] = series
            for instance in one.get("ReferencedSOPSequence") or ():
                found[str(instance.ReferencedSOPInstanceUID)] = series
    return found


def _series_of(said: Sequence[_Said], every: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``every`` that values are said of, as long as they are the same values."""
    values: dict[frozenset[str] | None, set[object]] = {}
    for value, about in said:
        values.setdefault(about, set()).add((value.label, value.meaning, value.kind))
    named = {series for about in values for series in about or ()}
    if not named:
        return every
    of_each = [
        set().union(*(some for about, some in values.items() if about is None or series in about))
        for series in named
    ]
    if any(one != of_each[0] for one in of_each):
        raise Unusable(
            Reason.LABELS_UNSUPPORTED, f"a report that tells apart {len(named)} series of a study"
        )
    return tuple(series for series in every if series in named)


def _values(document: Dataset, evidence: Mapping[str, str]) -> Iterator[_Said]:
    left: list[tuple[Dataset, frozenset[str] | None]] = [(document, None)]
    seen = 0
    while left:
        item, about = left.pop()
        seen += 1
        if seen > _MOST_ITEMS:
            raise Unusable(
                Reason.LABELS_UNSUPPORTED, f"a report of more than {_MOST_ITEMS} content items"
            )
        if any(code_in(name) in NO_FINDINGS for name in item.get("ConceptNameCodeSequence") or ()):
            continue
        shown = list(_shown_by(item, document, evidence))
        if shown:  # nearer than what its ancestors show; nothing, where it is of another study
            about = frozenset(evidence[uid] for uid in shown if uid in evidence)
        left.extend((one, about) for one in item.get("ContentSequence") or ())
        for value in _values_of(item, seen):
            yield value, about


def _values_of(item: Dataset, number: int) -> Iterator[Segment]:
    if item.get("ValueType") == "TEXT":
        text = fold(str(item.get("TextValue") or ""))
        if 0 < len(text) <= _LONGEST:
            yield Segment(number=number, label=text)
    elif item.get("ValueType") == "CODE":
        for code in item.get("ConceptCodeSequence") or ():
            meaning = fold(str(code.get("CodeMeaning") or ""))
            yield Segment(number=number, label="", meaning=meaning, kind=code_in(code))


def _shown_by(item: Dataset, document: Dataset, evidence: Mapping[str, str]) -> Iterator[str]:
    """UIDs of the images, or series of them, that a content item is about.

    It is one, has some as children, or has coordinates SELECTED FROM them (PS3.3 Section
    C.17.3.2.4). What is drawn on images, a SEG, is none; its Source Series for Segmentation
    (TID 1411) is.
    """
    yield from _instances_of(item)
    for child in item.get("ContentSequence") or ():
        one = _resolved(child, document)
        yield from _instances_of(one)
        if one.get("ValueType") == "UIDREF" and str(one.get("UID")) in evidence:
            yield str(one.UID)
        elif one.get("ValueType") in _COORDINATES:
            for source in (one.get("ContentSequence") or ())[:_MOST_SOURCES]:
                yield from _instances_of(_resolved(source, document))


def _instances_of(item: Dataset) -> Iterator[str]:
    if item.get("ValueType") == "IMAGE":
        for image in item.get("ReferencedSOPSequence") or ():
            if image.get("ReferencedSOPClassUID") not in _DRAWN:
                yield str(image.ReferencedSOPInstanceUID)


def _resolved(item: Dataset, document: Dataset) -> Dataset:
    """The content item itself, or the one that it stands for (by-reference, Section C.17.3.2.5)."""
    path = item.get("ReferencedContentItemIdentifier")
    if path is None:
        return item
    found = document
    for position in () if isinstance(path, int) else path[1:]:  # the first is the root's own 1
        found = found.ContentSequence[position - 1]
    return found
