"""Words of descriptions: in several languages, mistyped, and of several regions."""

import pytest

from federation.iodeep.labels import Concept, find_concept
from federation.iodeep.regions import REGIONS
from federation.selection.evidence import name_of
from federation.selection.vocabulary import diseases_in, is_scout, regions_in, words_of


def names(text: str) -> list[str]:
    return [name_of(code) for found in regions_in(text) for code in found.codes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MR Brain w/o contrast", ["Brain"]),
        ("cMRT Schädel nativ", ["Brain", "Brain"]),
        ("IRM cérébrale", ["Brain"]),
        ("RM encefalo", ["Brain"]),
        ("t2_tse_sag_LWS", ["Lumbar spine"]),
        ("TC addome superiore", ["Abdomen"]),
        ("TDM Foie 3 phases", ["Liver"]),
        ("HIPPOCAMPPUS cor", ["Hippocampus"]),
        ("CT HAED", ["Head"]),
        ("MR Lumbar Spine", ["Lumbar spine"]),
        ("CT CAP", ["Chest cavity", "Abdomen", "Pelvis"]),
        ("t1 post", []),
        ("sag PD FS", []),
        ("", []),
    ],
)
def test_regions_are_found_by_the_words_of_the_field(text: str, expected: list[str]) -> None:
    assert names(text) == expected


def test_the_standards_own_terms_are_known() -> None:
    for code, region in REGIONS.items():
        assert code in [code for found in regions_in(region.name) for code in found.codes], region


def test_what_a_network_is_for_is_known_by_its_meaning() -> None:
    concept = Concept(value="1234567", meaning="Organ of Corti")
    assert [found.codes for found in regions_in("CT organ of corti", [concept])] == [("1234567",)]


def test_diseases_are_found() -> None:
    glioblastoma = find_concept("glioblastoma").value
    assert [found.codes for found in diseases_in("V.a. Gliom li.")] == [(glioblastoma,)]
    assert diseases_in("routine") == []


@pytest.mark.parametrize(
    "text", ["Localizer", "SCOUT", "Topogramm 0.6", "3-plane loc", "Dose Report"]
)
def test_scouts_are_none_to_read(text: str) -> None:
    assert is_scout(text)
    assert not is_scout("t1_mprage_sag")


def test_accents_and_case_do_not_count() -> None:
    assert words_of("Schädel-MRT (kein KM)") == ["schadel", "mrt", "kein", "km"]
