"""A connection to the embedded archive, and the time that each part of it may take."""

import select
import socket
import ssl
import struct
import time
from contextlib import suppress
from typing import Any, cast

from pynetdicom import evt
from pynetdicom.association import Association

from federation.pacs.dimse.receiving import discard_all

REQUEST_S = 10.0
"""From connecting, over the handshake, to the last byte of the request to associate."""
PDU_S = 120.0
"""From the first byte of a PDU to its last, in either direction."""
CALLER_UNKNOWN = (1, 1, 3)
"""PS3.8 Section 9.3.4: result, source, reason."""

_FAREWELL_S = 0.2


class Visitor:
    """A connection, what became of it, and since when it has been busy with what."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.association: Association | None = None
        self.admitted = False
        self._since = time.monotonic()
        self._pdu_since: float | None = None
        self._cut = False

    @property
    def waits(self) -> bool:
        return not (self.admitted or self._cut)

    @property
    def is_gone(self) -> bool:
        """Whether the association's thread has ended; it may not have begun."""
        thread = self.association
        return thread is not None and thread.ident is not None and not thread.is_alive()

    @property
    def is_late(self) -> bool:
        """Whether it takes longer than it may, or will never ask for anything any more."""
        now = time.monotonic()
        if self.admitted:
            return self._pdu_since is not None and now - self._pdu_since > PDU_S
        return now - self._since > REQUEST_S or self._is_deaf

    @property
    def _is_deaf(self) -> bool:
        provider = self.association and self.association.dul
        return provider is not None and provider.ident is not None and not provider.is_alive()

    def begin(self, association: Association) -> None:
        """The connection is an association's from now on, unless it was cut off already."""
        self.association = association
        association.bind(evt.EVT_CONN_OPEN, self.watch)
        if self._cut:
            self.cut_off()

    def watch(self, event: evt.Event) -> None:
        """Handler of EVT_CONN_OPEN: note when a PDU begins, and that it has ended."""
        transport = cast(Any, event.assoc.dul.socket)
        send, recv = transport.send, transport.recv

        def timed_send(data: bytes) -> None:
            self._pdu_since = time.monotonic()
            send(data)
            self._pdu_since = None

        def timed_recv(nr_bytes: int) -> bytearray:
            self._pdu_since = time.monotonic()
            received = recv(nr_bytes)
            self._pdu_since = None
            return cast(bytearray, received)

        transport.send, transport.recv = timed_send, timed_recv

    def cut_off(self) -> None:
        """End the connection, whatever any thread is doing with it."""
        self._cut = True
        with suppress(OSError):
            # Not by the SSLSocket's own way, which takes its state from under another thread.
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR)
        if self.association is not None and not self.admitted:
            # It waits for a request; nothing stands for none in time.
            self.association.dul.to_user_queue.put(cast(Any, None))

    def shake_hands(self, tls: ssl.SSLContext | None) -> None:
        """Over TLS where we speak it. Raises :class:`OSError` where that fails, or takes long."""
        self.connection.settimeout(REQUEST_S)
        if tls is not None:
            self.connection = tls.wrap_socket(
                self.connection, server_side=True, do_handshake_on_connect=False
            )
            self.connection.do_handshake()

    def speaks(self) -> bool:
        """Whether a byte comes in time. Who says nothing is not worth an association's threads."""
        if isinstance(self.connection, ssl.SSLSocket) and self.connection.pending():
            return True
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        return bool(poll.poll(REQUEST_S * 1000))

    def close(self) -> None:
        self.cut_off()
        self.connection.close()
        if self.association is not None:
            # Whoever waits for it shall hear it, where pynetdicom's thread ended without a word.
            evt.trigger(self.association, evt.EVT_CONN_CLOSE, {})
            discard_all(self.association)


class Farewell:
    """Rejects whatever is asked over a connection, without reading it.

    Not at once: who gets an answer before they have asked may take it for a broken connection, as
    pynetdicom does. Nor is it the end: closing takes back what was sent and is not read yet.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._since = time.monotonic()
        self._told = False

    def goes_on(self) -> bool:
        """Do what is due; whether there is more to do."""
        age_s = time.monotonic() - self._since
        if age_s > _FAREWELL_S and not self._told:
            self._told = True
            with suppress(OSError):
                self.connection.send(struct.pack(">BBLBBBB", 3, 0, 4, 0, *CALLER_UNKNOWN))
                self.connection.shutdown(socket.SHUT_WR)
        if age_s > 2 * _FAREWELL_S:
            self.connection.close()
            return False
        return True
