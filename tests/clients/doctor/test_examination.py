"""Archives where all is well; and what is looked at when, and left behind."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clients.doctor import examine
from federation.pacs import open_gateway
from tests.clients.doctor.conftest import NOW, SiteFolder, troubles
from tests.federation.pacs.archives import ARCHIVES
from tests.peers.certificates import Certificates
from tests.peers.process import free_port

PART_BYTES = 1_000_000

CHECKS = [
    ("machine", "versions"),
    ("machine", "device"),
    ("machine", "disk"),
    ("machine", "clock"),
    ("keys", "own key"),
    ("keys", "split key"),
    ("keys", "trust"),
    ("images", "echo"),
    ("images", "tls"),
    ("images", "find"),
    ("images", "associations"),
    ("data", "studies"),
    ("data", "example"),
    ("models", "room"),
    ("models", "store"),
    ("models", "retrieve"),
    ("models", "content"),
    ("models", "store of parts"),
    ("models", "retrieve of parts"),
    ("models", "content of parts"),
    ("models", "keeping"),
]


@pytest.fixture(params=ARCHIVES, scope="module")
def archive(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificates: Certificates,
    one_labelled: list[Path],
) -> Iterator[str]:
    """An archive of every kind, with a labelled study."""
    run = ARCHIVES[request.param]
    with run(tmp_path_factory.mktemp(request.param), certificates) as address:
        with open_gateway(address) as gateway:
            gateway.store(one_labelled)
        yield address


def test_nothing_is_wrong_with_an_archive_that_is_well(site: SiteFolder, archive: str) -> None:
    site.document["archives"] = {"images": archive}
    site.document["policy"]["min_studies"] = 1
    left = []
    for _ in range(2):
        found = site.examine(part_bytes=PART_BYTES)
        assert troubles(found) == []
        expected = [
            check
            for check in CHECKS
            if not (check[1] == "associations" and archive.startswith("dicomweb"))
        ]
        assert [(one.about, one.check) for one in found] == expected
        left.append(series_left(archive))
    assert len(left[0]) == 2
    assert left[0] < left[1]
    assert len(left[1] - left[0]) == 1


def series_left(address: str) -> set[str]:
    """The series that examinations left in an archive."""
    with open_gateway(address) as gateway:
        studies = gateway.find("STUDY", {"PatientID": "IODEEP-DOCTOR"})
        assert len(studies) == 1
        study = str(studies[0].StudyInstanceUID)
        found = gateway.find("SERIES", {"StudyInstanceUID": study, "SeriesDescription": ""})
        return {str(one.SeriesInstanceUID) for one in found}


def test_two_archives_are_both_reached_and_only_that_of_models_is_written_to(
    site: SiteFolder, images: str
) -> None:
    found = site.examine(part_bytes=PART_BYTES)
    assert troubles(found) == []
    assert [one.about for one in found if one.check == "echo"] == ["images", "models"]
    with open_gateway(images) as gateway:
        assert gateway.find("STUDY", {"PatientID": "IODEEP*"}) == []


def test_nothing_is_left_in_the_work_folder(site: SiteFolder) -> None:
    assert troubles(site.examine(part_bytes=PART_BYTES)) == []
    assert [path for path in (site.path / "work").rglob("*") if path.is_file()] == []


def test_findings_come_as_they_are_made(site: SiteFolder) -> None:
    """So that whoever waits for an archive that hangs could see what was well before."""
    site.document["archives"]["models"] = f"dimse://PACS@127.0.0.1:{free_port()}"
    found = examine(site.read(), part_bytes=0, now=NOW)
    assert next(found).check == "versions"
    assert [one.check for one in found][-1] == "echo"


def test_bytes_that_move_are_told(site: SiteFolder) -> None:
    moved: list[int] = []
    tell: Callable[[int], None] = moved.append
    list(examine(site.read(), part_bytes=PART_BYTES, now=NOW, moved=tell))
    assert sum(moved) > 4 * PART_BYTES  # two parts, there and back
