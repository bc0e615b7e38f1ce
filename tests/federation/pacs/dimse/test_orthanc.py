"""The gateway over associations with an Orthanc: TLS, C-MOVE, storage commitment, faults."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pydicom import dcmread

from federation.errors import ConfigError, PacsError, PacsRefused, PacsUnreachable, StorageError
from federation.pacs import Gateway, Limits, open_gateway
from tests.federation.pacs.conftest import Make, interrupt_after, once
from tests.peers.certificates import Certificates, Identity
from tests.peers.orthanc import Orthanc, orthanc
from tests.peers.process import free_port
from tests.peers.proxy import Fault, Proxy, proxy

SERIES = {"study": "1.2.3.1", "series": "1.2.3.1.1"}
NO_GET = {"AllowEcho": True, "AllowFind": True, "AllowMove": True, "AllowStore": True,
          "AllowGet": False, "AllowStorageCommitment": True}  # fmt: skip


@pytest.fixture(scope="module")
def port() -> int:
    """Where Orthanc reaches us."""
    return free_port()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    with orthanc(folder, known={"IODEEP": ("127.0.0.1", port)}) as archive:
        yield archive


@pytest.fixture
def line(archive: Orthanc) -> Iterator[Proxy]:
    with proxy(archive.ports[0]) as line:
        yield line


def through(line: Proxy) -> str:
    return f"dimse://ORTHANC@127.0.0.1:{line.port}"


def fetched(gateway: Gateway, folder: Path, **series: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return gateway.fetch(folder, **(series or SERIES))


# --- C-MOVE and storage commitment --------------------------------------------------------


def test_where_c_get_is_not_allowed_c_move_brings_the_instances(tmp_path: Path, make: Make) -> None:
    port = free_port()
    modality = {"AET": "IODEEP", "Host": "127.0.0.1", "Port": port, **NO_GET}
    sent = [make() for _ in range(3)]
    with orthanc(tmp_path / "o", settings={"DicomModalities": {"us": modality}}) as archive:
        with open_gateway(f"{archive.dimse}&listen={port}", limits=once(10)) as gateway:
            gateway.store(sent)
            for folder in ("first", "second"):
                got = fetched(gateway, tmp_path / folder)
                assert {path.name for path in got} == {path.name for path in sent}
                assert all(dcmread(path) == dcmread(sent[0].parent / path.name) for path in got)
        with (
            open_gateway(archive.dimse, limits=once(10)) as gateway,
            pytest.raises(PacsError, match="listen=PORT"),
        ):
            fetched(gateway, tmp_path / "third")
    assert list((tmp_path / "third").iterdir()) == []


def test_the_archive_commits_itself_to_keep_what_it_has(
    archive: Orthanc, port: int, make: Make
) -> None:
    stored, other = make(), make()
    with open_gateway(f"{archive.dimse}&listen={port}") as gateway:
        gateway.store([stored])
        gateway.confirm([stored])
        with pytest.raises(StorageError, match=rf"commit itself.*1 of 2.*{other.stem}"):
            gateway.confirm([stored, other])


def test_without_storage_commitment_the_archive_is_asked(archive: Orthanc, make: Make) -> None:
    stored, other = make(), make()
    with open_gateway(archive.dimse) as gateway:
        gateway.store([stored])
        gateway.confirm([stored])
        with pytest.raises(StorageError, match=rf"does not have 1 of 2.*{other.stem}"):
            gateway.confirm([stored, other])


# --- TLS ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("secure"), tls=certificates) as archive:
        yield archive


def with_tls(archive: Orthanc, ca: Path, own: Identity | None = None) -> str:
    ours = f"&cert={own.cert}&key={own.key}" if own else ""
    return f"dimse://ORTHANC@127.0.0.1:{archive.ports[0]}?tls={ca}{ours}"


def test_instances_travel_over_tls_with_a_certificate_of_both_sides(
    secure: Orthanc, make: Make, tmp_path: Path
) -> None:
    sent = [make() for _ in range(4)]
    with open_gateway(secure.dimse) as gateway:
        gateway.store(sent)
        assert len(fetched(gateway, tmp_path / "got")) == 4


def test_reasons_for_no_association_over_tls_differ(
    secure: Orthanc, archive: Orthanc, certificates: Certificates, tmp_path: Path
) -> None:
    ca, client = certificates.ca, certificates.client
    said = {}
    for what, address in {
        "ours is missing": with_tls(secure, ca),
        "ours is a stranger's": with_tls(secure, ca, certificates.other),
        "theirs is a stranger's": with_tls(secure, certificates.other_ca, client),
        "theirs speaks no TLS": with_tls(archive, ca, client),
        "theirs wants TLS": f"dimse://ORTHANC@127.0.0.1:{secure.ports[0]}",
        "another host": with_tls(secure, ca, client).replace("127.0.0.1", "127.0.0.2"),
    }.items():
        with (
            open_gateway(address, limits=once(5)) as gateway,
            pytest.raises(PacsUnreachable) as error,
        ):
            gateway.echo()
        said[what] = str(error.value)
    assert "does not accept our certificate" in said["ours is missing"]
    assert "does not accept our certificate" in said["ours is a stranger's"]
    assert "no authority that we trust" in said["theirs is a stranger's"]
    assert "does not speak TLS" in said["theirs speaks no TLS"]
    assert "without TLS" in said["theirs wants TLS"]
    assert "another host's" in said["another host"]


def test_an_expired_certificate_is_named(certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.expired.cert, certificates.expired.key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def shake_hands() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with suppress(OSError):
                        context.wrap_socket(connection, server_side=True)

        threading.Thread(target=shake_hands, daemon=True).start()
        address = f"dimse://PACS@127.0.0.1:{listening.getsockname()[1]}?tls={certificates.ca}"
        with (
            open_gateway(address, limits=once(5)) as gateway,
            pytest.raises(PacsRefused, match="not valid today"),
        ):
            gateway.echo()
        listening.shutdown(socket.SHUT_RDWR)


def test_tls_files_that_cannot_be_used_are_named(
    certificates: Certificates, tmp_path: Path
) -> None:
    client = certificates.client
    loose = tmp_path / "loose.key"
    loose.write_bytes(client.key.read_bytes())
    loose.chmod(0o644)
    nothing = tmp_path / "nothing.crt"
    for address, said in {
        f"dimse://A@host:1?tls={nothing}": "no certificates to trust",
        f"dimse://A@host:1?tls={client.key}": "no certificates to trust",
        f"dimse://A@host:1?tls={certificates.ca}&cert={client.cert}&key={loose}": "chmod 600",
        f"dimse://A@host:1?tls={certificates.ca}&cert={certificates.ca}&key={client.key}": (
            "no certificate and its key"
        ),
    }.items():
        with pytest.raises(ConfigError, match=said):
            open_gateway(address)


# --- faults -------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["cut", "end"])
def test_an_association_that_drops_in_mid_store_is_opened_again(
    line: Proxy, make: Make, then: str, tmp_path: Path
) -> None:
    large = make(PixelData=bytes(3_000_000), Rows=1000, Columns=1500)
    fault = Fault(after_bytes=1_000_000, direction="sent", then=then, connections=1)  # type: ignore[arg-type]
    line.set(fault)
    with open_gateway(through(line), limits=Limits(timeout_s=3, backoff_s=0.1)) as gateway:
        gateway.store([large])
        assert line.connections == 2
        (got,) = fetched(gateway, tmp_path / "got", **{**SERIES, "instance": large.stem})
    assert dcmread(got) == dcmread(large)


def test_an_association_that_drops_in_mid_get_leaves_no_half_of_an_instance(
    line: Proxy, make: Make, tmp_path: Path
) -> None:
    series = {"study": "1.2.3.4", "series": "1.2.3.4.1"}
    uids = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.4.1"}
    sent = [make(PixelData=bytes(2_000_000), Rows=1000, Columns=1000, **uids) for _ in range(4)]
    with open_gateway(through(line), limits=Limits(timeout_s=3, backoff_s=0.1)) as gateway:
        gateway.store(sent)
        gateway.release()
        line.set(Fault(after_bytes=3_000_000, direction="received", connections=1))
        got = fetched(gateway, tmp_path / "got", **series)
        assert sorted(path.name for path in got) == sorted(path.name for path in sent)
        assert sorted((tmp_path / "got").iterdir()) == sorted(got)
        gateway.release()
        line.set(Fault(after_bytes=1_000_000, direction="received"))
        with pytest.raises(PacsError):
            fetched(gateway, tmp_path / "none", **series)
    assert list((tmp_path / "none").iterdir()) == []


def test_an_archive_that_falls_silent_ends_the_wait(
    line: Proxy, make: Make, tmp_path: Path
) -> None:
    line.set(Fault(after_bytes=500_000, direction="sent", then="hang"))
    large = make(PixelData=bytes(3_000_000), Rows=1000, Columns=1500)
    begin = time.monotonic()
    with open_gateway(through(line), limits=once(2)) as gateway, pytest.raises(PacsUnreachable):
        gateway.store([large])
    assert time.monotonic() - begin < 20


def test_an_archive_that_restarts_is_waited_for(tmp_path: Path, make: Make) -> None:
    sent = make()
    with orthanc(tmp_path / "o") as archive:
        gateway = open_gateway(archive.dimse, limits=Limits(attempts=8, backoff_s=0.3))
        gateway.store([sent])
        archive.kill()
    up = threading.Event()

    def restart() -> None:
        time.sleep(1)
        with orthanc(tmp_path / "o", ports=archive.ports):
            up.wait(60)

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        with gateway:
            (got,) = fetched(gateway, tmp_path / "got")
            assert dcmread(got) == dcmread(sent)
    finally:
        up.set()
        thread.join()


# --- limits -------------------------------------------------------------------------------


def test_no_more_associations_at_once_than_the_limit(line: Proxy, make: Make) -> None:
    sent = [make(PixelData=bytes(4_000_000), Rows=1000, Columns=2000) for _ in range(6)]
    moved: list[int] = []
    for limit in (1, 3):
        before = line.connections
        with open_gateway(
            through(line), limits=Limits(storing=limit), moved=moved.append
        ) as gateway:
            gateway.store(sent)
        assert line.connections - before == limit
    size = sum(path.stat().st_size for path in sent)
    assert 2 * size < sum(moved) < 2.1 * size


def test_an_archive_with_fewer_associations_is_enough(tmp_path: Path, make: Make) -> None:
    sent = [make(PixelData=bytes(4_000_000), Rows=1000, Columns=2000) for _ in range(6)]
    with (
        orthanc(tmp_path / "o", settings={"DicomThreadsCount": 1}) as archive,
        open_gateway(
            archive.dimse, limits=Limits(timeout_s=3, backoff_s=0.1, storing=4)
        ) as gateway,
    ):
        gateway.store(sent)
        assert len(fetched(gateway, tmp_path / "got")) == 6


def test_the_bandwidth_is_kept_both_ways(line: Proxy, make: Make, tmp_path: Path) -> None:
    uids = {"StudyInstanceUID": "1.2.3.5", "SeriesInstanceUID": "1.2.3.5.1"}
    sent = [make(PixelData=bytes(2_000_000), Rows=1000, Columns=1000, **uids) for _ in range(4)]
    with open_gateway(through(line), limits=Limits(mb_per_s=8)) as gateway:
        begin = time.monotonic()
        gateway.store(sent)
        assert time.monotonic() - begin > 0.9
        begin = time.monotonic()
        fetched(gateway, tmp_path / "got", study="1.2.3.5", series="1.2.3.5.1")
        assert time.monotonic() - begin > 0.9


@contextmanager
def held_up(line: Proxy) -> Iterator[threading.Event]:
    """The line falls silent soon; the event is set when it has."""
    line.set(Fault(after_bytes=1_000_000, then="hang"))
    silent = threading.Event()

    def watch() -> None:
        while sum(line.passed.values()) < 3_000_000:
            time.sleep(0.01)
        silent.set()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield silent


def test_ctrl_c_ends_transfers_over_several_associations_at_once(line: Proxy, make: Make) -> None:
    sent = [make(PixelData=bytes(8_000_000), Rows=2000, Columns=2000) for _ in range(6)]
    begin = time.monotonic()
    with (
        held_up(line) as silent,
        open_gateway(through(line), limits=Limits(timeout_s=60, storing=4)) as gateway,
    ):
        thread = interrupt_after(silent)
        with pytest.raises(KeyboardInterrupt):
            gateway.store(sent)
        thread.join()
        assert time.monotonic() - begin < 30
        line.set(Fault())
        line.cut()  # for Orthanc, which has one thread for each association
        gateway.echo()
