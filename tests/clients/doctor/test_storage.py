"""An archive that is odd in one way, and what that is called."""

import time
from pathlib import Path

import pytest
from pydicom.uid import ImplicitVRLittleEndian

from clients.doctor import Finding
from tests.clients.doctor.conftest import Named, SiteFolder, troubles
from tests.peers.dcmqrscp import dcmqrscp
from tests.peers.http_server import http_server
from tests.peers.odd import OddArchive, Oddities, odd_archive
from tests.peers.orthanc import orthanc
from tests.peers.process import free_port
from tests.peers.proxy import Fault, proxy

PART_BYTES = 200_000
PAYLOAD = 0x7FDF1010
PORT = free_port()
US = ("IODEEP", PORT)


def failed(check: str, *words: str) -> Named:
    return Named(about="models", check=check, words=words)


def warned(check: str, *words: str) -> Named:
    return Named(about="models", check=check, words=words, outcome="warn")


FAULTS: dict[str, tuple[Oddities, Named]] = {
    "keeps nothing": (
        Oddities(keeps="nothing"),
        failed("store", "answered that it stored them, and does not have 1"),
    ),
    "drops older series": (
        Oddities(keeps="series"),
        failed("keeping", "1 series", "gone", "dropping old ones"),
    ),
    "is full": (Oddities(full_above=0), failed("store", "0xA700 (out of resources")),
    "takes nothing large": (
        Oddities(full_above=PART_BYTES // 2),
        failed("store of parts", "2 x 201 KB", "0xA700 (out of resources"),
    ),
    "takes no Raw Data": (
        Oddities(raw_data=False),
        failed("store", "accepted no presentation context for its SOP class"),
    ),
    "drops private elements": (
        Oddities(private="dropped"),
        failed("content", "private elements were dropped"),
    ),
    "changes a byte": (
        Oddities(changes="payload"),
        failed("content", "the payload is not the one that was sent"),
    ),
    "coerces the Patient ID": (
        Oddities(changes="patient"),
        failed("content", "PatientID was changed"),
    ),
    "has no C-GET": (Oddities(get="absent"), failed("retrieve", "takes no C-GET")),
    "aborts at a C-GET": (
        Oddities(get="aborts"),
        failed("retrieve", "ends the association at a C-GET"),
    ),
    "sends nothing": (Oddities(get="empty"), failed("retrieve", "1 of 1", "did not come")),
    "has only C-MOVE": (
        Oddities(get="absent", reaches=US),
        warned("retrieve", "by C-MOVE", "no C-GET for us"),
    ),
    "has C-MOVE, and aborts at a C-GET": (
        Oddities(get="aborts", reaches=US),
        warned("retrieve", "by C-MOVE", "no C-GET for us"),
    ),
    "does not know where to move to": (
        Oddities(get="absent", reaches=("OTHER", PORT)),
        failed("retrieve", "0xA801 (unknown move destination)"),
    ),
    "moves to where nobody listens": (
        Oddities(get="absent", reaches=("IODEEP", free_port())),
        failed("retrieve", "C-MOVE", "0 instances came"),
    ),
    "commits itself to nothing": (
        Oddities(commits="nothing", reaches=US),
        failed("commitment", "does not commit itself to keep 1 of 1"),
    ),
    "never reports": (
        Oddities(commits="silent", reaches=US),
        warned("commitment", "reached us within 1 s"),
    ),
}


def models(site: SiteFolder, archive: OddArchive) -> None:
    """Have it for the site's models, reached where it is told to."""
    listen = "" if archive.odd.reaches is None else f"?listen={PORT}"
    site.document["archives"]["models"] = archive.dimse + listen
    site.document["archives"]["limits"]["timeout_s"] = 1.0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(site: SiteFolder, fault: str) -> None:
    oddities, named = FAULTS[fault]
    begin = time.monotonic()
    with odd_archive(oddities) as odd:
        models(site, odd)
        named.is_all_that_is_wrong(site.examine(part_bytes=PART_BYTES))
    assert time.monotonic() - begin < 15


HARMLESS: dict[str, tuple[Oddities, str]] = {
    "nothing odd": (Oddities(), "bit for bit, private elements and all"),
    "does not know private VRs": (
        Oddities(private="un"),
        "private elements come back as UN: no harm",
    ),
    "implicit VR": (Oddities(syntax=ImplicitVRLittleEndian), "bit for bit"),
    "adds attributes": (
        Oddities(changes="more"),
        "attributes were added: InstitutionName: no harm",
    ),
    "finds everything, twice": (Oddities(finds="everything"), "bit for bit"),
    "commits itself": (Oddities(commits="all", reaches=US), "bit for bit"),
    "knows of no commitment": (Oddities(reaches=US), "bit for bit"),
}


@pytest.mark.parametrize("oddity", HARMLESS)
def test_what_does_no_harm_is_no_fault(site: SiteFolder, oddity: str) -> None:
    oddities, content = HARMLESS[oddity]
    with odd_archive(oddities) as odd:
        models(site, odd)
        found = site.examine(part_bytes=PART_BYTES)
    assert troubles(found) == []
    assert content in seen(found, "content")
    assert content in seen(found, "content of parts")


def seen(found: list[Finding], check: str) -> str:
    (one,) = [one for one in found if (one.about, one.check) == ("models", check)]
    return one.seen


def test_each_run_leaves_one_small_series_and_the_large_one_once(site: SiteFolder) -> None:
    with odd_archive() as odd:
        models(site, odd)
        left = []
        for _ in range(3):
            assert troubles(site.examine(part_bytes=PART_BYTES)) == []
            left.append(odd.series())
    assert [len(series) for series in left] == [2, 3, 4]
    assert left[0] < left[1] < left[2]
    assert {str(ds.PatientID) for ds in odd.instances.values()} == {"IODEEP-DOCTOR"}
    assert len({ds.StudyInstanceUID for ds in odd.instances.values()}) == 1


def test_without_parts_nothing_large_is_stored(site: SiteFolder) -> None:
    with odd_archive() as odd:
        models(site, odd)
        found = site.examine(part_bytes=0)
        assert len(odd.instances) == 1
    assert not [one for one in found if "parts" in one.check]


def test_older_series_that_are_dropped_are_noticed_in_the_next_run(site: SiteFolder) -> None:
    """Where there are no parts to drop them for."""
    with odd_archive(Oddities(keeps="series")) as odd:
        models(site, odd)
        assert troubles(site.examine(part_bytes=0)) == []
        FAULTS["drops older series"][1].is_all_that_is_wrong(site.examine(part_bytes=0))


def test_a_part_that_is_damaged_is_to_be_deleted(site: SiteFolder) -> None:
    """It has the same UID each time, under which an archive may keep what it has for ever."""
    with odd_archive() as odd:
        models(site, odd)
        assert troubles(site.examine(part_bytes=PART_BYTES)) == []
        for ds in odd.instances.values():
            if len(ds[PAYLOAD].value) == PART_BYTES:
                ds[PAYLOAD].value = bytes(PART_BYTES)
        found = site.examine(part_bytes=PART_BYTES)
    failed("content of parts", "the payload is not the one").is_all_that_is_wrong(found)
    assert "delete what it has of IODEEP-DOCTOR" in troubles(found)[0].advice


def test_an_archive_that_falls_silent_amid_a_part(site: SiteFolder) -> None:
    begin = time.monotonic()
    with odd_archive() as odd:
        port = odd.dimse.rpartition(":")[2]
        with proxy(int(port), Fault(after_bytes=150_000, direction="sent", then="hang")) as line:
            models(site, odd)
            address = odd.dimse.replace(port, str(line.port))
            site.document["archives"]["models"] = address
            found = site.examine(part_bytes=PART_BYTES)
    failed("store of parts", "did not answer within 1 s").is_all_that_is_wrong(found)
    assert time.monotonic() - begin < 15


# --- archives of others, set up badly -----------------------------------------------------


def test_an_orthanc_that_allows_no_c_get(site: SiteFolder, tmp_path: Path) -> None:
    allowed = {"AllowEcho": True, "AllowFind": True, "AllowStore": True, "AllowGet": False}
    us = {"AET": "IODEEP", "Host": "127.0.0.1", "Port": 1, **allowed}
    with orthanc(tmp_path / "o", settings={"DicomModalities": {"us": us}}) as archive:
        site.document["archives"]["models"] = archive.dimse
        found = site.examine(part_bytes=PART_BYTES)
    failed("retrieve", "C-GET", "nothing was fetched").is_all_that_is_wrong(found)
    assert "have it allow C-GET to IODEEP" in troubles(found)[0].advice


def test_an_orthanc_that_allows_no_c_store(site: SiteFolder, tmp_path: Path) -> None:
    allowed = {"AllowEcho": True, "AllowFind": True, "AllowStore": False, "AllowGet": True}
    us = {"AET": "IODEEP", "Host": "127.0.0.1", "Port": 1, **allowed}
    with orthanc(tmp_path / "o", settings={"DicomModalities": {"us": us}}) as archive:
        site.document["archives"]["models"] = archive.dimse
        found = site.examine(part_bytes=PART_BYTES)
    failed("store").is_all_that_is_wrong(found)


def test_a_dcmqrscp_whose_quota_is_small(site: SiteFolder, tmp_path: Path) -> None:
    with dcmqrscp(tmp_path / "d", quota=("10000", "395kb")) as archive:
        site.document["archives"]["models"] = archive.dimse
        found = site.examine(part_bytes=PART_BYTES)
    failed("keeping", "dropping old ones").is_all_that_is_wrong(found)


def test_a_web_server_that_answers_nothing_to_everything(site: SiteFolder) -> None:
    with http_server() as port:
        site.document["archives"]["models"] = f"dicomweb+http://127.0.0.1:{port}/dicom-web"
        found = site.examine()
    failed("store", "answered 200", "does not list it").is_all_that_is_wrong(found)
