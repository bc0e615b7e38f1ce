"""Structured reports on images: SR documents (PS3.3 Sections A.35 and C.17).

Measurement reports (PS3.16 TID 1500) and documents of any other template are read alike: every
content item of value type CODE or TEXT counts by its value, whatever concept it is the value of.
Whether somebody verified the document is not looked at.
"""

from collections.abc import Iterator

from pydicom import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExtensibleSRStorage,
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

_MOST_ITEMS = 100_000
_LONGEST = 64  # characters of a text that can be a class; reports' prose is left where it is


def header_of(dataset: Dataset) -> LabelHeader:
    """The series that a report is evidence of, and its values.

    Of the Current Requested Procedure Evidence Sequence (PS3.3 Section C.17.2), which names every
    instance of the same study that the content refers to.
    """
    return LabelHeader(
        source=SOURCE,
        series=tuple(
            str(series.SeriesInstanceUID)
            for study in dataset.get("CurrentRequestedProcedureEvidenceSequence") or ()
            for series in study.get("ReferencedSeriesSequence") or ()
        ),
        segments=tuple(_values(dataset)),
    )


def _values(document: Dataset) -> Iterator[Segment]:
    left = [document]
    seen = 0
    while left:
        item = left.pop()
        seen += 1
        if seen > _MOST_ITEMS:
            raise Unusable(
                Reason.LABELS_UNSUPPORTED, f"a report of more than {_MOST_ITEMS} content items"
            )
        left.extend(item.get("ContentSequence") or ())
        if item.get("ValueType") == "TEXT":
            text = fold(str(item.get("TextValue") or ""))
            if 0 < len(text) <= _LONGEST:
                yield Segment(number=seen, label=text)
        elif item.get("ValueType") == "CODE":
            for code in item.get("ConceptCodeSequence") or ():
                meaning = fold(str(code.get("CodeMeaning") or ""))
                yield Segment(number=seen, label="", meaning=meaning, kind=code_in(code))
