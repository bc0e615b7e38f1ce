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


class Listener(Closing):
    """Listens at ``to.listen`` for what the archive sends. Close it, or use ``with``.

    arrived: grows while instances come in
    """

    def __init__(
        self,
        to: DimseAddress,
        arrivals: Arrivals | None,
        *,
        timeout_s: float,
        throttle: Throttle,
        moved: Moved,
    ) -> None:
        """Without ``arrivals`` no instance is taken.

        Raises :class:`PacsUnreachable` where the port cannot be had, as when another process is
        listening there at the moment.
        """
        self.arrived = 0
        self._arrivals = arrivals
        self._timeout_s = timeout_s
        self._reports: dict[str, list[str]] = {}
        self._news = threading.Condition()
        ae = application_entity(to.calling, timeout_s=timeout_s)
        ae.require_called_aet = True
        ae.add_supported_context(Verification)
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        if arrivals is not None:
            for context in AllStoragePresentationContexts:
                ae.add_supported_context(
                    cast(UID, context.abstract_syntax), list(TRANSFER_SYNTAXES)
                )

        def count(nr_bytes: int) -> None:
            self.arrived += nr_bytes
            moved(nr_bytes)

        handlers: list[Any] = [
            *STREAMING,
            metered(count, throttle),
            (evt.EVT_CONN_OPEN, self._on_open),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
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

    def report_of(self, transaction: str) -> list[str] | None:
        """The UIDs that the archive does not commit itself to keep, once it has reported.

        None where it has not within the time limit.
        """
        with self._news:
            self._news.wait_for(lambda: transaction in self._reports, self._timeout_s)
            return self._reports.pop(transaction, None)

    def close(self) -> None:
        """Stop listening and end open associations. Closing twice is harmless."""
        self._server.shutdown()
        for association in self._server.active_associations:
            cut_off(association)

    def _on_open(self, event: evt.Event) -> None:
        if self._arrivals is not None:
            receive_into(event.assoc, self._arrivals.folder)

    def _on_store(self, event: evt.Event) -> int:
        with incoming_file(event):
            return 0xC000 if self._arrivals is None else self._arrivals.take(event)

    def _on_report(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """PS3.4 Section J.3.3: what is kept, and what is not."""
        report = event.event_information
        failed = [
            str(item.get("ReferencedSOPInstanceUID", ""))
            for item in report.get("FailedSOPSequence") or []
        ]
        with self._news:
            self._reports[str(report.get("TransactionUID", ""))] = failed
            self._news.notify_all()
        return 0x0000, None


def _own_address(to: DimseAddress) -> str:
    """Our address on the way to the archive: nobody else need reach us."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        to.host, to.port, type=socket.SOCK_DGRAM
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])
