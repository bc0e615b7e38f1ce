"""What a model is for: modality, anatomical region and disease as coded concepts.

Concepts are SNOMED CT (PS3.16 Section 8, designator SCT), spelled through pydicom's code
dictionary. A *line* is the labels plus a slug, written ``MR/hippocampus/-/unet``.
"""

import difflib
import re
from functools import cache
from typing import Annotated, Self

from pydantic import Field
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from federation.errors import ConfigError
from federation.values import Value

MODALITIES = frozenset({"CR", "CT", "DX", "MG", "MR", "NM", "PT", "US", "XA"})

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,22}[a-z0-9])?")


class Concept(Value):
    """A coded concept (PS3.3 Section 8.8, Code Sequence Macro)."""

    value: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,16}$")]
    scheme: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,16}$")] = "SCT"
    meaning: Annotated[str, Field(pattern=r"^[ -\[\]-~]{1,64}$")]

    @property
    def slug(self) -> str:
        """The meaning as a word of a line: ``Lobe of lung`` is ``lobe-of-lung``."""
        return _as_slug(self.meaning)


class Line(Value):
    """The identity of a model over all its versions: what it is for, and a slug.

    Stored as the Patient of every record: ``patient_id`` is at most 64 characters, without
    spaces, so that ``IODEEP.MR.5366008.*`` works as a C-FIND key on every PACS tried.
    """

    modality: str
    region: Concept
    disease: Concept | None = None
    slug: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``modality/region/disease/slug``; region and disease by name or SCT code.

        ``-`` stands for no particular disease. Raises :class:`ConfigError`.
        """
        words = text.split("/")
        if len(words) != 4:
            raise ConfigError(
                f"a model line is modality/region/disease/slug, such as MR/hippocampus/-/unet; "
                f"seen: {text!r}"
            )
        modality, region, disease, slug = words
        if modality not in MODALITIES:
            raise ConfigError(
                f"modality {modality!r} of line {text!r} is unknown; "
                f"expected one of {', '.join(sorted(MODALITIES))}"
            )
        if not _SLUG.fullmatch(slug):
            raise ConfigError(
                f"slug {slug!r} of line {text!r} is not usable: 1 to 24 lower-case letters, "
                "digits and inner hyphens"
            )
        return cls(
            modality=modality,
            region=find_concept(region),
            disease=None if disease == "-" else find_concept(disease),
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

    def __str__(self) -> str:
        disease = self.disease.slug if self.disease else "-"
        return f"{self.modality}/{self.region.slug}/{disease}/{self.slug}"


def find_concept(text: str) -> Concept:
    """The SNOMED CT concept that ``text`` names: a code, or its meaning in any case.

    Raises :class:`ConfigError` with the nearest names where nothing matches.
    """
    by_name, by_code = _sct_concepts()
    value = text if text in by_code else by_name.get(_as_slug(text))
    if value is not None:
        return by_code[value]
    nearest = difflib.get_close_matches(_as_slug(text), by_name, n=3, cutoff=0.6)
    hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
    raise ConfigError(f"{text!r} is no concept of pydicom's SNOMED CT dictionary{hint}")


def _as_slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@cache
def _sct_concepts() -> tuple[dict[str, str], dict[str, Concept]]:
    """SNOMED CT as pydicom knows it: codes by the slug of each meaning, concepts by code.

    A code can have several meanings; all of them find it, and the shortest spells it.
    """
    by_name: dict[str, str] = {}
    by_code: dict[str, Concept] = {}
    for keyword in codes.SCT.dir():
        code = getattr(codes.SCT, keyword)
        # A keyword that stands for several codes gives no Code: alone it decides nothing.
        if not isinstance(code, Code) or not code.meaning.isascii() or len(code.meaning) > 64:
            continue
        by_name.setdefault(_as_slug(code.meaning), code.value)
        known = by_code.get(code.value)
        if known is None or len(code.meaning) < len(known.meaning):
            by_code[code.value] = Concept(value=code.value, meaning=code.meaning)
    return by_name, by_code
