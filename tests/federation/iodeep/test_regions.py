"""Regions: terms of Body Part Examined, and what is part of what."""

import re
import subprocess
from pathlib import Path

import pytest
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from federation.iodeep.header import Stamp, instance_header
from federation.iodeep.labels import Concept, Line, find_concept
from federation.iodeep.regions import REGIONS, ancestors, body_part, steps_between
from tests.federation.iodeep.records import version
from tests.peers import peer


def concept(code: str) -> Concept:
    return Concept(value=code, meaning=REGIONS[code].name)


def test_every_code_means_in_the_dictionary_what_the_table_says() -> None:
    meanings: dict[str, set[str]] = {}
    for keyword in codes.SCT.dir():
        code = getattr(codes.SCT, keyword)
        if isinstance(code, Code):
            meanings.setdefault(code.value, set()).add(code.meaning.lower())
    for code, region in REGIONS.items():
        assert any(region.name.lower() in meaning for meaning in meanings[code]), region


def test_terms_fit_the_attribute_and_occur_once() -> None:
    terms = [region.term for region in REGIONS.values() if region.term]
    assert all(re.fullmatch(r"[A-Z0-9]{1,16}", term) for term in terms)
    assert len(set(terms)) == len(terms) >= 60


def test_all_is_part_of_the_body_without_cycles() -> None:
    for code in REGIONS:
        above = [code, *ancestors(code)]
        assert len(set(above)) == len(above)
        assert above[-1] == "38266002"


def test_dciodvfy_finds_no_error_whatever_the_region(tmp_path: Path) -> None:
    """Whether Laterality may be there depends on the term."""
    manifest, _ = version()
    path = tmp_path / "a.dcm"
    for code in (code for code, region in REGIONS.items() if region.term):
        line = Line(modality="MR", region=concept(code), slug="a")
        of = manifest.model_copy(update={"line": line})
        instance_header(of, 1, 2, Stamp.now()).save_as(path, enforce_file_format=True)
        said = subprocess.run(
            [peer("dciodvfy"), str(path)], capture_output=True, text=True, check=False
        ).stderr
        assert "RawData" in said
        assert not re.search("^Error", said, re.MULTILINE), (code, said)


@pytest.mark.parametrize(
    ("word", "term"),
    [
        ("hippocampus", "BRAIN"),
        ("brain", "BRAIN"),
        ("head", "HEAD"),
        ("left ventricle", "LVENTRICLE"),
        ("pericardium", "HEART"),
        ("prostate", "PROSTATE"),
        ("lumbar spine", "LSPINE"),
        ("meniscus", "KNEE"),
        ("stenosis", None),
    ],
)
def test_body_part_examined_is_the_nearest_term(word: str, term: str | None) -> None:
    if word == "stenosis":
        assert body_part(Concept(value="415582006", meaning="Stenosis")) is None
    else:
        assert body_part(find_concept(word)) == term


def test_a_part_lies_in_what_it_is_part_of_and_not_the_other_way_round() -> None:
    names = ("hippocampus", "brain", "head", "liver")
    hippocampus, brain, head, liver = (find_concept(name).value for name in names)
    assert steps_between(hippocampus, brain) == 1
    assert steps_between(hippocampus, head) == 2
    assert steps_between(brain, brain) == 0
    assert steps_between(brain, hippocampus) is None
    assert steps_between(hippocampus, liver) is None


@pytest.mark.parametrize("code", ["816094009", "51185008", "43799004"])
def test_a_region_may_have_had_other_codes(code: str) -> None:
    lung = find_concept("lung").value
    assert steps_between(lung, code) == 1
    assert body_part(Concept(value=code, meaning="Chest")) == "CHEST"
