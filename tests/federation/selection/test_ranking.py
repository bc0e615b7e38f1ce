"""Which network suits: by region, disease and what it takes; and when nobody can say."""

from collections.abc import Callable

import pytest

from federation.iodeep.architecture import Preprocessing
from federation.iodeep.labels import Line
from federation.selection import ImageFacts, Model, Selection, select
from tests.federation.iodeep.records import version

HIPPOCAMPUS, BRAIN, HEAD = "MR/hippocampus/-/unet", "MR/brain/-/tissue", "MR/head/-/whole"
TUMOR, LIVER, CT_LIVER = "MR/brain/glioblastoma/tumor", "MR/liver/-/unet", "CT/liver/-/unet"
SPLEEN, CHEST = "CT/spleen/-/unet", "DX/chest-cavity/-/unet"


def facts(**changed: object) -> ImageFacts:
    plain: dict[str, object] = {"modality": "MR", "images": 40, "is_projection": False}
    return ImageFacts(**(plain | changed))  # type: ignore[arg-type]  # of a test's own making


def model(name: str, score: float | None = None, axes: int = 3) -> Model:
    manifest, _ = version(line=Line.parse(name))
    preprocessing = Preprocessing(spacing_mm=(1,) * axes, size=(16,) * axes)
    return Model(version=manifest.model_copy(update={"preprocessing": preprocessing}), score=score)


def choose(seen: ImageFacts, *models: Model) -> Selection:
    by_line = {one.version.line: one for one in models}
    return select(seen, list(by_line), by_line.get)


def chosen(selection: Selection) -> str | None:
    return str(selection.chosen.version.line) if selection.chosen else None


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"regions": ("5366008",)}, HIPPOCAMPUS),
        ({"regions": ("12738006",)}, BRAIN),
        ({"body_part": "BRAIN"}, BRAIN),
        ({"body_part": "HIPPOCAMPUS"}, HIPPOCAMPUS),
        ({"body_part": "HEAD", "series": "hippocampus cor t2"}, HIPPOCAMPUS),
        ({"series": "t1 sag", "study": "Kopf"}, BRAIN),
        ({"regions": ("5366008",), "body_part": "LIVER"}, HIPPOCAMPUS),
        ({"body_part": "LIVER", "study": "MR brain"}, LIVER),
        ({"body_part": "BRAIN", "study": "Glioblastom"}, TUMOR),
        ({"body_part": "OTHER", "series": "ax t2 liver"}, LIVER),
    ],
)
def test_the_nearest_region_by_the_most_trusted_attribute(
    attributes: dict[str, object], expected: str
) -> None:
    every = [model(name) for name in (HIPPOCAMPUS, BRAIN, TUMOR, LIVER, CT_LIVER)]
    assert chosen(choose(facts(**attributes), *every)) == expected


def test_a_network_of_what_the_image_is_part_of_comes_after_one_of_what_lies_in_it() -> None:
    found = choose(facts(body_part="BRAIN"), model(HEAD), model(HIPPOCAMPUS))
    assert [str(one.line) for one in found.suited] == [HIPPOCAMPUS, HEAD]
    assert found.suited[0].reasons == ("MR", "Hippocampus is part of Brain (Body Part Examined)")
    assert found.suited[1].reasons[1] == "Brain is part of Head (Body Part Examined)"


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({}, "nothing tells the region"),
        ({"body_part": "EXTREMITY"}, "nothing tells the region"),
        ({"body_part": "KNEE"}, "no network suits: looked for MR of Knee"),
        ({"modality": "US", "body_part": "BRAIN"}, "no network is for US; there are some for CT"),
        ({"modality": "", "body_part": "BRAIN"}, "an image without modality"),
        ({"modality": "CT", "body_part": "ABDOMEN"}, "2 networks suit equally well"),
        ({"body_part": "BRAIN", "samples": 3, "photometric": "RGB"}, "colour"),
        ({"body_part": "BRAIN", "photometric": "PALETTE COLOR"}, "colour"),
        ({"body_part": "BRAIN", "images": 1}, "takes volumes, the image is a single one"),
        ({"body_part": "BRAIN", "series": "localizer"}, "localiser"),
        ({"body_part": "BRAIN", "is_scout": True}, "localiser"),
        ({"body_part": "BRAIN", "series": "liver", "study": "MR Leber"}, "say otherwise"),
        ({"study": "Brain and Liver"}, "the image shows"),
    ],
)
def test_nothing_is_chosen_where_nobody_can_know(
    attributes: dict[str, object], problem: str
) -> None:
    every = [model(name) for name in (BRAIN, LIVER, CT_LIVER, SPLEEN)]
    found = choose(facts(**attributes), *every)
    assert found.chosen is None
    assert problem in (found.problem or "")


def test_what_a_disease_is_for_needs_the_disease() -> None:
    found = choose(facts(body_part="BRAIN"), model(TUMOR))
    assert (
        found.unsuited[0].reason == "it is for Glioblastoma, which no text of the image speaks of"
    )


def test_the_sites_own_evaluations_decide_between_equals() -> None:
    other = "MR/brain/-/other"
    found = choose(facts(body_part="BRAIN"), model(BRAIN, 0.8), model(other, 0.9))
    assert chosen(found) == other
    assert found.suited[0].reasons[-1] == "0.900 on this site's cases"
    assert choose(facts(body_part="BRAIN"), model(BRAIN), model(other)).chosen is None


def test_radiographs_of_old_and_new_are_one_modality() -> None:
    seen = facts(modality="CR", images=1, is_projection=True, body_part="CHEST")
    assert chosen(choose(seen, model(CHEST, axes=2))) == CHEST


def test_only_lines_that_the_image_is_for_are_asked_for_their_version() -> None:
    asked: list[Line] = []
    lines = [Line.parse(name) for name in (BRAIN, LIVER, CT_LIVER)]
    found = select(facts(body_part="BRAIN"), lines, _noting(asked))
    assert asked == [Line.parse(BRAIN)]
    assert found.problem == (
        "no network suits: looked for MR of Brain; MR/brain/-/tissue does not: "
        "no version is released"
    )


def test_an_archive_without_networks_says_so() -> None:
    assert choose(facts(body_part="BRAIN")).problem == "there is no network here"


def _noting(asked: list[Line]) -> Callable[[Line], Model | None]:
    def released(line: Line) -> Model | None:
        asked.append(line)
        return None

    return released
