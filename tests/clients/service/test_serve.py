"""`iodeep site serve`: what storescu sends is segmented, also across a kill."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest

from clients.service.inbox import Inbox
from federation.config import ServiceTable
from federation.errors import PacsError
from federation.pacs import Gateway, open_gateway
from federation.pacs.address import DimseAddress
from tests.clients.inference.small import LINE, release, site_document, write_study
from tests.peers import peer
from tests.peers.orthanc import orthanc

IODEEP = Path(sys.executable).with_name("iodeep")
PATIENCE_S = 90


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Gateway]:
    with orthanc(tmp_path / "orthanc") as archive, open_gateway(archive.dimse) as opened:
        yield opened


@contextmanager
def serving(document: Path) -> Iterator[tuple["subprocess.Popen[str]", DimseAddress]]:
    served = subprocess.Popen(
        [IODEEP, "site", "serve", document, "--json"], stdout=subprocess.PIPE, text=True
    )
    assert served.stdout is not None
    address = DimseAddress.parse(json.loads(served.stdout.readline())["address"])
    try:
        yield served, address
    finally:
        if served.poll() is None:
            served.send_signal(signal.SIGINT)
            served.wait(timeout=PATIENCE_S)


def send(address: DimseAddress, paths: list[Path]) -> None:
    subprocess.run(
        [peer("storescu"), "-aec", address.called, address.host, str(address.port), *paths],
        check=True, capture_output=True,
    )  # fmt: skip


def kinds_in(gateway: Gateway, study: str) -> list[str]:
    rows = gateway.find("SERIES", {"StudyInstanceUID": study, "Modality": ""})
    return sorted(str(row.Modality) for row in rows)


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.2)


def document_for(tmp_path: Path, results: Gateway, *extra: str) -> Path:
    service = ["[service]", 'ae_title = "SERVE"', "port = 0", "quiet_s = 1", *extra]
    return site_document(tmp_path / "site", results.address, service)


def study_of(paths: list[Path]) -> str:
    return str(pydicom.dcmread(paths[0]).StudyInstanceUID)


def test_what_is_sent_has_its_seg_in_the_archive(results: Gateway, tmp_path: Path) -> None:
    release(results)
    paths = write_study(tmp_path / "study")
    with serving(document_for(tmp_path, results)) as (_, address):
        send(address, paths)
        wait_until(lambda: kinds_in(results, study_of(paths)) == ["SEG", "SR"])
        left = tmp_path.joinpath("site", "work", "inbox", "instances")
        wait_until(lambda: not any(left.rglob("*.dcm")))


def test_a_kill_loses_nothing_and_stores_nothing_twice(results: Gateway, tmp_path: Path) -> None:
    release(results)
    document = document_for(tmp_path, results)
    studies = [write_study(tmp_path / f"study{n}", number=n) for n in range(3)]
    with serving(document) as (served, address):
        for paths in studies:
            send(address, paths)
        wait_until(lambda: bool(kinds_in(results, study_of(studies[0]))))
        served.kill()
        served.wait()
    with serving(document):
        for paths in studies:
            wait_until(lambda paths=paths: kinds_in(results, study_of(paths)) == ["SEG", "SR"])


def test_studies_wait_while_the_archive_is_away(tmp_path: Path) -> None:
    paths = write_study(tmp_path / "study")
    with orthanc(tmp_path / "orthanc") as archive, open_gateway(archive.dimse) as gateway:
        release(gateway)
        document = document_for(tmp_path, gateway)
        ports = archive.ports
    with serving(document) as (_, address):
        send(address, paths)
        time.sleep(4)
        again = orthanc(tmp_path / "orthanc", ports=ports)
        with again as archive, open_gateway(archive.dimse) as gateway:
            wait_until(lambda: kinds_in(gateway, study_of(paths)) == ["SEG", "SR"])


def test_rules_say_which_series(results: Gateway, tmp_path: Path) -> None:
    release(results)
    rules = [
        "[[service.rules]]", 'match = { PatientID = "*002" }', "skip = true",
        "[[service.rules]]", 'match = { Modality = "MR" }', f'line = "{LINE}"',
    ]  # fmt: skip
    document = document_for(tmp_path, results, *rules)
    first, second = (write_study(tmp_path / str(n), number=n) for n in range(2))
    log = tmp_path / "site" / "work" / "predictions.jsonl"
    with serving(document) as (_, address):
        send(address, second)
        send(address, first)
        wait_until(lambda: kinds_in(results, study_of(first)) == ["SEG", "SR"])
        wait_until(lambda: "a rule leaves it alone" in log.read_text())
    assert kinds_in(results, study_of(second)) == []


def test_a_rule_with_a_network_that_is_not_there_stops_nothing(
    results: Gateway, tmp_path: Path
) -> None:
    rules = ["[[service.rules]]", 'line = "MR/brain/-/absent"']
    paths = write_study(tmp_path / "study")
    log = tmp_path / "site" / "work" / "predictions.jsonl"
    with serving(document_for(tmp_path, results, *rules)) as (served, address):
        for _ in range(2):
            send(address, paths)
            wait_until(lambda: log.exists() and "is released here" in log.read_text())
            log.unlink()
        assert served.poll() is None


def test_nobody_can_ask_the_inbox_for_images(tmp_path: Path) -> None:
    table = ServiceTable(port=0)
    with Inbox(tmp_path / "inbox", table) as inbox, open_gateway(inbox.address) as asked:
        asked.echo()
        send(DimseAddress.parse(inbox.address), write_study(tmp_path / "study"))
        assert len(inbox.waiting()) == 1
        with pytest.raises(PacsError):
            asked.find("STUDY", {"StudyInstanceUID": ""})


def test_a_study_is_ready_once_nothing_more_comes(tmp_path: Path) -> None:
    now = [0.0]
    table = ServiceTable(port=0, quiet_s=10)
    paths = write_study(tmp_path / "study")
    with Inbox(tmp_path / "inbox", table, clock_s=lambda: now[0]) as inbox:
        address = DimseAddress.parse(inbox.address)
        send(address, paths[:5])
        assert inbox.ready() == []
        now[0] = 9
        send(address, paths[5:])
        assert inbox.ready() == []
        now[0] = 18
        assert inbox.ready() == []
        now[0] = 19
        (study,) = inbox.ready()
        known = inbox.instances(study)
        inbox.done(study, known[:-1])
        assert inbox.waiting() == [study]
        inbox.done(study, known)
        assert inbox.waiting() == []
