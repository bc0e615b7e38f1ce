"""What a label object says that it marks, and which of it a network's outputs mean.

Segment Description Macro, PS3.3 Section C.8.20.4; Structure Set and RT ROI Observations, Sections
C.8.8.5 and C.8.8.8.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from pydicom import Dataset
from pydicom.sr.coding import Code

from clients.data.quarantine import Reason, Unusable
from federation.iodeep.labels import Concept
from federation.iodeep.manifest import OutputLabel

CodeOf = tuple[str, str]
"""A code's value and scheme designator."""

_BY_PEOPLE = frozenset({"SEMIAUTOMATIC", "MANUAL"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A segment, or a region of interest, by what names it.

    label:         Segment Label or ROI Name, in lower case
    meaning:       its type's code meaning, modifiers first, as "anterior hippocampus"
    kind:          its type's code; None where it has none
    modifiers:     their codes
    is_prediction: a network of ours proposed it, and no person has accepted or corrected it
    """

    number: int
    label: str
    meaning: str = ""
    kind: CodeOf | None = None
    modifiers: tuple[CodeOf, ...] = ()
    is_prediction: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelHeader:
    """What a label object refers to and what it marks, without its pixels or contours.

    source: which kind of label object it is
    series: Series Instance UIDs of the images
    """

    source: str
    series: tuple[str, ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which segments are which output label: by code first, by a site's own names otherwise.

    concepts: of an output label, its concept and modifier
    names:    labels, coded meanings, or codes as "SCT:10200004", in any case
    """

    concepts: Mapping[int, tuple[Concept, Concept | None]]
    names: Mapping[str, int]
    words: Mapping[int, str]

    @classmethod
    def of(
        cls, outputs: Iterable[OutputLabel] = (), names: Mapping[str, int] | None = None
    ) -> Self:
        """``outputs`` are a network's; where none are given, only ``names`` are wanted.

        Of ``names`` those of labels that the network does not have are left out.
        """
        outputs = tuple(outputs)
        own = {fold(output.name): output.number for output in outputs}
        known = {0, *own.values()}
        given = {
            name: number for name, number in (names or {}).items() if not own or number in known
        }
        return cls(
            concepts={
                output.number: (output.concept, output.modifier)
                for output in outputs
                if output.concept is not None
            },
            names={**own, **{fold(name): number for name, number in given.items()}},
            words={number: name for name, number in given.items()}
            | {output.number: output.name for output in outputs},
        )

    @property
    def as_json(self) -> dict[str, Any]:
        """What it decides by, in an order of its own."""
        codes = {
            str(number): [None if code is None else [code.scheme, code.value] for code in pair]
            for number, pair in self.concepts.items()
        }
        return {"codes": codes, "names": dict(self.names)}

    def label_of(self, segment: Segment) -> int | None:
        """The output label that a segment stands for; several may stand for one.

        What a network of ours proposed, and nobody looked at, stands for none.
        """
        if segment.is_prediction:
            return None
        return self._by_code(segment) or self._by_name(segment)

    def match(self, segments: Iterable[Segment]) -> dict[int, int]:
        """Segment numbers of one object, and the output label each stands for."""
        labels = {segment.number: self.label_of(segment) for segment in segments}
        return {number: label for number, label in labels.items() if label is not None}

    def labels_in(self, segments: Iterable[Segment]) -> set[int]:
        """The output labels that segments, of one object or several, stand for."""
        return {label for one in segments if (label := self.label_of(one)) is not None}

    def is_met_by(self, segments: Iterable[Segment]) -> bool:
        """Whether every output label has a segment among these; where it is not known which are
        wanted, whether there is one that is no mere prediction."""
        if not self.words:
            return any(not segment.is_prediction for segment in segments)
        return set(self.words) <= self.labels_in(segments)

    def check(self, segments: Sequence[Segment]) -> None:
        """Raises :class:`Unusable` where an output label has no segment among these."""
        if self.is_met_by(segments):
            return
        if self.is_met_by(replace(segment, is_prediction=False) for segment in segments):
            raise Unusable(Reason.PREDICTION, "labels of a network that nobody has accepted")
        missing = sorted(set(self.words) - self.labels_in(segments))
        names = " or ".join(self.words[number] for number in missing)
        raise Unusable(Reason.SEGMENT_MISSING, f"no segment named {names}")

    def _by_code(self, segment: Segment) -> int | None:
        if segment.kind is None:
            return None
        kind = _code(segment.kind)
        modifiers = [_code(modifier) for modifier in segment.modifiers]
        fitting = [
            (modifier is not None, number)
            for number, (concept, modifier) in self.concepts.items()
            if _code_of(concept) == kind and (modifier is None or _code_of(modifier) in modifiers)
        ]
        return max(fitting)[1] if fitting else None  # the particular one before the general

    def _by_name(self, segment: Segment) -> int | None:
        codes = [] if segment.kind is None else [fold("{1}:{0}".format(*segment.kind))]
        for name in (segment.label, segment.meaning, *codes):
            if name and name in self.names:
                return self.names[name]
        return None


def segment_of(item: Dataset) -> Segment:
    """A segment, of an item of the Segment Sequence."""
    kind = item.SegmentedPropertyTypeCodeSequence[0]
    modifiers = tuple(kind.get("SegmentedPropertyTypeModifierCodeSequence") or ())
    return Segment(
        number=int(item.SegmentNumber),
        label=fold(str(item.get("SegmentLabel") or "")),
        meaning=fold(" ".join(str(code.get("CodeMeaning", "")) for code in (*modifiers, kind))),
        kind=code_in(kind),
        modifiers=tuple(code for one in modifiers if (code := code_in(one)) is not None),
        is_prediction=_is_prediction(item),
    )


def code_in(item: Dataset) -> CodeOf | None:
    """The code that an item of a code sequence holds (PS3.3 Section 8.8)."""
    value, scheme = item.get("CodeValue"), item.get("CodingSchemeDesignator")
    return (str(value), str(scheme)) if value and scheme else None


def fold(name: str) -> str:
    return " ".join(name.casefold().split())


def _is_prediction(item: Dataset) -> bool:
    """Whether a version of ours made it, with nobody's help.

    The algorithm's name is then a model line's Patient ID, its version a VERSION's UID. Who
    accepts or corrects it makes it SEMIAUTOMATIC; whatever else is said, or nothing, is no consent.
    """
    said = str(item.get("SegmentAlgorithmType") or "")
    if said.strip().upper() in _BY_PEOPLE:
        return False
    identified = item.get("SegmentationAlgorithmIdentificationSequence") or ()
    names = [str(one.get("AlgorithmName") or "") for one in identified]
    names.append(str(item.get("SegmentAlgorithmName") or ""))
    return any(name.strip().upper().startswith("IODEEP.") for name in names)


def _code(code: CodeOf) -> Code:
    """Compared as pydicom does: a SNOMED-RT code of old is equal to its SNOMED CT one."""
    value, scheme = code
    return Code(value, scheme, "")


def _code_of(concept: Concept) -> Code:
    return Code(concept.value, concept.scheme, "")
