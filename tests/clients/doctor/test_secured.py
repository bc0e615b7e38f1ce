"""Whether the way to an archive is secured, and for how long."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clients.doctor import Finding
from clients.doctor.finding import Subject
from clients.doctor.secured import examine_tls
from federation.pacs import Archive, ArchiveServer
from federation.pacs.address import parse_address
from federation.pacs.tls import Tls
from tests.peers.certificates import Certificates


@pytest.fixture
def secure(tmp_path: Path, certificates: Certificates) -> Iterator[str]:
    """The address of an archive with a certificate of both sides."""
    theirs, ours = certificates.server, certificates.client
    tls = Tls(ca=certificates.ca, cert=theirs.cert, key=theirs.key)
    with Archive(tmp_path) as archive, ArchiveServer(archive, ae_title="PACS", tls=tls) as server:
        named = f"tls={certificates.ca}&cert={ours.cert}&key={ours.key}"
        yield f"{server.address.partition('?')[0]}?{named}"


def examined(address: str, *, days: float = 0) -> Finding:
    """What is found so many days from now."""
    now = datetime.now(UTC) + timedelta(days=days)
    return examine_tls(Subject(about="images"), parse_address(address), now=now, timeout_s=3)


def test_certificates_of_both_sides_are_good_for_a_while(secure: str) -> None:
    found = examined(secure)
    end = datetime.now(UTC) + timedelta(days=30)  # how long certificates of tests are valid
    assert found.outcome == "pass"
    assert f"the archive's certificate is valid until {end:%Y-%m}" in found.seen
    assert "our certificate is valid until" in found.seen


@pytest.mark.parametrize("days", [20, 40])
def test_a_certificate_that_ends_soon_is_named_before(secure: str, days: int) -> None:
    found = examined(secure, days=days)
    assert found.outcome == "warn"
    assert "valid until" in found.seen
    assert "renewed" in found.advice


def test_what_leaves_the_machine_without_tls_is_named() -> None:
    for address in (
        "dimse://PACS@pacs.hospital.org:104",
        "dimse://PACS@10.0.0.7:104",
        "dimse://PACS@[2001:db8::7]:104",
        "dicomweb+http://pacs.hospital.org/dicom-web",
        "dicomweb+http://[2001:db8::7]/dicom-web",
    ):
        found = examined(address)
        assert (found.check, found.outcome) == ("tls", "warn"), address
        assert "names and images of patients" in found.seen
        assert "tls=CA.crt" in found.advice


def test_what_stays_on_the_machine_needs_no_tls() -> None:
    for address in (
        "dimse://PACS@127.0.0.1:104",
        "dimse://PACS@localhost:104",
        "dimse://PACS@[::1]:104",
        "dicomweb+http://localhost:8042/dicom-web",
        "dicomweb+http://[::1]/dicom-web",
        "folder:archive",
    ):
        found = examined(address)
        assert found.outcome == "pass", address
        assert "not needed" in found.seen
