"""Words by which people name regions and diseases in descriptions, in seven languages.

Descriptions are free text of technicians and scheduling systems. A word ends in ``*`` where it is
a stem, and what is several words must stand in a row. Accents, umlauts and case do not count. Where
the words of one entry are part of another's that is there too, the longer counts alone.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from federation.iodeep.labels import Concept
from federation.iodeep.regions import REGIONS

_SWAPPED, _DROPPED, _ALIKE = 4, 5, 6
"""How long a word must be to be known with two letters swapped, one left out, or merely alike."""
_RATIO = 0.86

# Regions by their name in federation.iodeep.regions; several where the words stand for all of them.
_REGION_WORDS: Mapping[str, str] = {
    "Entire body": (
        "whole body, wholebody, total body, entire body, ganzkorper, ganzkoerper, corps entier, "
        "cuerpo entero, corpo intero, total corpo, corpo total, pan corporel, hele lichaam, skull "
        "base to mid thigh, skull base to thigh, skull to thigh, eyes to thighs, eyes to thigh, "
        "vertex to toes, wb, tb"
    ),
    "Head": "head, kopf, tete, testa, cabeza, cabeca, hoofd, cranium, capo",
    "Head and neck": "head neck, head and neck, hals kopf, kopf hals, orl",
    "Neck": (
        "neck, hals, cou, collo, cuello, pescoco, nek, cervicale weichteile, soft tissue neck, "
        "halsweichteile"
    ),
    "Skull": "skull, schadelknochen",
    "Brain": (
        "brain, hirn*, gehirn*, grosshirn, cerveau, encephal*, encefal*, cerebr*, cervello, "
        "neurocran*, neurokran*, schadel*, schaedel*, cran*, kran*, cmrt, ccmrt, cct, ccta kopf, "
        "stroke, mprage, epilep*, schlaganfall, hersen*, hoofd hersenen, irm crane"
    ),
    "Hippocampus": "hippocamp*, hipocamp*, ippocamp*, hippokamp*",
    "Temporal lobe": "temporal lobe, temporallappen, lobe temporal, lobo temporal",
    "Pituitary": "pituitar*, hypophys*, hypofys*, ipofis*, hipofis*, sellar*, sella",
    "Orbit": "orbit*",
    "Internal auditory canal": (
        "iac, iacs, felsenbein*, petrous, rochers, innenohr, kleinhirnbruck*"
    ),
    "Nasopharynx": "nasopharyn*, cavum",
    "Nose": (
        "sinus, sinuses, paranasal, nnh, nasennebenhohl*, nasennebenhoehl*, senos paranasales, "
        "seni paranasali, sinus de la face"
    ),
    "Jaw region": "jaw, dental, kiefer*",
    "Thyroid": "thyroid*, schilddrus*, schilddrues*, tiroid*, tireoid*, schildklier*",
    "Carotid artery": "carotid*, karotis, carotis",
    "Spine": (
        "spine, spinal, wirbelsaul*, wirbelsaeul*, rachis, colonna, columna, coluna, wervelkolom, "
        "whole spine, ws"
    ),
    "Cervical spine": (
        "cervical spine, c spine, cspine, hws, halswirbel*, rachis cervical, rachide cervicale, "
        "cervic*, hwk, cwk"
    ),
    "Thoracic spine": (
        "thoracic spine, t spine, tspine, bws, brustwirbel*, rachis dorsal, rachide dorsale, "
        "dorsal, dorsale, columna dorsal, twk"
    ),
    "Lumbar spine": (
        "lumbar spine, lumbar, l spine, lspine, lws, lendenwirbel*, lumbal*, lombar*, lombaire*, "
        "lombalgi*, rachide lombare, lumbo*, lombo*, lwk, lwz, l1*, l4*, l5*"
    ),
    "Sacrum": "sacrum, sacral, sakral*, kreuzbein, isg, iliosakral*, sacroili*, si joint*",
    "Chest cavity": (
        "chest, thora*, tora*, brustkorb, cxr, borstkas, poitrine, x thorax, rx torax"
    ),
    "Lung": "lung*, pulmo*, poumon*, polmon*, longen, hrct, pe study, ctpa",
    "Heart": (
        "heart, cardi*, herz*, coeur, cuore, corazon, coracao, hart, kardi*, myocard*, ventricl*, "
        "4ch, 2ch, 3ch, cine sa, short axis stack, tavi, tavr"
    ),
    "Left atrium": (
        "left atri*, linker vorhof, oreillette gauche, atrio sinistro, auricula izquierda, atrio "
        "esquerdo, linker atrium, la 3d gated, laa, lae, pulmonary vein*, pulmonalven*, veines "
        "pulmonaires, vene polmonari, vorhof*, atrial fibrillation, pvi"
    ),
    "Coronary artery": "coronar*, koronar*, cta coronaries, calcium score, caskore, cac score",
    "Breast": (
        "breast*, mamm*, sein, seins, seno, senos, brust, borst*, mlo, rcc, lcc, rmlo, lmlo"
    ),
    "Shoulder": "shoulder*, schulter*, epaule*, spalla, hombro*, ombro*, schouder*",
    "Ascending aorta": "ascending aorta",
    "Abdomen": ("abdom*, addom*, abdo, abd, bauch*, oberbauch*, unterbauch*, ventre, buik*, belly"),
    "Liver": (
        "liver, leber*, foie, fegato, higado, figado, lever, hepat*, epat*, primovist, eovist"
    ),
    "Spleen": (
        "spleen*, splen*, milz*, la rate, tdm rate, irm rate, echo rate, rate portal, bazo, baco, "
        "milt, esplen*"
    ),
    "Pancreas": "pancrea*, pankrea*, alvleesklier*, bauchspeicheldrus*, mrcp pancreas",
    "Gallbladder": "gallbladder, gallenblas*, vesicule biliaire, colecist*, galblaas",
    "Bile duct": "mrcp, bili*, gallenweg*, gallengang*, choledoch*, cholangio*",
    "Kidney": (
        "kidney*, renal*, niere*, rein, reins, rene, reni, rinon*, rim, rins, nier, nefro*, "
        "nephro*, urogra*, kub, urolithiasis"
    ),
    "Adrenal gland": "adrenal*, nebenniere*, surren*, suprarren*, bijnier*",
    "Stomach": "stomach, magen*, estomac, stomaco, estomago, gastric",
    "Colon": "colon*, kolo*, coloscan*, dickdarm, virtual colonoscopy, ctc",
    "Large intestine": "large bowel",
    "Ileum": "entero*, small bowel, dunndarm",
    "Pelvis": "pelvis, pelvi*, becken*, bassin, bacino, bekken*, bacia, pel",
    "Bladder": "bladder, harnblase*, vessie, vescica, vejiga, bexiga, blaas",
    "Prostate": "prostat*, mpmri prostate, pirads, pi rads",
    "Uterus": "uter*, gebarmutter",
    "Rectum": "rect*, rekt*",
    "Hip joint": "hip, hips, huft*, hueft*, hanche*, anca, cadera*, heup*, quadril",
    "Hand": (
        "hand, hands, la main, main gauche, main droite, mains, mano, manos, mao, maos, handen, "
        "hande, bone age, knochenalter, age osseux, eta ossea, edad osea, idade ossea, "
        "botleeftijd, finger*, carpogram*"
    ),
    "Wrist joint": "wrist*, handgelenk*, poignet*, polso, muneca*, punho, pols",
    "Elbow joint": "elbow*, ellenbogen, coude*, gomito, codo, cotovelo, elleboog",
    "Forearm": "forearm, unterarm",
    "Humerus": "humer*, oberarm*",
    "Knee": "knee*, knie*, genou*, ginocchi*, rodilla*, joelho*",
    "Lower leg": "lower leg, unterschenkel, tib fib, tibia",
    "Femur": "femur, femora, thigh, oberschenkel",
    "Ankle joint": "ankle*, sprunggelenk*, osg, cheville*, caviglia, tobillo, tornozelo, enkel",
    "Foot": "foot, feet, fuss, fusse, pied*, pie, pies, voet*, forefoot, mittelfuss, vorfuss",
    "Esophagus": "esophag*, oesophag*, osophag*",
    "Larynx": "laryn*",
    "Mediastinum": "mediastin*",
}
_ABBREVIATIONS: Mapping[str, str] = {
    "Brain": "brn",
    "Hand": "hnd",
    "Prostate": "prost",
    "Thyroid": "thyr",
    "Pancreas": "panc",
    "Lumbar spine": "lsp, lumbspine",
}
_SEVERAL: Mapping[tuple[str, ...], str] = {
    ("Chest cavity", "Abdomen", "Pelvis"): ("cap, tap, chestabdpelvis, chest abd pel, thx abd bck"),
    ("Chest cavity", "Abdomen"): ("chestabdomen, thoraxabdomen, thorakoabdominal, toracoabdominal"),
    ("Abdomen", "Pelvis"): "abdomenpelvis, abdpelvis, abdomino pelvien, abdominopelv*",
}
_DISEASE_WORDS: Mapping[str, str] = {
    "1163375002": (
        "gliom*, glioblastom*, gbm, astrozytom*, astrocytom*, oligodendrogliom*, hgg, lgg, high "
        "grade glioma"
    ),
    "108369006": ("tumor*, tumour*, tumeur*, neoplas*, cancer*, krebs, karzinom*, carcinom*, mass"),
    "27925004": "nodul*, rundherd*, nodo",
    "50960005": (
        "bleed*, hemorrh*, haemorrh*, blutung*, saignement*, emorrag*, hemorrag*, bloeding*"
    ),
}
_SCOUTS = (
    "scout*, localizer*, localiser*, loc, topogram*, surview, survey, plan scan, 3 plane, "
    "3plane, threeplane, dose report, dosisbericht, patient protocol, protocol page, "
    "screen save, screensave, screenshot*, screen capture, secondary capture, calibration, "
    "phoenixzipreport, report, smart prep, smartprep, premonitoring, monitoring, bolus tracking, "
    "localizador, localizzatore, repere, reperage, ubersicht, uebersicht"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Words of a text and the codes they stand for; ``words`` are the vocabulary's, not the text's.

    first, last: the words' numbers in the text, ``last`` excluded
    is_exact:    the text has them as they are, or begins with their stem
    """

    words: str
    codes: tuple[str, ...]
    first: int
    last: int
    is_exact: bool


def regions_in(text: str, others: Sequence[Concept] = ()) -> list[Found]:
    """The regions that a text speaks of; ``others`` are asked for by the words of their meaning."""
    entries = [*_regions(), *_of_concepts(others)]
    return _longest(_find(words_of(text), entries))


def diseases_in(text: str, others: Sequence[Concept] = ()) -> list[Found]:
    """The diseases that a text speaks of, as :func:`regions_in`."""
    return _longest(_find(words_of(text), [*_diseases(), *_of_concepts(others)]))


def is_scout(text: str) -> bool:
    """Whether a description is that of a scout, or of no image at all."""
    return any(_find(words_of(text), _scouts()))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without accents."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in folded if not unicodedata.combining(letter))
    return re.findall(r"[a-z0-9]+", plain)


# --- the vocabulary as it is searched -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    words: tuple[str, ...]  # the last may be a stem
    is_stem: bool
    codes: tuple[str, ...]
    may_be_mistyped: bool = True

    def at(self, text: Sequence[str], first: int) -> Found | None:
        """The entry, where the text's words from ``first`` on are its own."""
        *whole, last = self.words
        after = first + len(self.words)
        if after > len(text) or list(text[first : after - 1]) != whole:
            return None
        there = text[after - 1]
        is_exact = there == last or (self.is_stem and there.startswith(last))
        if not is_exact and (whole or not self.may_be_mistyped or not _is_mistyped(there, last)):
            return None
        return Found(
            words=" ".join(self.words), codes=self.codes, first=first, last=after, is_exact=is_exact
        )


def _is_mistyped(word: str, stem: str) -> bool:
    """Whether a word begins nearly like a stem that is long enough to be known by it."""
    if word[0] != stem[0]:
        return False
    size = len(stem)
    if size >= _DROPPED and any(word == stem[:n] + stem[n + 1 :] for n in range(1, size - 1)):
        return True
    if size >= _SWAPPED and any(
        word == stem[:n] + stem[n + 1] + stem[n] + stem[n + 2 :] for n in range(size - 1)
    ):
        return True
    near = (word[: size + more] for more in (0, 1))
    return size >= _ALIKE and any(
        difflib.SequenceMatcher(None, one, stem).ratio() >= _RATIO for one in near
    )


def _find(text: Sequence[str], entries: Sequence[_Entry]) -> Iterator[Found]:
    for first in range(len(text)):
        for entry in entries:
            if (found := entry.at(text, first)) is not None:
                yield found


def _longest(found: Iterator[Found]) -> list[Found]:
    """Without what overlaps with one of more words, or less mistyped, or of a longer stem."""
    kept: list[Found] = []
    for one in sorted(
        found, key=lambda it: (it.first - it.last, not it.is_exact, -len(it.words), it.first)
    ):
        if not any(other.first < one.last and one.first < other.last for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda it: it.first)


@cache
def _regions() -> list[_Entry]:
    codes = {region.name: code for code, region in REGIONS.items()}
    entries = [
        entry
        for names, words in (
            *(((name,), words) for name, words in _REGION_WORDS.items()),
            *_SEVERAL.items(),
        )
        for entry in _entries(words, tuple(codes[name] for name in names))
    ]
    for name, words in _ABBREVIATIONS.items():
        entries += _entries(words, (codes[name],), may_be_mistyped=False)
    known = {entry.words for entry in entries}
    own = (
        (region.name, region.term, code) for code, region in REGIONS.items()
    )  # the Standard's own words, where the table above lacks them
    for name, term, code in own:
        for words in (name, term):
            split = tuple(words_of(words))
            if split and split not in known:
                entries.append(_Entry(split, False, (code,), may_be_mistyped=False))
    return entries


@cache
def _diseases() -> list[_Entry]:
    return [entry for code, words in _DISEASE_WORDS.items() for entry in _entries(words, (code,))]


@cache
def _scouts() -> list[_Entry]:
    return list(_entries(_SCOUTS, ()))


def _entries(
    words: str, codes: tuple[str, ...], *, may_be_mistyped: bool = True
) -> Iterator[_Entry]:
    for one in dict.fromkeys(words.split(", ")):
        split = tuple(one.removesuffix("*").split())
        yield _Entry(split, one.endswith("*"), codes, may_be_mistyped)


def _of_concepts(concepts: Sequence[Concept]) -> Iterator[_Entry]:
    for concept in concepts:
        if words := tuple(words_of(concept.meaning)):
            yield _Entry(words, False, (concept.value,))
