"""Lines: labels by name or code, and back."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr.codedict import codes

from federation.errors import ConfigError
from federation.iodeep.labels import MODALITIES, Concept, Line, find_concept
from federation.iodeep.manifest import OutputLabel


@pytest.mark.parametrize(
    ("text", "patient_id", "spelled"),
    [
        ("MR/hippocampus/-/unet", "IODEEP.MR.5366008.0.unet", "MR/hippocampus/-/unet"),
        ("MR/5366008/-/unet", "IODEEP.MR.5366008.0.unet", "MR/hippocampus/-/unet"),
        ("MR/Hippocampus/-/unet", "IODEEP.MR.5366008.0.unet", "MR/hippocampus/-/unet"),
        ("CT/liver/-/a-1", "IODEEP.CT.10200004.0.a-1", "CT/liver/-/a-1"),
        ("MR/LobeOfLung/-/a", "IODEEP.MR.31094006.0.a", "MR/lobe-of-lung/-/a"),
        ("CT/pelvis/-/a", "IODEEP.CT.816092008.0.a", "CT/pelvis/-/a"),
        ("CT/118645006/-/a", "IODEEP.CT.118645006.0.a", "CT/118645006/-/a"),
        ("RF/heart/stenosis/a", None, None),
    ],
)
def test_a_line_is_read_by_name_or_code_and_spelled_back(
    text: str, patient_id: str | None, spelled: str | None
) -> None:
    if patient_id is None:
        with pytest.raises(ConfigError, match="can mean"):
            Line.parse(text)
        return
    line = Line.parse(text)
    assert Line.of_patient_id(line.patient_id) == line
    assert (line.patient_id, str(line)) == (patient_id, spelled)
    assert Line.parse(str(line)) == line


def test_a_patient_id_fits_the_attribute_and_has_no_spaces() -> None:
    line = Line.parse(f"MR/hippocampus/hippocampus/{'a' * 24}")
    assert len(line.patient_id) <= 64
    assert " " not in line.patient_id


@pytest.mark.parametrize(
    "text",
    ["", "MR/hippocampus/unet", "ZZ/hippocampus/-/unet", "MR/hippocampus/-/Un et",
     f"MR/hippocampus/-/{'a' * 70}", "MR/hippocampus/-/é", "MR//-/unet", "MR/hippocampus//unet"],
)  # fmt: skip
def test_a_line_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Line.parse(text)


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("bone", ["Bone (272673000, SCT)", "Bone (3138006, SCT)"]),
        ("hipocampus", ["Hippocampus (5366008, SCT)"]),
        ("prostat", ["Prostate (41216001, SCT)"]),
        ("left ventricel", ["(87878005, SCT)"]),
    ],
)
def test_an_ambiguous_or_misspelt_word_gets_the_candidates_with_their_codes(
    text: str, candidates: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        find_concept(text)
    assert all(candidate in str(caught.value) for candidate in candidates)


def test_every_concept_is_found_again_by_what_it_is_spelled_as() -> None:
    for code in (getattr(codes.cid4, keyword) for keyword in codes.cid4.dir()):
        concept = find_concept(code.value)
        assert str(concept) == f"{concept.meaning} ({code.value}, SCT)"
        line = Line(modality="CT", region=concept, slug="a")
        assert Line.parse(str(line)) == line == Line.of_patient_id(line.patient_id)


def test_modalities_are_those_of_the_standard() -> None:
    assert {"CR", "CT", "DX", "MG", "MR", "NM", "PT", "RF", "US", "XA"} <= MODALITIES
    assert "SEG" not in MODALITIES


@given(st.text(max_size=100))
def test_no_word_does_anything_but_find_or_be_refused(text: str) -> None:
    for read in (find_concept, Line.parse, Line.of_patient_id):
        with suppress(ConfigError):
            assert isinstance(read(text), Concept | Line)


def test_an_output_label_is_coded_by_its_words() -> None:
    label = OutputLabel.named(1, "anterior hippocampus")
    assert label.concept is not None
    assert label.modifier is not None
    assert (label.concept.value, label.modifier.value) == ("5366008", "255549009")
    assert OutputLabel.named(2, "hippocampus").modifier is None
    assert OutputLabel.named(3, "thingamajig").concept is None
