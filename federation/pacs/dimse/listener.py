"""Our own application entity, while an archive shall reach us: C-MOVE, storage commitment."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AllStoragePresentationContexts, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StorageCommitmentPushModel,
    Verification,
)

from federation.closing import Closing
from federation.errors import PacsUnreachable
from federation.pacs.address import DimseAddress
from federation.pacs.dimse.acceptor import Acceptor
from federation.pacs.dimse.admission import Admission
from federation.pacs.dimse.arrivals import Inbox
from federation.pacs.dimse.association import (
    STREAMING,
    TRANSFER_SYNTAXES,
    application_entity,
    metered,
)
from federation.pacs.gateway import Moved
from federation.pacs.limits import Throttle

_NO_SUCH_TRANSACTION = 0x0115  # PS3.7 Annex C.5.8: an argument that is not valid


class Reports:
    """Reports of storage commitment on what we asked, over whichever association they come."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._kept: dict[str, frozenset[str] | None] = {}
        self._news = threading.Condition()

    @contextmanager
    def expected(self, transaction: str) -> Iterator[None]:
        """While the context lasts a report on this transaction is taken; no other is."""
        with self._news:
            self._kept[transaction] = None
        try:
            yield
        finally:
            with self._news:
                del self._kept[transaction]

    def take(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """Handler of EVT_N_EVENT_REPORT (PS3.4 Section J.3.3): what is kept is named."""
        report = event.event_information
        kept = frozenset(
            str(item.get("ReferencedSOPInstanceUID", ""))
            for item in report.get("ReferencedSOPSequence") or []
        )
        transaction = str(report.get("TransactionUID", ""))
        with self._news:
            if transaction not in self._kept:
                return _NO_SUCH_TRANSACTION, None
            self._kept[transaction] = kept
            self._news.notify_all()
        return 0x0000, None

    def kept_of(self, transaction: str) -> frozenset[str] | None:
        """The UIDs that the archive commits itself to keep, once it has reported.

        None where it has not within the time limit.
        """
        with self._news:
            self._news.wait_for(lambda: self._kept[transaction] is not None, self.timeout_s)
            return self._kept[transaction]


class Listener(Closing):
    """Listens at ``to.listen`` for what the archive sends. Close it, or use ``with``.

    inbox:   takes instances
    arrived: grows while they come in
    """

    def __init__(
        self,
        to: DimseAddress,
        reports: Reports,
        *,
        timeout_s: float,
        throttle: Throttle,
        moved: Moved,
    ) -> None:
        """Raises :class:`PacsUnreachable` where the port cannot be had, as when another process
        is listening there at the moment.
        """
        self.inbox = Inbox()
        self.arrived = 0
        ae = application_entity(to.calling, timeout_s=timeout_s)
        ae.require_called_aet = True
        ae.add_supported_context(Verification)
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(cast(UID, context.abstract_syntax), list(TRANSFER_SYNTAXES))

        def count(nr_bytes: int) -> None:
            self.arrived += nr_bytes
            moved(nr_bytes)

        handlers: list[Any] = [
            *STREAMING,
            metered(count, throttle),
            *self.inbox.handlers,
            (evt.EVT_N_EVENT_REPORT, reports.take),
        ]
        try:
            self._acceptor = Acceptor(
                ae,
                (_own_address(to), to.listen or 0),
                admission=Admission(),  # an archive may send from any of its machines
                tls=None if to.tls is None else to.tls.server(),
                handlers=handlers,
            )
        except OSError as error:
            raise PacsUnreachable(
                f"port {to.listen}, where {to} reaches us, cannot be listened at "
                f"({error.strerror}); is another process of ours waiting there?"
            ) from error

    def close(self) -> None:
        """Stop listening and end open associations. Closing twice is harmless."""
        self._acceptor.close()


def _own_address(to: DimseAddress) -> str:
    """Our address on the way to the archive: nobody else need reach us."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        to.host, to.port, type=socket.SOCK_DGRAM
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])
