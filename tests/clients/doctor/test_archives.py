"""Why an archive cannot be reached or asked, each reason by its name."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.pacs import Archive, ArchiveServer
from federation.pacs.address import DimseAddress
from tests.clients.doctor.conftest import Named, SiteFolder, troubles
from tests.peers.certificates import Certificates, Identity
from tests.peers.http_server import http_server
from tests.peers.odd import Oddities, odd_archive
from tests.peers.orthanc import Orthanc, orthanc
from tests.peers.process import free_port

PROMPT_S = 5.0
"""An answer that needs no wait."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as archive:
        yield archive


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("secure"), tls=certificates) as archive:
        yield archive


def echo(*words: str) -> Named:
    return Named(about="models", check="echo", words=words)


def finds(site: SiteFolder, address: str, named: Named, *, within_s: float = PROMPT_S) -> None:
    """Asserts that a fault of the models' archive is named, and soon enough."""
    site.document["archives"]["models"] = address
    begin = time.monotonic()
    named.is_all_that_is_wrong(site.examine())
    assert time.monotonic() - begin < within_s


def waits(site: SiteFolder, timeout_s: float) -> None:
    site.document["archives"]["limits"]["timeout_s"] = timeout_s


# --- nobody there, or somebody else -------------------------------------------------------


def test_a_port_where_nobody_listens(site: SiteFolder) -> None:
    address = f"dimse://PACS@127.0.0.1:{free_port()}"
    finds(site, address, echo("nothing listens at that port", "is the port right?"))


def test_a_host_that_has_no_address(site: SiteFolder) -> None:
    named = echo("nowhere.invalid", "Is the host right?")
    finds(site, "dimse://PACS@nowhere.invalid:104", named, within_s=60)  # as names are looked up


def test_a_host_that_does_not_answer(site: SiteFolder) -> None:
    """As behind a firewall that drops what it does not know."""
    waits(site, 1)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # all that it takes
            address = f"dimse://PACS@127.0.0.1:{port}"
            finds(site, address, echo("the host does not answer", "firewall"))
            address = f"dicomweb+http://127.0.0.1:{port}/dicom-web"
            finds(site, address, echo("the host does not answer", "firewall"))


def test_a_listener_that_says_nothing(site: SiteFolder) -> None:
    waits(site, 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        address = f"dimse://PACS@127.0.0.1:{port}"
        finds(site, address, echo("did not answer within 1 s", "Is it a DICOM archive"))
        address = f"dicomweb+http://127.0.0.1:{port}/dicom-web"
        finds(site, address, echo("did not go on", "for 1 s"))


def test_an_archive_that_hangs_once_it_has_accepted_an_association(site: SiteFolder) -> None:
    waits(site, 1)
    with odd_archive(Oddities(hangs=True)) as odd:
        finds(site, odd.dimse, echo("did not answer within 1 s", "still running?"))


def test_a_web_server_is_no_archive(site: SiteFolder) -> None:
    waits(site, 1)
    page = b"<html>Welcome</html>"
    with http_server(body=page, kind="text/html") as port:
        finds(site, f"dimse://PACS@127.0.0.1:{port}", echo("Is it a DICOM archive"))
        address = f"dicomweb+http://127.0.0.1:{port}/dicom-web"
        finds(site, address, echo("'text/html' instead of JSON", "Is the address that"))


def test_a_dicom_port_is_no_web_server(site: SiteFolder, archive: Orthanc) -> None:
    address = f"dicomweb+http://127.0.0.1:{archive.ports[0]}/dicom-web"
    finds(site, address, echo("broke off"))


@pytest.mark.parametrize(
    ("ahead_s", "outcome", "words"),
    [(30, "pass", "ahead of"), (3600, "warn", "s ahead of"), (-7200, "warn", "s behind")],
)
def test_a_clock_that_is_off(site: SiteFolder, ahead_s: float, outcome: str, words: str) -> None:
    with http_server(body=b"[]", kind="application/dicom+json", ahead_s=ahead_s) as port:
        site.document["archives"]["models"] = f"dicomweb+http://127.0.0.1:{port}/dicom-web"
        (clock,) = [one for one in site.examine() if (one.about, one.check) == ("models", "clock")]
    assert (clock.outcome, words in clock.seen) == (outcome, True)


def test_a_folder_that_is_no_archive(site: SiteFolder) -> None:
    named = Named(about="models", check="address", words=["nothing is no archive"])
    finds(site, "folder:nothing", named)


# --- it does not let us in ----------------------------------------------------------------


def test_titles_that_the_archive_does_not_know(site: SiteFolder, archive: Orthanc) -> None:
    finds(
        site,
        archive.dimse.replace("ORTHANC", "PACS"),
        echo("does not go by that AE title", "Called 'PACS'"),
    )
    finds(
        site,
        archive.dimse.replace("IODEEP", "STRANGER"),
        echo("does not know our AE title", "calling 'STRANGER'"),
    )


def with_tls(archive: Orthanc, ca: Path, own: Identity | None = None) -> str:
    ours = f"&cert={own.cert}&key={own.key}" if own else ""
    return f"dimse://ORTHANC@127.0.0.1:{archive.ports[0]}?tls={ca}{ours}"


def test_reasons_why_there_is_no_tls(
    site: SiteFolder, archive: Orthanc, secure: Orthanc, certificates: Certificates
) -> None:
    ca, ours = certificates.ca, certificates.client
    for address, named in {
        with_tls(secure, certificates.other_ca, ours): echo("no authority that we trust"),
        with_tls(secure, ca): echo("does not accept our certificate", "cert=OWN.crt"),
        with_tls(secure, ca, certificates.other): echo("does not accept our certificate"),
        with_tls(archive, ca, ours): echo("does not speak TLS at that port"),
        f"dimse://ORTHANC@127.0.0.1:{secure.ports[0]}": echo("without TLS"),
        with_tls(secure, ca, ours).replace("127.0.0.1", "127.0.0.2"): echo("another host's"),
        with_tls(secure, ca / "none"): Named(
            about="models", check="address", words=["no certificates to trust"]
        ),
    }.items():
        finds(site, address, named)


def test_a_login_that_is_not_accepted(site: SiteFolder, archive: Orthanc, tmp_path: Path) -> None:
    root = archive.dicomweb.partition("?")[0]
    wrong, loose = tmp_path / "wrong", tmp_path / "loose"
    for login, mode in {wrong: 0o600, loose: 0o644}.items():
        login.write_text("iodeep:wrong\n")
        login.chmod(mode)
    finds(site, f"{root}?login={wrong}", echo("401 (Unauthorized)", "user and password"))
    finds(site, root, echo("401 (Unauthorized)", "login=FILE"))
    words = ["mode 644", "chmod 600"]
    finds(site, f"{root}?login={loose}", Named(about="models", check="address", words=words))
    finds(site, archive.dicomweb.replace("/dicom-web", "/web"), echo("404 (Not Found)", "path"))


# --- it lets us in, and yet ---------------------------------------------------------------


def test_an_archive_that_does_not_find(site: SiteFolder) -> None:
    named = Named(about="models", check="find", words=["C-FIND at STUDY level", "0xC001"])
    with odd_archive(Oddities(finds=0xC001)) as odd:
        finds(site, odd.dimse, named)


def test_an_archive_with_fewer_associations_than_the_limits(site: SiteFolder) -> None:
    site.document["archives"]["limits"].update(attempts=5, backoff_s=0.1)
    named = Named(
        about="models", check="associations", words=["1 at once", "has 4"], outcome="warn"
    )
    with odd_archive(Oddities(associations=1)) as odd:
        finds(site, odd.dimse, named)
        site.document["archives"]["limits"]["associations"] = 1
        assert troubles(site.examine()) == []


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def test_a_port_for_the_archive_that_something_else_has(site: SiteFolder, archive: Orthanc) -> None:
    with listening() as port:
        site.document["archives"]["models"] = f"{archive.dimse}&listen={port}"
        listen, commitment = troubles(site.examine())
    assert (listen.about, listen.check, listen.outcome) == ("models", "listen", "fail")
    assert f"port {port} of this machine" in listen.seen
    assert "Address already in use" in listen.seen
    assert commitment.check == "commitment"  # which needs it
    assert "cannot be listened at" in commitment.seen


def test_a_port_for_an_archive_over_tls_without_a_certificate_of_ours(
    site: SiteFolder, tmp_path: Path, certificates: Certificates
) -> None:
    """Where the archive asks for none, but we should show one when it calls."""
    settings = {"DicomTlsRemoteCertificateRequired": False}
    with orthanc(tmp_path / "o", tls=certificates, settings=settings) as archive:
        address = with_tls(archive, certificates.ca)
        site.document["archives"]["models"] = f"{address}&listen={free_port()}"
        listen, commitment = troubles(site.examine())
    assert (listen.about, listen.check, listen.outcome) == ("models", "listen", "fail")
    assert "certificate of ours" in listen.seen
    assert "cert=OWN.crt" in listen.advice
    assert commitment.check == "commitment"


def test_the_images_archive_is_looked_at_too(site: SiteFolder) -> None:
    site.document["archives"]["images"] = f"dimse://PACS@127.0.0.1:{free_port()}"
    named = Named(about="images", check="echo", words=["nothing listens at that port"])
    found = site.examine()
    named.is_all_that_is_wrong(found)
    assert "store" in {one.check for one in found if one.about == "models"}


def test_what_is_well_is_said(site: SiteFolder, tmp_path: Path) -> None:
    us = DimseAddress(called="IODEEP", host="127.0.0.1", port=free_port())
    with (
        Archive(tmp_path / "archive") as archive,
        ArchiveServer(archive, ae_title="PACS", destinations=[us]) as server,
    ):
        address = f"{server.address}?listen={us.port}"
        site.document["archives"]["models"] = address
        found = site.examine()
    seen = {one.check: one.seen for one in found if one.about == "models"}
    assert troubles(found) == []
    assert seen["echo"].startswith(f"{address} answers in ")
    assert seen["find"] == "studies of IODeep's patients: 0"
    assert seen["associations"] == "4 at once"
    assert "is free for us" in seen["listen"]
    assert "commits itself" in seen["commitment"]
