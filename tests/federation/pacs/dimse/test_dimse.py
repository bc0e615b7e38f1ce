"""The gateway over associations: with our archive, with DCMTK's, and with odd ones."""

import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pynetdicom import AE, AllStoragePresentationContexts, association, evt
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dsutils import decode
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from federation.errors import (
    ConfigError,
    PacsError,
    PacsRefused,
    PacsUnreachable,
    StorageError,
)
from federation.pacs import Archive, ArchiveServer, DimseGateway, open_gateway
from federation.pacs.address import DimseAddress, parse_address
from federation.pacs.dimse.association import cut_off
from federation.pacs.dimse.bounds import MAX_HELD_BYTES
from federation.pacs.dimse.listener import Reports
from federation.pacs.tls import Tls
from tests.federation.pacs.conftest import Make, interrupt_after, once
from tests.peers import peer
from tests.peers.certificates import Certificates
from tests.peers.odd import Oddities, odd_archive
from tests.peers.process import free_port
from tests.peers.proxy import Fault, proxy

SERIES = {"study": "1.2.3.1", "series": "1.2.3.1.1"}
SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_instance_comes_back_in_its_own_transfer_syntax(
    server: ArchiveServer, make: Make, tmp_path: Path, syntax: UID
) -> None:
    """Also over an association that was not opened to send one like it."""
    sent = make(syntax=syntax)
    with open_gateway(server.address) as gateway:
        gateway.store([sent])
    with open_gateway(server.address) as gateway:
        (got,) = gateway.fetch(tmp_path, **SERIES)
    assert dcmread(got).file_meta.TransferSyntaxUID == syntax
    assert dcmread(got) == dcmread(sent)


def test_a_series_of_several_transfer_syntaxes_comes_whole(
    server: ArchiveServer, make: Make, tmp_path: Path
) -> None:
    with open_gateway(server.address) as gateway:
        gateway.store([make(syntax=syntax) for syntax in SYNTAXES])
    with open_gateway(server.address) as gateway:
        got = gateway.fetch(tmp_path, **SERIES)
        assert sorted(tmp_path.glob("*.dcm")) == sorted(got)
        assert len(got) == len(SYNTAXES)


def test_more_kinds_than_an_association_can_carry_are_stored(
    server: ArchiveServer, make: Make
) -> None:
    classes = [str(context.abstract_syntax) for context in AllStoragePresentationContexts][:70]
    with open_gateway(server.address) as gateway:
        gateway.store([make(SOPClassUID=one) for one in classes])
        keys = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.1.1"}
        assert len(gateway.find("IMAGE", keys)) == 70


def test_a_fetch_that_fails_leaves_no_file(
    server: ArchiveServer, archive: Archive, make: Make, tmp_path: Path
) -> None:
    got = tmp_path / "got"
    got.mkdir()
    with open_gateway(server.address) as gateway:
        gateway.store([make(), make()])
        with pytest.raises(StorageError, match="Is the folder there"):
            gateway.fetch(tmp_path / "nowhere", **SERIES)
        archive.instances()[0].path.unlink()
        with pytest.raises(PacsError, match="1 failed"):
            gateway.fetch(got, **SERIES)
    assert list(got.iterdir()) == []


def test_a_fetch_takes_uids_only(server: ArchiveServer, tmp_path: Path) -> None:
    with open_gateway(server.address) as gateway, pytest.raises(ConfigError):
        gateway.fetch(tmp_path, study="1.2", series="../../1")


# --- archives that behave oddly -----------------------------------------------------------


@contextmanager
def archive_answering(*answers: Dataset) -> Iterator[str]:
    """An archive that answers every C-FIND alike, whatever it is asked."""

    def on_find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for answer in answers:
            yield 0xFF00, answer

    ae = AE(ae_title="ODD")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    handlers: list[Any] = [(evt.EVT_C_FIND, on_find)]
    odd: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield f"dimse://ODD@127.0.0.1:{odd.server_address[1]}"
    finally:
        odd.shutdown()


def series(number: int, uid: str, description: str) -> Dataset:
    ds = Dataset()
    ds.SeriesNumber, ds.SeriesInstanceUID, ds.SeriesDescription = number, uid, description
    ds.StudyInstanceUID = "1.2.3.1"
    return ds


def test_answers_are_filtered_again_and_each_entity_comes_once() -> None:
    wanted, ignored = series(1, "1.2.3.1.1", "T1 axial"), series(2, "1.2.3.1.2", "T2 axial")
    with archive_answering(wanted, wanted, ignored) as address, open_gateway(address) as gateway:
        keys = {"StudyInstanceUID": "1.2.3.1", "SeriesDescription": "T1*"}
        (found,) = gateway.find("SERIES", keys)
    assert found.SeriesInstanceUID == "1.2.3.1.1"


def test_no_answer_is_lost_where_questions_follow_at_once(
    server: ArchiveServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though pynetdicom's own thread sees late that a question is over, and then looks for
    messages while the asker reads the next question's first answer."""
    server.archive.ingest(make(StudyInstanceUID="1.2.3.1"))
    server.archive.ingest(make(StudyInstanceUID="1.2.3.2", SeriesInstanceUID="1.2.3.2.1"))
    wait = threading.Event.wait

    def wake_up_late(event: threading.Event, timeout: float | None = None) -> bool:
        came = wait(event, timeout)
        thread = threading.current_thread()
        if isinstance(thread, Association) and thread.is_requestor:
            time.sleep(0.05)
        return came

    def read_slowly(*args: Any) -> Dataset:
        time.sleep(0.1)
        return decode(*args)

    with open_gateway(server.address) as gateway:
        gateway.find("STUDY", {})
        monkeypatch.setattr(threading.Event, "wait", wake_up_late)
        monkeypatch.setattr(association, "decode", read_slowly)
        found = [len(gateway.find("STUDY", {})) for _ in range(3)]
    assert found == [2] * 3


def test_an_interrupted_question_does_not_wait_for_its_answer() -> None:
    """Neither the interrupt nor closing waits; without an answer a release would."""
    asked = threading.Event()

    def on_find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked.set()
        time.sleep(8)
        yield 0x0000, None

    ae = AE(ae_title="SLOW")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    slow: Any = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, on_find)]
    )

    thread = interrupt_after(asked)
    gateway = open_gateway(f"dimse://SLOW@127.0.0.1:{slow.server_address[1]}", limits=once(30))
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), gateway:
        gateway.find("STUDY", {})
    assert time.monotonic() - begin < 8
    thread.join()
    slow.shutdown()


def test_an_interrupted_release_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second release on the same association would end pynetdicom's thread with an error."""
    asked = threading.Event()

    def on_pdu(event: evt.Event) -> None:
        if type(event.pdu).__name__ == "A_RELEASE_RQ":
            asked.set()
            time.sleep(2)

    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    ae = AE(ae_title="SLOW")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    handlers = [(evt.EVT_PDU_RECV, on_pdu), (evt.EVT_C_FIND, lambda event: [(0x0000, None)])]
    slow: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    thread = interrupt_after(asked)
    gateway = open_gateway(f"dimse://SLOW@127.0.0.1:{slow.server_address[1]}", limits=once(30))

    def ask_and_close() -> None:
        with gateway:
            gateway.find("STUDY", {})
            gateway.close()

    with pytest.raises(KeyboardInterrupt):
        ask_and_close()
    thread.join()
    slow.shutdown()
    assert died == []


def test_who_is_always_about_to_send_is_not_waited_for(make: Make, tmp_path: Path) -> None:
    sent = make()
    with (
        odd_archive(Oddities(get="pending")) as odd,
        open_gateway(odd.dimse, limits=once(timeout_s=0.5)) as gateway,
    ):
        gateway.store([sent])
        begin = time.monotonic()
        with pytest.raises(PacsError, match=r"nothing for 0.5 s, but that it is not"):
            gateway.fetch(tmp_path, **SERIES)
        assert time.monotonic() - begin < 5
        gateway.echo()


def test_an_answer_that_is_too_large_to_hold_ends_the_association(make: Make) -> None:
    sent = make(PatientID="P" * 64, TextValue="c" * (MAX_HELD_BYTES + 1))
    with odd_archive() as odd, open_gateway(odd.dimse, limits=once(timeout_s=5)) as gateway:
        gateway.store([sent])
        assert len(gateway.find("STUDY", {"PatientID": ""})) == 1
        with pytest.raises(PacsUnreachable, match="ended the association"):
            gateway.find("STUDY", {"PatientID": "", "TextValue": ""})
        gateway.echo()


def test_a_rejection_that_comes_at_once_is_still_one(
    server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pynetdicom looks whether it is connected when the archive has hung up already."""
    send_request = ACSE.send_request

    def send_and_look_late(self: ACSE) -> None:
        send_request(self)
        time.sleep(0.3)

    monkeypatch.setattr(ACSE, "send_request", send_and_look_late)
    with (
        open_gateway(server.address.replace("PEER", "OTHER"), limits=once(timeout_s=5)) as gateway,
        pytest.raises(PacsRefused, match="does not go by that AE title"),
    ):
        gateway.echo()


def test_what_listens_and_speaks_no_dicom_is_said() -> None:
    def answer(listening: socket.socket) -> None:
        for _ in range(2):  # the association, and the look at why there is none
            connection, _ = listening.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        address = f"dimse://PEER@127.0.0.1:{listening.getsockname()[1]}"
        with (
            open_gateway(address, limits=once(3)) as gateway,
            pytest.raises(PacsUnreachable, match="Is it a DICOM archive"),
        ):
            gateway.echo()
        thread.join(10)


def test_reasons_for_no_association_differ() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address, said in (
        (f"dimse://PEER@127.0.0.1:{port}", "nothing listens at that port"),
        ("dimse://PEER@no-such-host.invalid:104", "Is the host right"),
    ):
        with (
            open_gateway(address, limits=once(3)) as gateway,
            pytest.raises(PacsUnreachable, match=said),
        ):
            gateway.echo()


def test_a_large_instance_over_a_slow_line_takes_longer_than_an_answer_may(
    server: ArchiveServer, make: Make, tmp_path: Path
) -> None:
    path = make(PixelData=bytes(20_000_000))
    with proxy(server.port, Fault(bytes_per_s=4e6)) as line:
        begin = time.monotonic()
        with open_gateway(f"dimse://PEER@127.0.0.1:{line.port}", limits=once(2)) as gateway:
            gateway.store([path])
            assert time.monotonic() - begin > 3
            (got,) = gateway.fetch(tmp_path, **SERIES)
        assert got.stat().st_size > 20_000_000


# --- the server, asked by others ----------------------------------------------------------


def test_an_instance_that_breaks_off_leaves_no_file(
    server: ArchiveServer, archive: Archive, make: Make
) -> None:
    path = make(PixelData=bytes(20_000_000))
    sent = 0

    def cut(event: evt.Event) -> None:
        nonlocal sent
        sent += 1
        if sent == 40:
            cut_off(event.assoc)

    ae = AE(ae_title="BREAKS")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.4", ExplicitVRLittleEndian)
    association = ae.associate(
        "127.0.0.1", server.port, ae_title="PEER", evt_handlers=[(evt.EVT_DATA_SENT, cut)]
    )
    association.send_c_store(path)
    deadline = time.monotonic() + 10
    while (left := list(archive.incoming.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert archive.instances() == []


def test_a_file_system_that_takes_no_more_is_answered_with_0xa700(
    make: Make, tmp_path: Path
) -> None:
    """A real failing write, in a process of its own: files may grow to 3 MB only."""
    limit = 3_000_000
    code = (
        "import sys; from federation.cli import main; "
        f"sys.argv = ['iodeep', 'pacs', 'serve', {str(tmp_path / 'a')!r}, '--port', '0']; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert process.stdout is not None
    try:
        with open_gateway(process.stdout.readline().strip()) as gateway:
            with pytest.raises(StorageError, match="0xA700"):
                gateway.store([make(PixelData=bytes(5_000_000))])
            gateway.store([make(PixelData=bytes(1_000_000))])
            assert len(gateway.find("STUDY", {})) == 1
        assert list((tmp_path / "a" / "incoming").iterdir()) == []
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_what_the_requestor_cannot_take_is_a_failure_of_that_instance_alone(
    server: ArchiveServer, archive: Archive, make: Make, tmp_path: Path
) -> None:
    (tmp_path / "got").mkdir()
    plain = make()
    for path in (plain, make(syntax=RLELossless)):
        archive.ingest(path)
    asked = subprocess.run(
        [peer("getscu"), "-d", "-S", "-aec", "PEER", "-od", str(tmp_path / "got"),
         "-k", "QueryRetrieveLevel=SERIES", "-k", "StudyInstanceUID=1.2.3.1",
         "-k", "SeriesInstanceUID=1.2.3.1.1", "127.0.0.1", str(server.port)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    said = asked.stdout + asked.stderr
    assert re.search(r"Failed Suboperations\s*: 1", said)
    (got,) = tmp_path.joinpath("got").iterdir()
    assert dcmread(got) == dcmread(plain)


@pytest.mark.parametrize("program", ["findscu", "getscu"])
def test_a_request_without_the_keys_above_its_level_is_refused(
    server: ArchiveServer, tmp_path: Path, program: str
) -> None:
    asked = subprocess.run(
        [peer(program), "-d", "-S", "-aec", "PEER", "-k", "QueryRetrieveLevel=SERIES",
         "-k", "SeriesInstanceUID=1.2.3", "127.0.0.1", str(server.port)],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert "0xa900" in (asked.stdout + asked.stderr).lower()


# --- DCMTK's archive ----------------------------------------------------------------------


@pytest.fixture
def dcmqrscp(tmp_path: Path) -> Iterator[str]:
    """The address of DCMTK's image archive."""
    program = peer("dcmqrscp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "db").mkdir()
    (tmp_path / "dcmqrscp.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 16\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQR {tmp_path / 'db'} RW (200, 1024mb) ANY\nAETable END\n"
    )
    process = subprocess.Popen(
        [program, "-c", str(tmp_path / "dcmqrscp.cfg")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"dimse://QR@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(tmp_path / "db")


def test_dcmtk_s_archive_stores_finds_and_gives_back(
    dcmqrscp: str, make: Make, tmp_path: Path
) -> None:
    sent = [make(SeriesInstanceUID=f"1.2.3.1.{n}", SeriesNumber=n) for n in (1, 2)]
    with open_gateway(dcmqrscp) as gateway:
        gateway.echo()
        gateway.store(sent)
        (study,) = gateway.find("STUDY", {"PatientID": "P*", "StudyDate": "20200101-"})
        assert study.StudyInstanceUID == "1.2.3.1"
        keys = {"StudyInstanceUID": "1.2.3.1", "SeriesNumber": "2"}
        (found,) = gateway.find("SERIES", keys)
        (got,) = gateway.fetch(tmp_path, study="1.2.3.1", series=str(found.SeriesInstanceUID))
        assert dcmread(got).PixelData == dcmread(sent[1]).PixelData
        with pytest.raises(PacsError, match="is not in"):
            gateway.fetch(tmp_path, study="1.2.3.1", series="1.2.3.9")


def test_a_report_over_the_association_that_asked_is_heard(archive: Archive, make: Make) -> None:
    """As the embedded archive sends it where it does not know at which port we listen."""
    stored, other = make(), make()
    with ArchiveServer(archive, ae_title="PEER") as server:
        address = f"{server.address}?listen={free_port()}"
        with open_gateway(address, limits=once(10)) as gateway:
            gateway.store([stored])
            assert isinstance(gateway, DimseGateway)
            begin = time.monotonic()
            gateway.commit([stored])
            with pytest.raises(StorageError, match=r"commit itself.*1 of 2"):
                gateway.commit([stored, other])
            assert time.monotonic() - begin < 8


def test_what_comes_must_be_what_was_asked_for(
    server: ArchiveServer, archive: Archive, make: Make, tmp_path: Path
) -> None:
    """By its data set, not by what the archive says of it: a patient's split depends on it."""
    folder = tmp_path / "got"
    folder.mkdir()
    archive.ingest(make())
    path = archive.instances()[0].path
    ds = dcmread(path)
    ds.StudyInstanceUID = "9.9.9"
    ds.save_as(path)
    with open_gateway(server.address) as gateway, pytest.raises(PacsError, match="sent another"):
        gateway.fetch(folder, **SERIES)
    assert list(folder.iterdir()) == []


def test_a_silent_connection_to_our_listener_keeps_nobody_out(
    tmp_path: Path, archive: Archive, make: Make, certificates: Certificates
) -> None:
    """Over TLS a handshake that never comes must not hold up the archive's."""
    port = free_port()
    tls = Tls(ca=certificates.ca, cert=certificates.server.cert, key=certificates.server.key)
    us = parse_address(
        f"dimse://IODEEP@127.0.0.1:{port}?tls={certificates.ca}"
        f"&cert={certificates.server.cert}&key={certificates.server.key}"
    )
    assert isinstance(us, DimseAddress)
    sent = make()
    with ArchiveServer(archive, ae_title="PEER", tls=tls, destinations=[us]) as server:
        address = (
            f"dimse://PEER@127.0.0.1:{server.port}?listen={port}&tls={certificates.ca}"
            f"&cert={certificates.client.cert}&key={certificates.client.key}"
        )
        with open_gateway(address, limits=once(10)) as gateway:
            gateway.store([sent])
            assert isinstance(gateway, DimseGateway)
            gateway._listening()
            with socket.create_connection(("127.0.0.1", port)):
                begin = time.monotonic()
                gateway.commit([sent])
                gateway.release()
            assert time.monotonic() - begin < 8


def test_a_report_that_names_nothing_commits_to_nothing(make: Make) -> None:
    reports = Reports(timeout_s=1)
    event = SimpleNamespace(event_information=Dataset())
    event.event_information.TransactionUID = "1.2.3"
    assert reports.take(cast(Any, event)) == (0x0115, None)  # nobody asked
    with reports.expected("1.2.3"):
        assert reports.take(cast(Any, event)) == (0x0000, None)
        assert reports.kept_of("1.2.3") == frozenset()
