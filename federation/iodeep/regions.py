"""Anatomical regions: what is part of what, and how Body Part Examined spells them.

Terms are those of PS3.16 Annex L, Table L-1; what is part of what is our own and coarse: enough to
see that a network for the hippocampus suits an image of the brain. Codes are SNOMED CT.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from federation.iodeep.labels import Concept


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A region: its name, its term for Body Part Examined ("" for none), and what it is part of."""

    name: str
    term: str
    part_of: str | None


def body_part(concept: Concept) -> str | None:
    """Body Part Examined for a region: its own term, or else that of the nearest it is part of.

    None for a region that the table does not know.
    """
    codes = (canonical(concept.value), *ancestors(concept.value))
    regions = (REGIONS[code] for code in codes if code in REGIONS)
    return next((region.term for region in regions if region.term), None)


def may_be_paired(term: str) -> bool:
    """Whether a term of Body Part Examined asks for Laterality (PS3.3 Section C.7.3.1).

    Empty it means unknown, so it is there for the few terms without a side that validators take for
    paired ones.
    """
    return term not in _UNPAIRED


def ancestors(code: str) -> Iterator[str]:
    """The codes of what a region is part of, the nearest first; nothing for one not known."""
    region = REGIONS.get(canonical(code))
    while region is not None and region.part_of is not None:
        yield region.part_of
        region = REGIONS[region.part_of]


def steps_between(code: str, whole: str) -> int | None:
    """How often one goes from a region to what it is part of, to come to ``whole``: 0 where they
    are the same, None where it does not lie there, as far as the table tells."""
    codes = (canonical(code), *ancestors(code))
    return codes.index(canonical(whole)) if canonical(whole) in codes else None


def canonical(code: str) -> str:
    """The code by which the table knows a region: some have had several."""
    return SAME.get(code, code)


# name, code, term, part of
_TABLE = (
    ("Entire body", "38266002", "WHOLEBODY", ""),
    ("Head", "69536005", "HEAD", "Entire body"),
    ("Head and neck", "774007", "HEADNECK", "Entire body"),
    ("Neck", "45048000", "NECK", "Head and neck"),
    ("Skull", "89546000", "SKULL", "Head"),
    ("Brain", "12738006", "BRAIN", "Head"),
    ("Cerebellum", "113305005", "CEREBELLUM", "Brain"),
    ("Cerebral hemisphere", "372073000", "CEREBHEMISPHERE", "Brain"),
    ("Choroid plexus", "80621003", "CHOROIDPLEXUS", "Brain"),
    ("Lateral ventricle", "66720007", "LATVENTRICLE", "Brain"),
    ("Fourth ventricle", "35918002", "4THVENTRICLE", "Brain"),
    ("Circle of Willis", "11279006", "CIRCLEOFWILLIS", "Brain"),
    ("Sella turcica", "42575006", "SELLA", "Head"),
    ("Face", "89545001", "FACE", "Head"),
    ("Orbit", "363654007", "ORBIT", "Head"),
    ("Eye", "81745001", "EYE", "Head"),
    ("Eyelid", "80243003", "EYELID", "Head"),
    ("Ear", "117590005", "EAR", "Head"),
    ("Internal auditory canal", "361078006", "IAC", "Head"),
    ("Nose", "45206002", "NOSE", "Head"),
    ("Nasopharynx", "360955006", "NASOPHARYNX", "Head"),
    ("Mouth", "123851003", "MOUTH", "Head"),
    ("Tongue", "21974007", "TONGUE", "Mouth"),
    ("Jaw region", "661005", "JAW", "Head"),
    ("Mandible", "91609006", "MANDIBLE", "Head"),
    ("Maxilla", "70925003", "MAXILLA", "Head"),
    ("Mastoid bone", "59066005", "MASTOID", "Head"),
    ("Parotid gland", "45289007", "PAROTID", "Head"),
    ("Scalp", "41695006", "SCALP", "Head"),
    ("Pharynx", "54066008", "PHARYNX", "Neck"),
    ("Larynx", "4596009", "LARYNX", "Neck"),
    ("Thyroid", "69748006", "THYROID", "Neck"),
    ("Parathyroid", "111002", "PARATHYROID", "Neck"),
    ("Carotid artery", "69105007", "CAROTID", "Neck"),
    ("Cervical spine", "122494005", "CSPINE", "Spine"),
    ("Thoracic spine", "122495006", "TSPINE", "Spine"),
    ("Lumbar spine", "122496007", "LSPINE", "Spine"),
    ("Sacrum", "54735007", "SSPINE", "Spine"),
    ("Spine", "421060004", "SPINE", "Entire body"),
    ("Chest cavity", "43799004", "CHEST", "Entire body"),
    ("Lung", "39607008", "LUNG", "Chest cavity"),
    ("Heart", "80891009", "HEART", "Chest cavity"),
    ("Left atrium", "82471001", "LATRIUM", "Heart"),
    ("Right atrium", "73829009", "RATRIUM", "Heart"),
    ("Left ventricle", "87878005", "LVENTRICLE", "Heart"),
    ("Right ventricle", "53085002", "RVENTRICLE", "Heart"),
    ("Coronary artery", "41801008", "CORONARYARTERY", "Heart"),
    ("Mediastinum", "72410000", "MEDIASTINUM", "Chest cavity"),
    ("Trachea", "44567001", "TRACHEA", "Chest cavity"),
    ("Bronchus", "955009", "BRONCHUS", "Chest cavity"),
    ("Esophagus", "32849002", "ESOPHAGUS", "Chest cavity"),
    ("Thymus", "9875009", "THYMUS", "Chest cavity"),
    ("Breast", "76752008", "BREAST", "Chest cavity"),
    ("Rib", "113197003", "RIB", "Chest cavity"),
    ("Sternum", "56873002", "STERNUM", "Chest cavity"),
    ("Clavicle", "51299004", "CLAVICLE", "Chest cavity"),
    ("Scapula", "79601000", "SCAPULA", "Chest cavity"),
    ("Ascending aorta", "54247002", "ASCAORTA", "Chest cavity"),
    ("Abdomen", "818981001", "ABDOMEN", "Entire body"),
    ("Liver", "10200004", "LIVER", "Abdomen"),
    ("Gallbladder", "28231008", "GALLBLADDER", "Abdomen"),
    ("Bile duct", "28273000", "BILEDUCT", "Abdomen"),
    ("Spleen", "78961009", "SPLEEN", "Abdomen"),
    ("Pancreas", "15776009", "PANCREAS", "Abdomen"),
    ("Kidney", "64033007", "KIDNEY", "Abdomen"),
    ("Adrenal gland", "23451007", "ADRENAL", "Abdomen"),
    ("Stomach", "69695003", "STOMACH", "Abdomen"),
    ("Duodenum", "38848004", "DUODENUM", "Abdomen"),
    ("Jejunum", "21306003", "JEJUNUM", "Abdomen"),
    ("Ileum", "34516001", "ILEUM", "Abdomen"),
    ("Large intestine", "14742008", "LARGEINTESTINE", "Abdomen"),
    ("Colon", "71854001", "COLON", "Large intestine"),
    ("Portal vein", "32764006", "PORTALV", "Abdomen"),
    ("Hepatic vein", "8993003", "HEPATICV", "Liver"),
    ("Inferior vena cava", "64131007", "INFVENACAVA", "Abdomen"),
    ("Pelvis", "816092008", "PELVIS", "Entire body"),
    ("Bladder", "89837001", "BLADDER", "Pelvis"),
    ("Prostate", "41216001", "PROSTATE", "Pelvis"),
    ("Seminal vesicle", "64739004", "SEMVESICLE", "Pelvis"),
    ("Uterus", "35039007", "UTERUS", "Pelvis"),
    ("Cervix", "71252005", "CERVIX", "Uterus"),
    ("Ovary", "15497006", "OVARY", "Pelvis"),
    ("Rectum", "34402009", "RECTUM", "Pelvis"),
    ("Vagina", "76784001", "VAGINA", "Pelvis"),
    ("Testis", "40689003", "TESTIS", "Pelvis"),
    ("Penis", "18911002", "PENIS", "Pelvis"),
    ("Hip joint", "24136001", "HIP", "Pelvis"),
    ("Extremity", "66019005", "EXTREMITY", "Entire body"),
    ("Shoulder", "16982005", "SHOULDER", "Extremity"),
    ("Humerus", "85050009", "HUMERUS", "Extremity"),
    ("Elbow joint", "16953009", "ELBOW", "Extremity"),
    ("Forearm", "14975008", "FOREARM", "Extremity"),
    ("Wrist joint", "74670003", "WRIST", "Extremity"),
    ("Hand", "85562004", "HAND", "Extremity"),
    ("Lower limb", "61685007", "LOWERLIMB", "Extremity"),
    ("Femur", "71341001", "FEMUR", "Lower limb"),
    ("Knee", "72696002", "KNEE", "Lower limb"),
    ("Patella", "64234005", "PATELLA", "Knee"),
    ("Lower leg", "30021000", "LOWERLEG", "Lower limb"),
    ("Ankle joint", "70258002", "ANKLE", "Lower limb"),
    ("Foot", "56459004", "FOOT", "Lower limb"),
    ("Calcaneus", "80144004", "CALCANEUS", "Foot"),
    ("Hippocampus", "5366008", "", "Brain"),
    ("Amygdala", "4958002", "", "Brain"),
    ("Thalamus", "42695009", "", "Brain"),
    ("Caudate nucleus", "11000004", "", "Brain"),
    ("Putamen", "89278009", "", "Brain"),
    ("Brain stem", "119238007", "", "Brain"),
    ("Corpus callosum", "88442005", "", "Brain"),
    ("Pituitary", "56329008", "", "Brain"),
    ("Temporal lobe", "78277001", "", "Brain"),
    ("Frontal lobe", "83251001", "", "Brain"),
    ("Occipital lobe", "31065004", "", "Brain"),
    ("Parietal lobe", "16630005", "", "Brain"),
    ("Third ventricle", "49841001", "", "Brain"),
    ("Aortic valve", "34202007", "", "Heart"),
    ("Mitral valve", "91134007", "", "Heart"),
    ("Spinal cord", "2748008", "", "Spine"),
    ("Optic nerve", "18234004", "", "Head"),
    ("Optic chiasm", "244453006", "", "Brain"),
    ("Meniscus", "74135004", "", "Knee"),
    ("Cerebral cortex", "40146001", "", "Brain"),
    ("Entorhinal cortex", "3937002", "", "Brain"),
    ("Pericardium", "76848001", "", "Heart"),
    ("Lobe of lung", "31094006", "", "Lung"),
)

_UNPAIRED = frozenset(
    {
        "WHOLEBODY",
        "HEAD",
        "HEADNECK",
        "NECK",
        "SKULL",
        "BRAIN",
        "CEREBELLUM",
        "CIRCLEOFWILLIS",
        "FACE",
        "NOSE",
        "MOUTH",
        "TONGUE",
        "JAW",
        "MAXILLA",
        "SCALP",
        "PHARYNX",
        "LARYNX",
        "THYROID",
        "CSPINE",
        "TSPINE",
        "LSPINE",
        "SSPINE",
        "SPINE",
        "CHEST",
        "HEART",
        "CORONARYARTERY",
        "MEDIASTINUM",
        "TRACHEA",
        "ESOPHAGUS",
        "THYMUS",
        "STERNUM",
        "ABDOMEN",
        "LIVER",
        "GALLBLADDER",
        "SPLEEN",
        "PANCREAS",
        "STOMACH",
        "DUODENUM",
        "JEJUNUM",
        "ILEUM",
        "COLON",
        "PELVIS",
        "BLADDER",
        "PROSTATE",
        "UTERUS",
        "CERVIX",
        "RECTUM",
        "VAGINA",
        "PENIS",
        "SELLA",
        "NASOPHARYNX",
        "LUNG",
        "ASCAORTA",
        "BILEDUCT",
        "LARGEINTESTINE",
    }
)

SAME = {
    "816094009": "43799004",  # Chest
    "51185008": "43799004",  # Thoracic structure
    "113345001": "818981001",  # Abdominal structure
    "52731004": "818981001",  # Abdominal cavity structure
    "12921003": "816092008",  # Pelvic structure
    "118645006": "816092008",  # Pelvis, with its bones
    "21844003": "816092008",  # Pelvic cavity structure
    "49076000": "72696002",  # Knee joint
    "29836001": "24136001",  # Hip
}
"""Codes of other releases of SNOMED CT, or of the same place, that PS3.16 has or has had."""

_CODES = {name: code for name, code, _, _ in _TABLE}

REGIONS: Mapping[str, Region] = {
    code: Region(name=name, term=term, part_of=_CODES[part_of] if part_of else None)
    for name, code, term, part_of in _TABLE
}
"""Regions by their SNOMED CT code."""
