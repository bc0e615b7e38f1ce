"""What a model is for: modality, anatomical region and disease as coded concepts.

Concepts are SNOMED CT (PS3.16 Section 8, designator SCT), spelled through pydicom's code
dictionary. A *line* is the labels plus a slug, written ``MR/hippocampus/-/unet``.
"""

import difflib
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Self

from pydantic import Field
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from federation.errors import ConfigError
from federation.values import Value

# PS3.16 Context Group 29, Acquisition Modality
MODALITIES = frozenset(getattr(codes.cid29, keyword).value for keyword in codes.cid29.dir())

_ANATOMY = (4, 4030, 4031, 7151)
"""Context groups (PS3.16) that decide what a word means where a region is asked for: anatomic
regions, of CT, MR and PET, the common ones, and what segments can be of."""

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,22}[a-z0-9])?")


class Concept(Value):
    """A coded concept (PS3.3 Section 8.8, Code Sequence Macro)."""

    value: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,16}$")]
    scheme: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,16}$")] = "SCT"
    meaning: Annotated[str, Field(pattern=r"^[ -\[\]-~]{1,64}$")]

    def __str__(self) -> str:
        return f"{self.meaning} ({self.value}, {self.scheme})"

    @property
    def slug(self) -> str:
        """The meaning as a word of a line: ``Lobe of lung`` is ``lobe-of-lung``."""
        return _as_slug(self.meaning)


class Line(Value):
    """The identity of a model over all its versions: what it is for, and a slug.

    Stored as the Patient of every record: ``patient_id`` is at most 64 characters, without
    spaces, so that ``IODEEP.MR.5366008.*`` works as a C-FIND key on every PACS tried.
    """

    modality: Annotated[str, Field(pattern=r"^[A-Z]{2,16}$")]
    region: Concept
    disease: Concept | None = None
    slug: Annotated[str, Field(pattern=rf"^{_SLUG.pattern}$")]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``modality/region/disease/slug``; region and disease by name or SCT code.

        ``-`` stands for no particular disease. Raises :class:`ConfigError`.
        """
        words = text.split("/")
        if len(words) != 4:
            raise ConfigError(
                f"a model line is modality/region/disease/slug, such as MR/hippocampus/-/unet; "
                f"seen: {text!r:.100}"
            )
        modality, region, disease, slug = words
        if modality not in MODALITIES:
            raise ConfigError(
                f"modality {modality!r:.20} of line {text!r:.100} is unknown; expected one of "
                f"Context Group 29: {', '.join(sorted(MODALITIES))}"
            )
        if not _SLUG.fullmatch(slug):
            raise ConfigError(
                f"slug {slug!r:.80} of line {text!r:.100} is not usable: 1 to 24 lower-case "
                "letters, digits and inner hyphens"
            )
        return cls(
            modality=modality,
            region=find_concept(region, anatomy=True),
            disease=None if disease == "-" else find_concept(disease, anatomy=False),
            slug=slug,
        )

    @property
    def patient_id(self) -> str:
        """``IODEEP.<modality>.<region SCT>.<disease SCT or 0>.<slug>``."""
        disease = self.disease.value if self.disease else "0"
        return f"IODEEP.{self.modality}.{self.region.value}.{disease}.{self.slug}"

    @property
    def patient_name(self) -> str:
        return f"IODEEP^{self.slug}"

    @classmethod
    def of_patient_id(cls, patient_id: str) -> Self:
        """The line whose Patient ID this is. Raises :class:`ConfigError` where it is none."""
        match patient_id.split("."):
            case ["IODEEP", modality, region, disease, slug]:
                return cls.parse(f"{modality}/{region}/{'-' if disease == '0' else disease}/{slug}")
        raise ConfigError("a Patient ID is not IODEEP.modality.region.disease.slug")

    def __str__(self) -> str:
        disease = _word(self.disease, anatomy=False) if self.disease else "-"
        return f"{self.modality}/{_word(self.region, anatomy=True)}/{disease}/{self.slug}"


def find_concept(text: str, *, anatomy: bool | None = None) -> Concept:
    """The SNOMED CT concept that ``text`` names: a code, pydicom's keyword, or a meaning.

    Meanings are compared without regard to case and punctuation. Where one has several concepts,
    ``anatomy`` says whether a region is meant or something else. Raises :class:`ConfigError` with
    the candidates where that does not decide, and with the nearest where nothing matches.
    """
    words, concepts = _sct_concepts()
    if text in concepts:
        return concepts[text]
    found = (
        {words.keywords[text]}
        if text in words.keywords
        else words.meanings.get(_as_slug(text), set())
    )
    if len(found) > 1 and anatomy is not None:
        found = {value for value in found if (value in _anatomy()) is anatomy} or found
    if len(found) == 1:
        return concepts[next(iter(found))]
    if found:
        candidates = ", ".join(str(concepts[value]) for value in sorted(found))
        raise ConfigError(f"{text!r:.80} can mean {candidates}; give the code of the one meant")
    raise ConfigError(
        f"{text!r:.80} is no concept of pydicom's SNOMED CT dictionary{_nearest(text, words)}"
    )


def _word(concept: Concept, *, anatomy: bool) -> str:
    """What names a concept in a line: its meaning, or its code where others share the meaning."""
    words, _ = _sct_concepts()
    found = words.meanings.get(concept.slug, set())
    if len(found) > 1:
        found = {value for value in found if (value in _anatomy()) is anatomy}
    return concept.slug if found == {concept.value} else concept.value


def _nearest(text: str, words: "_Words") -> str:
    near = difflib.get_close_matches(_as_slug(text)[:64], words.meanings, n=3, cutoff=0.6)
    _, concepts = _sct_concepts()
    shown = [str(concepts[value]) for slug in near for value in sorted(words.meanings[slug])]
    return f"; nearest: {', '.join(shown)}" if shown else ""


def _as_slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Words:
    """What finds a code: pydicom's keyword exactly, a meaning by its slug."""

    keywords: Mapping[str, str]
    meanings: Mapping[str, set[str]]


@cache
def _sct_concepts() -> tuple[_Words, dict[str, Concept]]:
    """SNOMED CT as pydicom knows it: codes by words, concepts by code.

    A code can have several meanings; all of them find it, and the shortest spells it.
    """
    meanings: defaultdict[str, set[str]] = defaultdict(set)
    keywords: dict[str, str] = {}
    concepts: dict[str, Concept] = {}
    for keyword in codes.SCT.dir():
        code = getattr(codes.SCT, keyword)
        # A keyword that stands for several codes gives no Code: alone it decides nothing.
        if not isinstance(code, Code) or not code.meaning.isascii() or len(code.meaning) > 64:
            continue
        keywords[keyword] = code.value
        meanings[_as_slug(code.meaning)].add(code.value)
        known = concepts.get(code.value)
        if known is None or len(code.meaning) < len(known.meaning):
            concepts[code.value] = Concept(value=code.value, meaning=code.meaning)
    return _Words(keywords=keywords, meanings=meanings), concepts


@cache
def _anatomy() -> frozenset[str]:
    """The codes of the context groups about anatomy."""
    groups = [getattr(codes, f"cid{number}") for number in _ANATOMY]
    return frozenset(
        code.value
        for group in groups
        for keyword in group.dir()
        if isinstance(code := getattr(group, keyword), Code)
    )
