"""Our own application entity, while an archive shall reach us: C-MOVE, storage commitment."""

import socket
import threading
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
from federation.pacs.arrivals import Arrivals, incoming_file
from federation.pacs.association import (
    STREAMING,
    TRANSFER_SYNTAXES,
    application_entity,
    cut_off,
    metered,
)
from federation.pacs.gateway import Moved
from federation.pacs.limits import Throttle
from federation.pacs.receiving import receive_into


class Reports:
    """Reports of storage commitment that came, over whichever association."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._failed: dict[str, list[str]] = {}
        self._news = threading.Condition()

    def take(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """Handler of EVT_N_EVENT_REPORT (PS3.4 Section J.3.3): what is kept, and what is not."""
        report = event.event_information
        failed = [
            str(item.get("ReferencedSOPInstanceUID", ""))
            for item in report.get("FailedSOPSequence") or []
        ]
        with self._news:
            self._failed[str(report.get("TransactionUID", ""))] = failed
            self._news.notify_all()
        return 0x0000, None

    def failed_of(self, transaction: str) -> list[str] | None:
        """The UIDs that the archive does not commit itself to keep, once it has reported.

        None where it has not within the time limit.
        """
        with self._news:
            self._news.wait_for(lambda: transaction in self._failed, self.timeout_s)
            return self._failed.pop(transaction, None)


class Listener(Closing):
    """Listens at ``to.listen`` for what the archive sends. Close it, or use ``with``.

    arrivals: where instances go; None takes none
    arrived:  grows while instances come in
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
        self.arrivals: Arrivals | None = None
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
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_EVENT_REPORT, reports.take),
        ]
        try:
            self._server = cast(
                Any,
                ae.start_server(
                    (_own_address(to), to.listen or 0),
                    block=False,
                    evt_handlers=handlers,
                    ssl_context=None if to.tls is None else to.tls.server(),
                ),
            )
        except OSError as error:
            raise PacsUnreachable(
                f"port {to.listen}, where {to} reaches us, cannot be listened at "
                f"({error.strerror}); is another process of ours waiting there?"
            ) from error

    def close(self) -> None:
        """Stop listening and end open associations. Closing twice is harmless."""
        self._server.shutdown()
        for association in self._server.active_associations:
            cut_off(association)

    def _on_established(self, event: evt.Event) -> None:
        if self.arrivals is not None:
            receive_into(event.assoc, self.arrivals.folder)

    def _on_store(self, event: evt.Event) -> int:
        with incoming_file(event):
            return 0xC000 if self.arrivals is None else self.arrivals.take(event)


def _own_address(to: DimseAddress) -> str:
    """Our address on the way to the archive: nobody else need reach us."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        to.host, to.port, type=socket.SOCK_DGRAM
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])
