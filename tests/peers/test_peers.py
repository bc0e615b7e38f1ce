"""The archives of others come up and answer others' programs; the line between fails as told."""

import base64
import socket
import stat
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from tests.peers import peer
from tests.peers.certificates import Certificates
from tests.peers.dcmqrscp import dcmqrscp
from tests.peers.orthanc import Orthanc, orthanc
from tests.peers.process import running
from tests.peers.proxy import Direction, Fault, Proxy, proxy


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    ds = Dataset()
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = (generate_uid() for _ in "123")
    ds.PatientID = "P1"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = tmp_path / "instance.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def dcmtk(program: str, address: str, *options: str, send: Path | None = None) -> bool:
    """Whether a program of DCMTK that goes by the address ends well."""
    parts = urlsplit(address)
    calling = parse_qs(parts.query)["calling"][0]
    command = [peer(program), "-aet", calling, "-aec", str(parts.username), *options]
    command += ["127.0.0.1", str(parts.port), *([str(send)] if send else [])]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def answer(archive: Orthanc, *, login: bool) -> int:
    """What the root of DICOMweb answers."""
    address = urlsplit(archive.dicomweb.removeprefix("dicomweb+"))
    request = urllib.request.Request(address._replace(query="").geturl() + "/studies")
    if login:
        path = Path(parse_qs(address.query)["login"][0])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        word = base64.b64encode(path.read_bytes().strip()).decode()
        request.add_header("Authorization", f"Basic {word}")
    try:
        with urllib.request.urlopen(request, timeout=10) as said:
            return int(said.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_orthanc_takes_instances_and_asks_who_one_is(tmp_path: Path, instance: Path) -> None:
    with orthanc(tmp_path / "orthanc") as archive:
        assert dcmtk("echoscu", archive.dimse)
        assert dcmtk("storescu", archive.dimse, send=instance)
        stranger = archive.dimse.replace("IODEEP", "STRANGER")
        assert not dcmtk("echoscu", stranger)
        assert answer(archive, login=True) == 200
        assert answer(archive, login=False) == 401


def test_orthanc_over_tls_asks_for_a_certificate(
    tmp_path: Path, certificates: Certificates
) -> None:
    ours, other = certificates.client, certificates.other
    with orthanc(tmp_path / "orthanc", tls=certificates) as archive:
        trust = ("+cf", str(certificates.ca))
        assert dcmtk("echoscu", archive.dimse, "+tls", str(ours.key), str(ours.cert), *trust)
        assert not dcmtk("echoscu", archive.dimse, "+tls", str(other.key), str(other.cert), *trust)
        assert not dcmtk("echoscu", archive.dimse)


def test_dcmqrscp_takes_instances(tmp_path: Path, instance: Path) -> None:
    with dcmqrscp(tmp_path / "dcmqrscp") as archive:
        assert dcmtk("echoscu", archive.dimse)
        assert dcmtk("storescu", archive.dimse, send=instance)


def test_what_was_stored_is_there_after_a_kill(tmp_path: Path, instance: Path) -> None:
    with orthanc(tmp_path / "orthanc") as killed:
        assert dcmtk("storescu", killed.dimse, send=instance)
        killed.kill()
        assert not dcmtk("echoscu", killed.dimse)
        with orthanc(tmp_path / "orthanc", ports=killed.ports) as again:
            assert (again.dimse, again.dicomweb) == (killed.dimse, killed.dicomweb)
            assert answer(again, login=True) == 200
    with dcmqrscp(tmp_path / "dcmqrscp") as one:
        one.kill()
        with dcmqrscp(tmp_path / "dcmqrscp", port=one.port) as other:
            assert dcmtk("echoscu", other.dimse)


def test_a_program_that_does_not_come_up_is_quoted(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo no room left; exit 3"]
    with (
        pytest.raises(RuntimeError, match="no room left"),
        running(command, log=tmp_path / "log", answers=lambda: False),
    ):
        pass


# --- the line -----------------------------------------------------------------------------

SENT, ANSWERED = 300_000, 200_000


@contextmanager
def server_behind(fault: Fault) -> Iterator[Proxy]:
    """Behind a line with a fault, someone who hears all there is and then answers."""

    def serve() -> None:
        with listening:
            while True:
                try:
                    connection, _ = listening.accept()
                    with connection:
                        heard = 0
                        while heard < SENT and (data := connection.recv(65536)):
                            heard += len(data)
                        connection.sendall(bytes(ANSWERED))
                except OSError:
                    if stopped.is_set():
                        return

    stopped = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with proxy(listening.getsockname()[1], fault) as line:
        yield line
    stopped.set()
    listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def ask(line: Proxy) -> int:
    """How many bytes come back before the connection ends in order."""
    with socket.create_connection(("127.0.0.1", line.port), timeout=1) as connection:
        connection.sendall(bytes(SENT))
        heard = 0
        while data := connection.recv(65536):
            heard += len(data)
        return heard


def test_a_line_without_a_fault_passes_all() -> None:
    with server_behind(Fault()) as line:
        assert ask(line) == ANSWERED
        assert line.passed == {"sent": SENT, "received": ANSWERED}


def test_a_line_that_refuses_takes_connections_again() -> None:
    with server_behind(Fault()) as line:
        line.refuse()
        with pytest.raises(ConnectionRefusedError):
            ask(line)
        line.listen()
        assert ask(line) == ANSWERED


def test_a_line_goes_down_and_comes_back() -> None:
    with server_behind(Fault()) as line:
        line.go_down(after_bytes=100_000)
        with pytest.raises(ConnectionError):
            ask(line)
        with pytest.raises(ConnectionRefusedError):
            ask(line)
        line.listen()
        assert ask(line) == ANSWERED


@pytest.mark.parametrize("direction", ["sent", "received"])
def test_a_line_is_cut_after_so_many_bytes_of_the_first_connection(direction: Direction) -> None:
    with server_behind(Fault(after_bytes=100_000, direction=direction, connections=1)) as line:
        with pytest.raises(ConnectionError):
            ask(line)
        assert line.passed[direction] == 100_000
        assert ask(line) == ANSWERED


def test_a_line_ends_an_answer_early() -> None:
    fault = Fault(after_bytes=100_000, direction="received", then="end")
    with server_behind(fault) as line:
        assert ask(line) == 100_000


def test_a_line_falls_silent() -> None:
    with (
        server_behind(Fault(after_bytes=100_000, direction="received", then="hang")) as line,
        pytest.raises(TimeoutError),
    ):
        ask(line)


def test_a_line_is_slow_and_late() -> None:
    for fault in (Fault(bytes_per_s=1e6), Fault(delay_s=0.05)):
        with server_behind(fault) as line:
            begin = time.monotonic()
            assert ask(line) == ANSWERED
            assert 0.3 < time.monotonic() - begin < 5
