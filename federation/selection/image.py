"""What an image series says of itself, as far as it tells which network suits it."""

from dataclasses import dataclass

from pydicom import Dataset
from pydicom.sr.coding import Code

from federation.iodeep.regions import REGIONS, SAME, canonical
from federation.pacs.attributes import text_of

_PROJECTIONS = frozenset({"CR", "DX", "MG", "IO", "PX", "RG", "XA", "RF"})
_OF_OLD = {"T-9200B": "41216001"}  # Prostate, which pydicom's table has under another code
_CODES = 16  # of a sequence; what is longer is none
_NOT_TO_READ = frozenset(
    {"LOCALIZER", "SCOUT", "SCREEN SAVE", "PROTOCOL", "CSA REPORT", "DOSE", "DOSE_INFO"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFacts:
    """A series by the attributes of one of its images, and by how many there are.

    modality:       Modality (PS3.3 Section C.7.3.1)
    images:         slices or frames
    is_projection:  it is no stack of slices
    samples:        Samples per Pixel; with ``photometric``, PS3.3 Section C.7.6.3
    regions:        SNOMED CT codes of Anatomic Region and Primary Anatomic Structure
    body_part:      Body Part Examined
    series, study:  their descriptions; they may hold anything, and are never shown
    diagnosis:      Admitting Diagnoses Description
    is_scout:       Image Type says that it is a localiser or no image at all
    """

    modality: str
    images: int
    is_projection: bool
    samples: int = 1
    photometric: str = "MONOCHROME2"
    regions: tuple[str, ...] = ()
    body_part: str = ""
    series: str = ""
    study: str = ""
    diagnosis: str = ""
    is_scout: bool = False


def facts_of(ds: Dataset, images: int) -> ImageFacts:
    """Of one image of a series of ``images`` instances. What cannot be read counts as absent."""
    frames = _number(ds, "NumberOfFrames") or 1
    modality = text_of(ds, "Modality")
    return ImageFacts(
        modality=modality,
        images=max(images, frames),
        is_projection=modality in _PROJECTIONS,
        samples=_number(ds, "SamplesPerPixel") or 1,
        photometric=text_of(ds, "PhotometricInterpretation").upper(),
        regions=tuple(dict.fromkeys(_codes(ds))),
        body_part=text_of(ds, "BodyPartExamined"),
        series=" ".join((text_of(ds, "SeriesDescription"), text_of(ds, "ProtocolName"))),
        study=text_of(ds, "StudyDescription"),
        diagnosis=text_of(ds, "AdmittingDiagnosesDescription"),
        is_scout=is_localizer(text_of(ds, "ImageType")),
    )


def is_localizer(image_type: str) -> bool:
    """Whether Image Type (PS3.3 Section C.7.6.1.1.2) says localiser, or no image at all."""
    return bool({one.strip().upper() for one in image_type.split("\\")} & _NOT_TO_READ)


def _codes(ds: Dataset) -> list[str]:
    found = []
    for keyword in ("AnatomicRegionSequence", "PrimaryAnatomicStructureSequence"):
        try:
            items = list(ds.get(keyword) or ())[:_CODES]
        except Exception:  # pydicom raises anything on malformed values
            continue
        for item in items:
            value, scheme = text_of(item, "CodeValue"), text_of(item, "CodingSchemeDesignator")
            if code := snomed_ct(value, scheme):
                found.append(code)
    return found


def snomed_ct(value: str, scheme: str) -> str | None:
    """The SNOMED CT code of a region that is coded in it, or in SNOMED RT as it used to be."""
    if scheme == "SCT":
        return canonical(value)
    if scheme not in ("SRT", "SNM3", "99SDM"):
        return None
    if value in _OF_OLD:
        return _OF_OLD[value]
    of_old = Code(value, "SRT", "")
    codes = (code for code in (*REGIONS, *SAME) if Code(code, "SCT", "") == of_old)
    return next((canonical(code) for code in codes), None)


def _number(ds: Dataset, keyword: str) -> int:
    text = text_of(ds, keyword)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
