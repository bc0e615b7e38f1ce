"""Lines: labels by name or code, and back."""

import pytest

from federation.errors import ConfigError
from federation.iodeep.labels import Line, find_concept
from federation.iodeep.manifest import OutputLabel


@pytest.mark.parametrize(
    ("text", "patient_id", "spelled"),
    [
        ("MR/hippocampus/-/unet", "IODEEP.MR.5366008.0.unet", "MR/hippocampus/-/unet"),
        ("MR/5366008/-/unet", "IODEEP.MR.5366008.0.unet", "MR/hippocampus/-/unet"),
        ("MR/Hippocampus/-/unet", "IODEEP.MR.5366008.0.unet", "MR/hippocampus/-/unet"),
        ("CT/liver/-/a-1", "IODEEP.CT.10200004.0.a-1", "CT/liver/-/a-1"),
    ],
)
def test_a_line_is_read_by_name_or_code_and_spelled_back(
    text: str, patient_id: str, spelled: str
) -> None:
    line = Line.parse(text)
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


def test_an_unknown_word_gets_the_nearest_names() -> None:
    with pytest.raises(ConfigError, match="hippocampus"):
        find_concept("hipocampus")


def test_an_output_label_is_coded_by_its_words() -> None:
    label = OutputLabel.named(1, "anterior hippocampus")
    assert label.concept is not None
    assert label.modifier is not None
    assert (label.concept.value, label.modifier.value) == ("5366008", "255549009")
    assert OutputLabel.named(2, "hippocampus").modifier is None
    assert OutputLabel.named(3, "thingamajig").concept is None
