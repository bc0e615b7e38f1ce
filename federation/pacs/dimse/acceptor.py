"""Takes connections in: from whom it may be, over TLS, no more and no longer than it can serve.

pynetdicom shakes hands over TLS in the one thread that accepts connections, where a peer that
stops in the middle would keep everybody else out; and it counts a connection that never asks for
anything as an association. Here each connection has a thread of its own from the start, and
becomes an association's once it speaks.
"""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from federation.pacs.dimse.admission import Admission
from federation.pacs.dimse.bounds import bound
from federation.pacs.dimse.visitor import CALLER_UNKNOWN, REQUEST_S, Farewell, Visitor

MAX_ASSOCIATIONS = 32
MAX_WAITING = 96
"""Connections that have not associated yet. One more, and the one that waits longest has to go."""
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)
"""PS3.8 Section 9.3.4: result, source, reason."""

_LOOKS_EVERY_S = 0.1
_CLOSING_S = 5.0

_log = logging.getLogger("iodeep.pacs")


class Acceptor(ThreadedAssociationServer):
    """Listens at an address and lets callers associate, in threads of its own. Close it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        *,
        admission: Admission,
        tls: ssl.SSLContext | None,
        handlers: Sequence[Any],
    ) -> None:
        """Raises :class:`OSError` where it cannot be listened at the address."""
        self._admission = admission
        self._tls = tls
        self._visitors: list[Visitor] = []
        self._farewells: list[Farewell] = []
        self._gate = threading.Lock()
        ae.acse_timeout = REQUEST_S
        ae.maximum_associations = 2**31  # counted here
        super().__init__(
            ae,
            address,
            ae.ae_title,
            _ReadOnly(ae.supported_contexts),
            evt_handlers=[*handlers, (evt.EVT_REQUESTED, self._on_requested)],
            request_handler=_Handler,
        )
        self._gc = [0, 299]  # pynetdicom collects garbage once in so many looks
        ae._servers.append(self)  # where shutdown takes it out again
        self._accepting = threading.Thread(
            target=self.serve_forever, args=(_LOOKS_EVERY_S,), daemon=True
        )
        self._accepting.start()

    def close(self) -> None:
        """Listen no more, and end what goes on."""
        self.shutdown()
        self._accepting.join()
        until = time.monotonic() + _CLOSING_S
        for visitor in self._everyone():
            visitor.cut_off()
            if visitor.association is not None and visitor.association.is_alive():
                visitor.association.join(max(0.0, until - time.monotonic()))
        self._tidy()
        for farewell in self._farewells:
            farewell.connection.close()

    # --- in the accepting thread ----------------------------------------------------------

    def process_request(self, request: Any, client_address: Any) -> None:
        """A connection was accepted."""
        if not self._admission.knows_address(client_address[0]):
            _log.warning("a connection was refused: %s is no known address", client_address[0])
            self._turn_away(request)
            return
        visitor = Visitor(request)
        with self._gate:
            waiting = [one for one in self._visitors if one.waits]
            self._visitors.append(visitor)
        if len(waiting) >= MAX_WAITING:
            waiting[0].cut_off()
        try:
            super().process_request(cast(Any, visitor), client_address)
        except RuntimeError as error:  # the system has no thread to give
            _log.error("a connection from %s was dropped: %s", client_address[0], error)
            self._forget(visitor)

    def _turn_away(self, connection: socket.socket) -> None:
        """Reject whatever will be asked, without reading it; who reads no TLS cannot be told."""
        if self._tls is None and len(self._farewells) < MAX_WAITING:
            connection.setblocking(False)
            self._farewells.append(Farewell(connection))
        else:
            connection.close()

    def service_actions(self) -> None:
        """At each look for connections."""
        super().service_actions()
        self._tidy()
        for visitor in self._everyone():
            if visitor.is_late:
                visitor.cut_off()
        self._farewells = [farewell for farewell in self._farewells if farewell.goes_on()]

    def _tidy(self) -> None:
        for visitor in self._everyone():
            if visitor.is_gone:
                self._forget(visitor)

    def _everyone(self) -> list[Visitor]:
        with self._gate:
            return list(self._visitors)

    def _forget(self, visitor: Visitor) -> None:
        with self._gate:
            if visitor in self._visitors:
                self._visitors.remove(visitor)
        visitor.close()

    # --- in the connection's thread -------------------------------------------------------

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands, wait for the first byte, and start the association."""
        visitor = cast(Visitor, request)
        try:
            visitor.shake_hands(self._tls)
            if visitor.speaks():
                self.finish_request(request, client_address)
                return
        except OSError as error:  # a failed handshake among them
            _log.info("a connection from %s ended: %s", client_address[0], error)
        except Exception:
            _log.exception("a connection from %s failed", client_address[0])
        self._forget(visitor)

    # --- in the association's thread ------------------------------------------------------

    def _on_requested(self, event: evt.Event) -> None:
        """Handler of EVT_REQUESTED: what it raises would be let pass, so it raises nothing."""
        reason: tuple[int, int, int] | None = CALLER_UNKNOWN
        with suppress(Exception):
            reason = self._objection(event.assoc)
        if reason is not None:
            event.assoc.acse.send_reject(*reason)
            event.assoc.kill()  # returns when the rejection is sent

    def _objection(self, association: Association) -> tuple[int, int, int] | None:
        title = str(cast(Any, association.requestor.primitive).calling_ae_title)
        host = cast(Any, association.requestor.address_info).address
        if not self._admission.admits(title, host):
            _log.warning("an association was rejected: %r at %s is not known", title, host)
            return CALLER_UNKNOWN
        with self._gate:
            if sum(one.admitted and not one.is_gone for one in self._visitors) >= MAX_ASSOCIATIONS:
                return LOCAL_LIMIT_EXCEEDED
            for visitor in self._visitors:
                if visitor.association is association:
                    visitor.admitted = True
                    return None
        return LOCAL_LIMIT_EXCEEDED  # it was forgotten: the archive is closing


class _Handler(RequestHandler):
    """Starts the association of a visitor."""

    def setup(self) -> None:
        self._visitor = cast(Visitor, self.request)
        self.request = self._visitor.connection

    def _create_association(self) -> Association:
        association = super()._create_association()
        bound(association)
        self._visitor.begin(association)
        return association


class _ReadOnly(list[PresentationContext]):
    """What is supported: pynetdicom copies 150 contexts for each association, with 14 transfer
    syntaxes each, and changes none. That took most of an association's time.
    """

    def __deepcopy__(self, memo: object) -> list[PresentationContext]:
        return list(self)
