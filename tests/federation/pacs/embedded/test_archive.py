"""The embedded PACS through its gateways, over real associations and straight."""

import errno
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import UID, generate_uid

from federation.errors import PacsError, PacsUnreachable, StorageError
from federation.pacs import Archive, ArchiveServer, Gateway, open_gateway
from federation.pacs.address import DimseAddress
from federation.pacs.embedded.index import Held
from federation.pacs.incoming import IncomingFile
from tests.federation.pacs.conftest import Make, once
from tests.peers import peer


def test_an_instance_comes_back_as_it_was_stored(
    gateway: Gateway, make: Make, tmp_path: Path
) -> None:
    sent = make(PatientName="Müller^Zoë", SpecificCharacterSet="ISO_IR 192")
    gateway.echo()
    gateway.store([sent])
    (got,) = gateway.fetch(tmp_path, study="1.2.3.1", series="1.2.3.1.1")
    assert dcmread(got) == dcmread(sent)


def test_finding_is_hierarchical(gateway: Gateway, make: Make) -> None:
    gateway.store(
        make(StudyInstanceUID=f"1.2.{s}", SeriesInstanceUID=f"1.2.{s}.{n}", PatientID=f"P{s}",
             SeriesNumber=n, InstanceNumber=i)
        for s in (1, 2) for n in (1, 2, 10) for i in (1, 2)
    )  # fmt: skip
    studies = gateway.find("STUDY", {"PatientID": "P*", "StudyInstanceUID": ""})
    assert sorted(study.PatientID for study in studies) == ["P1", "P2"]
    keys = {"StudyInstanceUID": "1.2.1", "SeriesNumber": "1", "NumberOfSeriesRelatedInstances": ""}
    (series,) = gateway.find("SERIES", keys)
    assert series.SeriesInstanceUID == "1.2.1.1"
    assert int(series.NumberOfSeriesRelatedInstances) == 2
    keys = {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.10", "InstanceNumber": "2"}
    (image,) = gateway.find("IMAGE", keys)
    assert image.InstanceNumber == 2
    assert gateway.find("STUDY", {"PatientID": "P9"}) == []
    assert gateway.find("STUDY", {"StudyDate": "20210101-"}) == []


def test_one_instance_of_a_series_can_be_fetched(
    gateway: Gateway, make: Make, tmp_path: Path
) -> None:
    first, second = make(), make(InstanceNumber=2)
    gateway.store([first, second])
    uid = dcmread(second).SOPInstanceUID
    (got,) = gateway.fetch(tmp_path, study="1.2.3.1", series="1.2.3.1.1", instance=uid)
    assert dcmread(got).SOPInstanceUID == uid


def test_what_is_not_there_cannot_be_fetched(gateway: Gateway, tmp_path: Path) -> None:
    with pytest.raises(PacsError, match=r"1\.2\.9"):
        gateway.fetch(tmp_path, study="1.2", series="1.2.9")


def test_storing_again_changes_nothing_and_other_content_is_refused(
    gateway: Gateway, make: Make, tmp_path: Path
) -> None:
    uid = generate_uid()
    gateway.store([make(SOPInstanceUID=uid)])
    gateway.store([make(SOPInstanceUID=uid)])
    with pytest.raises(StorageError, match=uid):
        gateway.store([make(SOPInstanceUID=uid, PatientID="P2")])
    (got,) = gateway.fetch(tmp_path, study="1.2.3.1", series="1.2.3.1.1")
    assert dcmread(got).PatientID == "P1"


def test_what_is_no_dicom_is_not_stored(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("no DICOM at all")
    with pytest.raises(StorageError):
        gateway.store([tmp_path / "text.dcm"])
    assert gateway.find("STUDY", {}) == []


def test_a_data_set_without_a_study_is_not_stored(gateway: Gateway, make: Make) -> None:
    path = make()
    ds = dcmread(path)
    del ds.StudyInstanceUID
    ds.save_as(path)
    with pytest.raises(StorageError):
        gateway.store([path])
    assert gateway.find("STUDY", {}) == []


def test_a_full_disk_leaves_nothing_behind_and_says_so(
    gateway: Gateway, archive: Archive, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, lost = make(), make()
    gateway.store([kept])

    def full(self: IncomingFile, data: bytes) -> int:
        self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)

    monkeypatch.setattr(IncomingFile, "write", full)
    with pytest.raises(StorageError, match=r"disk is full|0xA700"):
        gateway.store([lost])
    monkeypatch.undo()
    assert len(gateway.find("IMAGE", IMAGE_KEYS)) == 1
    assert not list((archive.folder / "incoming").iterdir())


IMAGE_KEYS = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.1.1"}


def test_the_archive_is_there_after_a_restart(archive: Archive, make: Make) -> None:
    path = make()
    archive.ingest(path)
    archive.close()
    with Archive(archive.folder, create=False) as again:
        (found,) = again.instances()
        assert dcmread(found.path) == dcmread(path)


def test_looking_into_a_folder_that_is_no_archive_makes_none(tmp_path: Path) -> None:
    with pytest.raises(PacsError, match="no archive"):
        open_gateway(f"folder:{tmp_path}")
    assert not list(tmp_path.iterdir())


# --- associations -------------------------------------------------------------------------


def test_a_wrong_ae_title_is_named(server: ArchiveServer) -> None:
    with (
        open_gateway(f"dimse://OTHER@127.0.0.1:{server.port}") as gateway,
        pytest.raises(PacsUnreachable, match="OTHER"),
    ):
        gateway.echo()


def test_a_closed_port_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        open_gateway(f"dimse://PEER@127.0.0.1:{port}", limits=once(5)) as gateway,
        pytest.raises(PacsUnreachable, match=str(port)),
    ):
        gateway.echo()


def test_a_host_that_never_answers_ends_the_wait() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"dimse://PEER@127.0.0.1:{silent.getsockname()[1]}"
        begin = time.monotonic()
        with (
            open_gateway(address, limits=once(1)) as gateway,
            pytest.raises(PacsUnreachable),
        ):
            gateway.echo()
        assert time.monotonic() - begin < 15


def test_a_port_in_use_is_named(archive: Archive, server: ArchiveServer) -> None:
    with pytest.raises(PacsError, match=str(server.port)):
        ArchiveServer(archive, port=server.port)


def test_an_association_that_ended_in_between_is_opened_again(archive: Archive, make: Make) -> None:
    with ArchiveServer(archive, ae_title="PEER") as first:
        port = first.port
        gateway = open_gateway(first.address)
        gateway.store([make()])
    with ArchiveServer(archive, ae_title="PEER", port=port), gateway:
        assert len(gateway.find("STUDY", {})) == 1


def test_garbage_at_the_port_harms_nobody(server: ArchiveServer) -> None:
    draw = random.Random(0)
    for size in (1, 10, 100, 10_000):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(draw.randbytes(size))
    with open_gateway(server.address) as gateway:
        gateway.echo()


def test_several_store_at_once(server: ArchiveServer, make: Make) -> None:
    batches = [[make(InstanceNumber=n) for n in range(10)] for _ in range(4)]

    def store(batch: list[Path]) -> None:
        with open_gateway(server.address) as gateway:
            gateway.store(batch)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store, batches))
    with open_gateway(server.address) as gateway:
        assert len(gateway.find("IMAGE", IMAGE_KEYS)) == 40


def big_instance(make: Make, megabytes: int) -> Path:
    path = make(SOPClassUID=UID("1.2.840.10008.5.1.4.1.1.66"))
    ds = dcmread(path)
    del ds.PixelData
    block = ds.private_block(0x7FDF, "TEST", create=True)
    block.add_new(0x10, "OB", np.random.default_rng(0).bytes(megabytes * 10**6))
    ds.save_as(path, enforce_file_format=True)
    return path


def test_a_large_instance_is_never_held_in_memory(make: Make, tmp_path: Path) -> None:
    megabytes = 150
    path = big_instance(make, megabytes)
    process = serve(tmp_path / "big")
    try:
        with open_gateway(address_of(process)) as gateway:
            gateway.echo()
            before = {pid: restarted_peak_mb(pid) for pid in (os.getpid(), process.pid)}
            gateway.store([path])
            (got,) = gateway.fetch(tmp_path, study="1.2.3.1", series="1.2.3.1.1")
        for pid, megabytes_before in before.items():
            assert peak_mb(pid) - megabytes_before < megabytes / 4
        assert got.read_bytes()[-(10**6) :] == path.read_bytes()[-(10**6) :]
        assert got.stat().st_size == pytest.approx(path.stat().st_size, abs=1000)
    finally:
        end(process)


def restarted_peak_mb(pid: int) -> float:
    """Let a process's peak memory start from now, and return it."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_mb(pid)


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# --- as a process -------------------------------------------------------------------------


def serve(folder: Path, port: int = 0) -> "subprocess.Popen[str]":
    iodeep = Path(sys.executable).parent / "iodeep"
    return subprocess.Popen(
        [str(iodeep), "pacs", "serve", str(folder), "--port", str(port), "--ae-title", "PEER"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def address_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]") -> int:
    process.send_signal(signal.SIGTERM)
    code = process.wait(20)
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()
    return code


def test_serving_ends_cleanly_when_asked(tmp_path: Path) -> None:
    process = serve(tmp_path / "served")
    address = address_of(process)
    assert address.startswith("dimse://PEER@127.0.0.1:")
    with open_gateway(address) as gateway:
        gateway.echo()
    assert end(process) == 0


def test_serving_at_a_port_in_use_is_one_sentence(server: ArchiveServer, tmp_path: Path) -> None:
    process = serve(tmp_path / "served", server.port)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert str(server.port) in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "kills", [5, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_a_kill_loses_nothing_acknowledged_and_shows_nothing_else(
    make: Make, tmp_path: Path, kills: int
) -> None:
    """Killed at random moments while one client stores."""
    draw = random.Random(1)
    acknowledged: list[str] = []
    sent: set[str] = set()
    for _ in range(kills):
        process = serve(tmp_path / "killed")
        address = address_of(process)
        killer = threading.Timer(draw.uniform(0.05, 0.6), process.kill)
        killer.start()
        try:
            with open_gateway(address, limits=once(5)) as gateway:
                while True:
                    path = make()
                    uid = dcmread(path, stop_before_pixels=True).SOPInstanceUID
                    sent.add(uid)
                    gateway.store([path])
                    acknowledged.append(uid)
        except PacsError:
            killer.join()
            process.communicate(timeout=20)
    assert acknowledged
    with Archive(tmp_path / "killed") as archive, ArchiveServer(archive) as server:
        assert server.condition.lost == ()
        held, there = archive.held(), {one.uid for one in archive.instances()}
        with open_gateway(server.address) as gateway:
            fetched = gateway.fetch(tmp_path, study="1.2.3.1", series="1.2.3.1.1")
    assert set(acknowledged) <= there <= sent
    assert {dcmread(path).SOPInstanceUID for path in fetched} == there
    files = list((tmp_path / "killed" / "instances").glob("*/*.dcm"))
    assert {path.stem for path in files} == there
    assert held == Held(instances=len(files), bytes=sum(path.stat().st_size for path in files))
    assert not list((tmp_path / "killed" / "incoming").iterdir())


# --- the field's own tools ----------------------------------------------------------------


def dcmtk(
    program: str, server: ArchiveServer, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    command = [peer(program), "-aec", "PEER", *arguments[:-1], "127.0.0.1", str(server.port)]
    command += [arguments[-1]] if arguments[-1] else []
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_dcmtk_stores_finds_and_gets(server: ArchiveServer, make: Make, tmp_path: Path) -> None:
    sent = make()
    assert dcmtk("echoscu", server, "").returncode == 0
    assert dcmtk("storescu", server, str(sent)).returncode == 0
    found = dcmtk(
        "findscu", server, "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=P*",
        "-k", "StudyInstanceUID", "",
    )  # fmt: skip
    assert "1.2.3.1" in found.stdout + found.stderr
    got = tmp_path / "got"
    got.mkdir()
    fetched = dcmtk(
        "getscu", server, "-S", "-od", str(got), "-k", "QueryRetrieveLevel=SERIES",
        "-k", "StudyInstanceUID=1.2.3.1", "-k", "SeriesInstanceUID=1.2.3.1.1", "",
    )  # fmt: skip
    assert fetched.returncode == 0, fetched.stderr
    (path,) = got.iterdir()
    assert dcmread(path).PixelData == dcmread(sent).PixelData


def test_c_move_sends_to_a_known_ae_and_refuses_others(
    archive: Archive, make: Make, tmp_path: Path
) -> None:
    archive.ingest(make())
    with (
        Archive(tmp_path / "other") as other,
        ArchiveServer(other, ae_title="OTHER") as destination,
        ArchiveServer(
            archive, ae_title="PEER", destinations=[DimseAddress.parse(destination.address)]
        ) as server,
    ):
        keys = ("-S", "-k", "QueryRetrieveLevel=SERIES", "-k", "StudyInstanceUID=1.2.3.1",
                "-k", "SeriesInstanceUID=1.2.3.1.1")  # fmt: skip
        assert dcmtk("movescu", server, *keys, "-aem", "OTHER", "").returncode == 0
        assert len(other.instances()) == 1
        refused = dcmtk("movescu", server, *keys, "-aem", "NOBODY", "")
        assert refused.returncode != 0 or "Unknown" in refused.stderr + refused.stdout


def transfer_often(gateway: Gateway, path: Path, doing: str) -> None:
    for _ in range(50):
        if doing == "store":
            gateway.store([path])
        else:
            gateway.fetch(path.parent, study="1.2.3.1", series="1.2.3.1.1")


@pytest.mark.parametrize("doing", ["store", "fetch"])
def test_an_archive_that_hangs_in_mid_transfer_ends_the_wait(
    make: Make, tmp_path: Path, doing: str
) -> None:
    path = big_instance(make, 100)
    process = serve(tmp_path / "hanging")
    try:
        with open_gateway(address_of(process), limits=once(3)) as gateway:
            if doing == "fetch":
                gateway.store([path])
            threading.Timer(0.2, process.send_signal, [signal.SIGSTOP]).start()
            begin = time.monotonic()
            with pytest.raises(PacsUnreachable):
                transfer_often(gateway, path, doing)
            assert time.monotonic() - begin < 30
    finally:
        process.send_signal(signal.SIGCONT)
        end(process)
