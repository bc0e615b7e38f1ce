"""What the words of a Decathlon task mean in DICOM: segments, region and body part, coded.

Concepts are those of pydicom's SNOMED CT dictionary that can be the type of a segment (PS3.16
Context Group 7151). Any other word gets a code of the private scheme ``99IODEEP``, the same in
every collection, with the word as its meaning.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from federation.errors import ConfigError
from federation.iodeep.labels import find_concept
from federation.samples.case import Anatomy, Segment

PRIVATE_SCHEME = "99IODEEP"

_GROUPS = (
    (7192, cast(Code, codes.cid7150.AnatomicalStructure)),
    (7194, cast(Code, codes.cid7150.MorphologicallyAbnormalStructure)),
    (7191, cast(Code, codes.cid7150.Tissue)),
    (7193, cast(Code, codes.cid7150.PhysicalObject)),
)
"""Context groups of property types, and the category (Context Group 7150) of each."""
_REGIONS, _MODIFIERS = 7192, 2  # Context Groups: Anatomical Structures, Anatomic Modifier

_SEGMENTS = {
    "colon cancer primaries": "Neoplasm, Primary",
    "oedema": "Edema",
    "vessel": "Blood Vessel",
    "pz": "Peripheral zone of the prostate",
    "tz": "Transition zone of the prostate",
}
"""Labels of the Decathlon in the dictionary's words; and whatever ends like ``_TUMOUR``."""
_LESIONS = {
    "enhancing tumour": cast(Code, codes.cid7194.EnhancingLesion),
    "enhancing tumor": cast(Code, codes.cid7194.EnhancingLesion),
    "non-enhancing tumour": cast(Code, codes.cid7194.NonEnhancingLesion),
    "non-enhancing tumor": cast(Code, codes.cid7194.NonEnhancingLesion),
}
_TUMOUR = re.compile(r".*\b(cancer|tumou?r|neoplasm)")
_COLLECTIONS = {
    "brats": "Brain",
    "braintumour": "Brain",
    "leftatrium": "Heart",
    "hepaticvessel": "Liver",
}
"""Names of collections that are no region's, without spaces and in lower case."""
_BODY_PARTS = {
    "12738006": "BRAIN",
    "80891009": "HEART",
    "10200004": "LIVER",
    "5366008": "HIPPOCAMPUS",
    "41216001": "PROSTATE",
    "39607008": "LUNG",
    "15776009": "PANCREAS",
    "78961009": "SPLEEN",
    "71854001": "COLON",
    "64033007": "KIDNEY",
}
"""Body Part Examined (PS3.16 Annex L) by the region's code."""
_PAIRED = frozenset({"HIPPOCAMPUS", "KIDNEY"})  # the lungs are seen together


def anatomy_of(name: str, labels: Sequence[str]) -> Anatomy:
    """What a collection called ``name`` shows, with ``labels`` as segments 1, 2, 3 ….

    The region is the one that the name means, or that the only label with a region's name means;
    else it is not known, and the body part is empty.
    """
    region = _region_of(name)
    if region is None:
        regions = {code for label in labels if (code := _concept(label, _REGIONS)) is not None}
        region = regions.pop() if len(regions) == 1 else None
    body_part = _BODY_PARTS.get(region.value, "") if region is not None else ""
    return Anatomy(
        body_part=body_part,
        region=region,
        paired=region is None or body_part in _PAIRED,
        segments=tuple(
            segment_of(number, label, region) for number, label in enumerate(labels, start=1)
        ),
    )


def segment_of(number: int, label: str, region: Code | None) -> Segment:
    """A segment called ``label``; what is but a part, as "Anterior", is one of the ``region``."""
    kind, modifier = _LESIONS.get(_folded(label)), None
    if kind is None and region is not None:
        modifier = _concept(label, _MODIFIERS)
        kind = region if modifier is not None else None
    if kind is not None:
        return Segment(
            number=number, name=label, category=category_of(kind), kind=kind, modifier=modifier
        )
    kind = _concept(label) or _said_otherwise(label) or _private(label)
    return Segment(number=number, name=label, category=category_of(kind), kind=kind, modifier=None)


def _region_of(name: str) -> Code | None:
    known = _COLLECTIONS.get(re.sub(r"[^a-z]", "", name.lower()), name)
    return _concept(known, _REGIONS)


def _concept(word: str, group: int | None = None) -> Code | None:
    """What the dictionary knows ``word`` as, if it is in ``group``; or else can be a segment."""
    try:
        found = find_concept(word, anatomy=group != _MODIFIERS)
    except ConfigError:  # no such word, or one that means several things
        return None
    code = Code(found.value, found.scheme, found.meaning)
    groups = [number for number, _ in _GROUPS] if group is None else [group]
    return code if any(found.value in _members(number) for number in groups) else None


def _said_otherwise(label: str) -> Code | None:
    folded = _folded(label)
    word = _SEGMENTS.get(folded) or ("Neoplasm" if _TUMOUR.fullmatch(folded) else None)
    if word is None:
        return None
    found = find_concept(word, anatomy=True)
    return Code(found.value, found.scheme, found.meaning)


def category_of(kind: Code) -> Code:
    """The zones of the prostate are in no group; they, and what has no public code, are anatomy."""
    for number, category in _GROUPS:
        if kind.value in _members(number):
            return category
    return _GROUPS[0][1]


def _private(label: str) -> Code:
    """A code of our own: 16 characters that depend on nothing but the label, in any case."""
    digest = hashlib.sha256(_folded(label).encode()).hexdigest()
    return Code(f"L{digest[:15].upper()}", PRIVATE_SCHEME, label)


def _folded(label: str) -> str:
    return " ".join(label.lower().split())


@cache
def _members(number: int) -> frozenset[str]:
    group: Any = getattr(codes, f"cid{number}")
    return frozenset(
        code.value for keyword in group.dir() if isinstance(code := getattr(group, keyword), Code)
    )
