"""Which region an image is of, and which disease it is about, as far as its attributes tell.

Anatomic Region Sequence is trusted most, then Body Part Examined, then the words of the Series and
of the Study Description. What is trusted less makes more exact what is trusted more: a HEAD that is
described as hippocampus is one. Where one contradicts it, what is trusted more counts; where
several do and none agrees, nobody can know.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from federation.iodeep.labels import Concept
from federation.iodeep.regions import REGIONS, canonical, steps_between
from federation.selection.image import ImageFacts
from federation.selection.vocabulary import Found, diseases_in, regions_in, words_of

_CODES = {region.name: code for code, region in REGIONS.items()}
_TOLD_AS = {_CODES["Skull"]: _CODES["Head"]}  # as Body Part Examined was used: with what is in it
_NO_PLACE = frozenset({_CODES["Extremity"]})
_TERMS = {"".join(words_of(region.term)): code for code, region in REGIONS.items() if region.term}


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What an image is of.

    regions:      SNOMED CT codes, none within another; none where nothing tells
    told_by:      the attributes that say so, the most trusted first
    contradicted: the attributes that speak of other regions
    diseases:     SNOMED CT codes
    """

    regions: tuple[str, ...]
    told_by: tuple[str, ...] = ()
    contradicted: tuple[str, ...] = ()
    diseases: tuple[str, ...] = ()

    @property
    def is_in_doubt(self) -> bool:
        """Whether several attributes contradict a single one."""
        return len(self.contradicted) > 1 and len(self.told_by) == 1


def weigh(facts: ImageFacts, concepts: Sequence[Concept] = ()) -> Evidence:
    """The evidence of an image; ``concepts`` are of networks, asked for by their meanings too."""
    told = (
        ("Anatomic Region Sequence", facts.regions),
        ("Body Part Examined", _of_body_part(facts.body_part)),
        ("Series Description", _codes(regions_in(facts.series, concepts))),
        ("Study Description", _codes(regions_in(facts.study, concepts))),
    )
    regions: tuple[str, ...] = ()
    told_by: list[str] = []
    contradicted: list[str] = []
    for name, codes in told:
        found = _outermost_removed(codes)
        within = tuple(code for code in found if any(_lies_in(code, one) for one in regions))
        if not found:
            continue
        if not regions or within or any(_lies_in(one, code) for code in found for one in regions):
            told_by.append(name)
            regions = found if not regions else within or regions
        else:
            contradicted.append(name)
    texts = " . ".join((facts.series, facts.study, facts.diagnosis))
    return Evidence(
        regions=regions,
        told_by=tuple(told_by),
        contradicted=tuple(contradicted),
        diseases=_codes(diseases_in(texts, concepts)),
    )


def name_of(code: str) -> str:
    """A region's name, for people."""
    return REGIONS[code].name if code in REGIONS else code


def _of_body_part(term: str) -> tuple[str, ...]:
    code = _TERMS.get("".join(words_of(term)))
    return (code,) if code else _codes(regions_in(term))


def _codes(found: Iterable[Found]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(canonical(code) for one in found for code in one.codes))


def _outermost_removed(codes: Iterable[str]) -> tuple[str, ...]:
    """Without the regions that others of them lie in: a brain of a head is a brain."""
    every = tuple(dict.fromkeys(_TOLD_AS.get(code, code) for code in codes))
    every = tuple(code for code in every if code not in _NO_PLACE)
    return tuple(
        code
        for code in every
        if not any(other != code and _lies_in(other, code) for other in every)
    )


def _lies_in(code: str, other: str) -> bool:
    return steps_between(code, other) is not None
