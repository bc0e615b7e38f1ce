"""Storage commitment: what the embedded archive commits itself to keep, and how it says so."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from federation.pacs import Archive, ArchiveServer
from federation.pacs.address import DimseAddress
from federation.pacs.embedded import committing
from federation.pacs.tls import Tls
from tests.federation.pacs.conftest import Make
from tests.peers.certificates import Certificates

ABSENT = "1.2.3.4.5"


class Requestor:
    """Asks for commitment, and takes reports, over any association."""

    def __init__(self, status: int = 0x0000) -> None:
        self.status = status
        self.reports: list[tuple[int, Dataset, bool]] = []
        self._news = threading.Condition()

    def on_report(self, event: evt.Event) -> tuple[int, None]:
        report = (event.event_type, event.event_information, event.assoc.is_requestor)
        with self._news:
            self.reports.append(report)
            self._news.notify_all()
        return self.status, None

    def wait_for(self, count: int = 1, timeout_s: float = 5) -> bool:
        with self._news:
            return self._news.wait_for(lambda: len(self.reports) >= count, timeout_s)

    @contextmanager
    def associated(self, port: int, calling: str = "CT1") -> Iterator[Association]:
        ae = AE(ae_title=calling)
        contexts = [build_context(StorageCommitmentPushModel), build_context(Verification)]
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self.on_report)]
        association = ae.associate(
            "127.0.0.1", port, contexts, ae_title="PEER", evt_handlers=handlers
        )
        assert association.is_established
        yield association
        if association.is_established:
            association.release()

    @contextmanager
    def listening(self, title: str = "CT1", **options: Any) -> Iterator[DimseAddress]:
        ae = AE(ae_title=title)
        ae.require_called_aet = True
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self.on_report)]
        listener: Any = ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=handlers, **options
        )
        yield DimseAddress(called=title, host="127.0.0.1", port=listener.server_address[1])
        listener.shutdown()


def asking(*instances: tuple[str, str], transaction: str = "") -> Dataset:
    request = Dataset()
    request.TransactionUID = transaction or generate_uid()
    request.ReferencedSOPSequence = []
    for sop_class, uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = uid
        request.ReferencedSOPSequence.append(item)
    return request


def ask(association: Association, request: Dataset | None, action: int = 1) -> int:
    status, _ = association.send_n_action(
        request, action, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    return int(status.Status)


@pytest.fixture
def stored(archive: Archive, make: Make) -> list[str]:
    """The UIDs of two MR instances in the archive."""
    paths = [make(InstanceNumber=number) for number in (1, 2)]
    for path in paths:
        archive.ingest(path)
    return [path.stem for path in paths]


def test_what_is_kept_is_reported_over_the_same_association(
    server: ArchiveServer, stored: list[str]
) -> None:
    requestor = Requestor()
    request = asking(*((MRImageStorage, uid) for uid in stored))
    with requestor.associated(server.port) as association:
        assert ask(association, request) == 0x0000
        assert requestor.wait_for()
        assert association.send_c_echo().Status == 0x0000
    ((event_type, report, same),) = requestor.reports
    assert (event_type, same) == (1, True)
    assert report.TransactionUID == request.TransactionUID
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == stored
    assert "FailedSOPSequence" not in report


def test_what_is_not_kept_is_named_with_its_reason(
    archive: Archive, server: ArchiveServer, stored: list[str], make: Make
) -> None:
    lost = make()
    archive.ingest(lost)
    next(one.path for one in archive.instances() if one.uid == lost.stem).write_bytes(b"short")
    request = asking(
        (MRImageStorage, stored[0]), (CTImageStorage, stored[1]), (MRImageStorage, ABSENT),
        (MRImageStorage, lost.stem),
    )  # fmt: skip
    requestor = Requestor()
    with requestor.associated(server.port) as association:
        assert ask(association, request) == 0x0000
        assert requestor.wait_for()
    ((event_type, report, _),) = requestor.reports
    assert event_type == 2
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == stored[:1]
    failed = {
        item.ReferencedSOPInstanceUID: item.FailureReason for item in report.FailedSOPSequence
    }
    assert failed == {stored[1]: 0x0119, ABSENT: 0x0112, lost.stem: 0x0112}


def test_a_known_requestor_is_told_where_it_listens(archive: Archive, stored: list[str]) -> None:
    requestor = Requestor()
    with (
        requestor.listening() as known,
        ArchiveServer(archive, ae_title="PEER", destinations=[known]) as server,
    ):
        with requestor.associated(server.port) as association:
            assert ask(association, asking((MRImageStorage, stored[0]))) == 0x0000
        assert requestor.wait_for()
    assert [same for _, _, same in requestor.reports] == [False]


def test_a_known_requestor_is_told_over_tls(
    archive: Archive, stored: list[str], certificates: Certificates
) -> None:
    requestor = Requestor()
    own = certificates.client
    theirs = Tls(ca=certificates.ca, cert=own.cert, key=own.key)
    with requestor.listening(ssl_context=theirs.server()) as known:
        ours = Tls(ca=certificates.ca, cert=certificates.server.cert, key=certificates.server.key)
        where = DimseAddress(called="CT1", host="localhost", port=known.port, tls=ours)
        with ArchiveServer(archive, ae_title="PEER", destinations=[where]) as server:
            with requestor.associated(server.port) as association:
                assert ask(association, asking((MRImageStorage, stored[0]))) == 0x0000
            assert requestor.wait_for()
    assert [same for _, _, same in requestor.reports] == [False]


def test_who_listens_no_more_is_told_over_the_same_association(
    archive: Archive, stored: list[str]
) -> None:
    requestor = Requestor()
    with requestor.listening() as known:
        pass
    with (
        ArchiveServer(archive, ae_title="PEER", destinations=[known]) as server,
        requestor.associated(server.port) as association,
    ):
        assert ask(association, asking((MRImageStorage, stored[0]))) == 0x0000
        assert requestor.wait_for()
    assert [same for _, _, same in requestor.reports] == [True]


def test_who_goes_on_asking_gets_every_answer_and_every_report(
    server: ArchiveServer, stored: list[str]
) -> None:
    requestor = Requestor()
    with requestor.associated(server.port) as association:
        for number in range(1, 21):
            assert ask(association, asking((MRImageStorage, stored[0]))) == 0x0000
            assert requestor.wait_for(number)
            for _ in range(3):
                assert association.send_c_echo().Status == 0x0000
    assert len(requestor.reports) == 20


def test_who_takes_no_report_is_given_up(
    server: ArchiveServer, stored: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    requestor = Requestor(status=0x0110)
    with requestor.associated(server.port) as association:
        assert ask(association, asking((MRImageStorage, stored[0]))) == 0x0000
        assert requestor.wait_for()
        assert association.send_c_echo().Status == 0x0000
    server._commitments._reporters.shutdown()
    assert "nobody took the report on storage commitment for CT1" in caplog.text
    assert not server._commitments._owed


@pytest.mark.parametrize(
    ("request_", "action", "status"),
    [
        (asking((MRImageStorage, ABSENT)), 2, 0x0123),
        (asking(), 1, 0x0115),
        (asking((MRImageStorage, "1")), 1, 0x0115),
        (asking((MRImageStorage, ABSENT), transaction="1"), 1, 0x0115),
        (None, 1, 0x0115),
    ],
)
def test_what_makes_no_sense_is_refused(
    server: ArchiveServer, request_: Dataset | None, action: int, status: int
) -> None:
    requestor = Requestor()
    with requestor.associated(server.port) as association:
        assert ask(association, request_, action) == status
        assert not requestor.wait_for(timeout_s=0.3)


def test_more_reports_than_can_be_owed_are_refused_for_the_moment(
    server: ArchiveServer, stored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committing, "MAX_DUE", 0)
    with Requestor().associated(server.port) as association:
        assert ask(association, asking((MRImageStorage, stored[0]))) == 0x0213


def test_thousands_are_looked_up_at_once(server: ArchiveServer, stored: list[str]) -> None:
    absent = [(MRImageStorage, f"{ABSENT}.{number}") for number in range(4000)]
    requestor = Requestor()
    with requestor.associated(server.port) as association:
        assert ask(association, asking(*absent, (MRImageStorage, stored[0]))) == 0x0000
        assert requestor.wait_for(timeout_s=20)
    ((event_type, report, _),) = requestor.reports
    assert event_type == 2
    assert len(report.FailedSOPSequence) == 4000
    assert len(report.ReferencedSOPSequence) == 1


def test_what_was_stored_is_committed_to(server: ArchiveServer, make: Make) -> None:
    """Store and ask over one association, as an image source does."""
    path: Path = make()
    requestor = Requestor()
    ae = AE(ae_title="CT1")
    handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, requestor.on_report)]
    contexts = [build_context(MRImageStorage), build_context(StorageCommitmentPushModel)]
    association = ae.associate(
        "127.0.0.1", server.port, contexts, ae_title="PEER", evt_handlers=handlers
    )
    assert association.send_c_store(dcmread(path)).Status == 0x0000
    assert ask(association, asking((MRImageStorage, path.stem))) == 0x0000
    assert requestor.wait_for()
    association.release()
    assert requestor.reports[0][0] == 1
