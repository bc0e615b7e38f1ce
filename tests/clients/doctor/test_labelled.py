"""What is wrong with labelled studies, by its name."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import SegmentationStorage

from federation.pacs import Archive, open_gateway
from tests.clients.data.conftest import edit
from tests.clients.doctor.conftest import Named, SiteFolder, troubles
from tests.peers.odd import Oddities, odd_archive
from tests.peers.process import free_port

Spoil = Callable[[dict[str, Any]], object]


def studies(*words: str) -> Named:
    return Named(about="data", check="studies", words=["[data.brain]", *words])


# --- the document -------------------------------------------------------------------------

FAULTS: dict[str, tuple[Spoil, Named]] = {
    "a query that nothing answers": (
        lambda table: table.update(query={"Modality": "CT"}),
        studies("no images there answer its query; the policy asks for 3"),
    ),
    "a query of what is no attribute": (
        lambda table: table.update(query={"Modalty": "MR"}),
        studies("'Modalty' is no attribute", "did you mean 'Modality'"),
    ),
    "a label map of other segments": (
        lambda table: table["labels"].update(map={"hippocampus": 1}),
        studies(
            "0 labelled among 3 studies, 3 segment-missing",
            "labels.map names 'hippocampus', SEGs there 'inner structure', 'outer structure'",
        ),
    ),
    "all patients held out": (
        lambda table: table["split"].update(test=0.99),
        studies("3 labelled among 3 studies", "0 patients to train on, 0 to validate, 3 to test"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_data_table_is_named(site: SiteFolder, fault: str) -> None:
    spoil, named = FAULTS[fault]
    spoil(site.document["data"]["brain"])
    named.is_all_that_is_wrong(site.examine())


def test_a_site_without_data_is_told_so(site: SiteFolder) -> None:
    site.document["data"] = {}
    Named(
        about="data", check="studies", words=["no table [data.NAME]"], outcome="warn"
    ).is_all_that_is_wrong(site.examine())


def test_fewer_studies_than_the_policy_asks_for(site: SiteFolder) -> None:
    site.document["policy"]["min_studies"] = 4
    studies("3 labelled among 3 studies; the policy asks for 4").is_all_that_is_wrong(
        site.examine()
    )


def test_more_studies_than_are_looked_into(
    site: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labelled ones may be among the others."""
    monkeypatch.setattr("clients.doctor.labelled.LOOKED_INTO", 2)
    site.document["policy"]["min_studies"] = 1
    site.document["data"]["brain"]["labels"]["map"] = {"hippocampus": 1}
    every = site.examine()
    Named(
        about="data", check="studies", words=["0 labelled among 2 studies"], outcome="warn"
    ).is_all_that_is_wrong(every)
    assert "if there are more than the first ones" in troubles(every)[0].advice
    site.document["data"]["brain"]["query"] = {"Modality": "CT"}
    Named(
        about="data", check="studies", words=["no images there answer its query"], outcome="warn"
    ).is_all_that_is_wrong(site.examine())


def test_labelled_studies_are_counted_and_one_is_read(site: SiteFolder) -> None:
    every = site.examine()
    seen = {one.check: one.seen for one in every if one.about == "data"}
    assert troubles(every) == []
    assert seen == {
        "studies": "[data.brain]: 3 labelled among 3 studies; "
        "3 patients to train on, 0 to validate, 0 to test",
        "example": "[data.brain]: one fetched and read, 36 x 32 x 40 voxels",
    }


# --- what is stored -----------------------------------------------------------------------


def images_of(site: SiteFolder, files: Sequence[Path]) -> Path:
    """Have an archive of these files, which is in a folder, for the site's images."""
    folder = site.path / "other images"
    Archive(folder).close()
    with open_gateway(f"folder:{folder}") as gateway:
        gateway.store(files)
    site.document["archives"]["images"] = f"folder:{folder}"
    return folder


def is_seg(path: Path) -> bool:
    return bool(dcmread(path, specific_tags=["SOPClassUID"]).SOPClassUID == SegmentationStorage)


def copies(
    site: SiteFolder, files: Sequence[Path], change: Callable[[Dataset], object]
) -> list[Path]:
    """Changed ones of files, beside them."""
    made = []
    for number, path in enumerate(files):
        copy = site.path / f"{number}.dcm"
        copy.write_bytes(path.read_bytes())
        edit(copy, change)
        made.append(copy)
    return made


def test_images_without_labels(site: SiteFolder, labelled: list[Path]) -> None:
    images_of(site, [path for path in labelled if not is_seg(path)])
    every = site.examine()
    studies("0 labelled among 3 studies, 3 no-labels").is_all_that_is_wrong(every)
    assert "store a SEG or RTSTRUCT" in troubles(every)[0].advice


def test_labels_without_images(site: SiteFolder, labelled: list[Path]) -> None:
    images_of(site, [path for path in labelled if is_seg(path)])
    every = site.examine()
    studies("3 images-absent").is_all_that_is_wrong(every)
    assert "store the images" in troubles(every)[0].advice


def test_an_image_that_cannot_be_used(site: SiteFolder, labelled: list[Path]) -> None:
    def lose_place(ds: Dataset) -> None:
        if "ImagePositionPatient" in ds:
            del ds.ImagePositionPatient

    images_of(site, copies(site, labelled, lose_place))
    Named(
        about="data",
        check="example",
        words=["[data.brain]", "cannot be used"],
        outcome="warn",
    ).is_all_that_is_wrong(site.examine())


def test_images_that_are_lost(site: SiteFolder, labelled: list[Path]) -> None:
    folder = images_of(site, labelled)
    for path in folder.rglob("*.dcm"):
        if not is_seg(path):
            path.unlink()
    Named(
        about="data", check="example", words=["[data.brain]", "does not come"]
    ).is_all_that_is_wrong(site.examine())


def test_an_archive_of_images_that_gives_nothing(
    site: SiteFolder, one_labelled: list[Path]
) -> None:
    with odd_archive(Oddities(get="absent")) as odd:
        with open_gateway(odd.dimse) as gateway:
            gateway.store(one_labelled)
        site.document["policy"]["min_studies"] = 1
        site.document["archives"]["images"] = odd.dimse
        every = site.examine()
    studies("0 labelled among 1 studies, 1 not-retrieved").is_all_that_is_wrong(every)
    assert "C-GET" in troubles(every)[0].advice


def test_an_archive_of_images_that_moves_them_to_us(
    site: SiteFolder, one_labelled: list[Path]
) -> None:
    port = free_port()
    with odd_archive(Oddities(get="absent", reaches=("IODEEP", port))) as odd:
        with open_gateway(odd.dimse) as gateway:
            gateway.store(one_labelled)
        site.document["policy"]["min_studies"] = 1
        site.document["archives"]["images"] = f"{odd.dimse}?listen={port}"
        assert troubles(site.examine()) == []
