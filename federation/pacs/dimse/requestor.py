"""The association that a gateway asks over: opened when needed, kept, opened anew."""

import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ

from federation.closing import Closing
from federation.errors import PacsRefused, PacsUnreachable
from federation.pacs import tls
from federation.pacs.address import DimseAddress
from federation.pacs.dimse.association import (
    MAX_PDU_BYTES,
    STREAMING,
    application_entity,
    cut_off,
)
from federation.pacs.dimse.bounds import bound
from federation.pacs.dimse.contexts import Proposal

Answer = TypeVar("Answer")

_Reason = tuple[int | None, ...]
"""Result, source and reason of a rejection (PS3.8 Section 9.3.4)."""

_REJECTIONS: Mapping[_Reason, str] = {
    (1, 1, 3): "it does not know our AE title",
    (1, 1, 7): "it does not go by that AE title",
}
_BUSY: Mapping[_Reason, str] = {
    (2, 3, 1): "it is busy; try again",
    (2, 3, 2): "it takes no more associations at present; try again",
}
_PROBE_S = 5.0
_VERDICT_S = 1.0


class Requestor(Closing):
    """Opens an association with an application entity, and asks over it. Close it."""

    def __init__(self, to: DimseAddress, *, timeout_s: float, handlers: Sequence[Any]) -> None:
        """``timeout_s`` bounds every single wait; ``handlers`` are pynetdicom's.

        Raises :class:`ConfigError` for TLS files that cannot be used.
        """
        self._to = to
        self._tls = None if to.tls is None else to.tls.client()
        self._ae = application_entity(to.calling, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._handlers: list[Any] = [
            *STREAMING,
            (evt.EVT_CONN_OPEN, _bound),
            (evt.EVT_PDU_RECV, self._note_rejection),
            *handlers,
        ]
        self._rejection: _Reason | None = None
        self._association: Association | None = None
        self._proposal = Proposal()
        self._is_cut_off = False

    @property
    def proposal(self) -> Proposal:
        """What the next question's association can carry."""
        return self._proposal

    def propose(self, proposal: Proposal) -> None:
        """Make sure that the next question's association can carry this."""
        if not self._proposal.covers(proposal):
            self.close()
            self._proposal = proposal

    def ask(self, ask: Callable[[Association], Answer | None]) -> Answer:
        """Ask over the association; once more over a new one where the old one had ended before.

        ``ask`` gives None where the association ended before there was an answer. Raises
        :class:`PacsUnreachable` where none can be had, :class:`PacsRefused` where it does not
        let us in.
        """
        kept = self._association is not None and self._association.is_established
        begin = time.monotonic()
        answer = self._ask_once(ask)
        if answer is None and kept and time.monotonic() - begin < self._timeout_s:
            answer = self._ask_once(ask)
        if answer is None:
            raise PacsUnreachable(
                f"{self._to} ended the association, or did not answer within "
                f"{self._timeout_s:g} s. Is the archive still running?"
            )
        return answer

    def _ask_once(self, ask: Callable[[Association], Answer | None]) -> Answer | None:
        try:
            answer = ask(self._established())
        except RuntimeError:  # pynetdicom: the association is not established (any more)
            answer = None
        except BaseException:  # Ctrl-C in mid-question: a release would wait for its answer
            if self._association is not None:
                cut_off(self._association)
                self._association._reactor_checkpoint.set()  # where pynetdicom's thread waits
            self._association = None
            raise
        if answer is None:
            self._abandon()
        return answer

    def _established(self) -> Association:
        if self._is_cut_off:
            raise PacsUnreachable(f"the association with {self._to} was cut off")
        if self._association is None or not self._association.is_established:
            self._association = self._associate()
            if self._is_cut_off:  # meanwhile
                cut_off(self._association)
        return self._association

    def _note_rejection(self, event: evt.Event) -> None:
        """An archive may reject us, and hang up, before pynetdicom looks whether it is connected:
        it then takes us for not connected at all."""
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            self._rejection = (event.pdu.result, event.pdu.source, event.pdu.reason_diagnostic)

    def _associate(self) -> Association:
        self._rejection = None
        try:
            association = self._ae.associate(
                self._to.host,
                self._to.port,
                contexts=self._proposal.contexts(),
                ae_title=self._to.called,
                max_pdu=MAX_PDU_BYTES,
                ext_neg=list(self._proposal.roles()),
                evt_handlers=self._handlers,
                tls_args=None if self._tls is None else (self._tls, self._to.host),
            )
        except OSError as error:  # pynetdicom looks the host's name up outside its own guard
            raise PacsUnreachable(
                f"no association with {self._to}: {error.strerror}. Is the host right?"
            ) from error
        if association.is_established:
            return association
        if self._rejection is not None:
            raise self._rejected(self._rejection)
        raise self._obstacle()

    def _rejected(self, reason: _Reason) -> PacsUnreachable:
        if reason in _BUSY:
            return PacsUnreachable(f"{self._to} rejected the association: {_BUSY[reason]}")
        why = _REJECTIONS.get(reason, "result {}, source {}, reason {}".format(*reason))
        return PacsRefused(
            f"{self._to} rejected the association: {why}. Called {self._to.called!r}, calling "
            f"{self._to.calling!r}: compare with the archive's configuration"
        )

    def _obstacle(self) -> PacsUnreachable:
        """Why no association came about; pynetdicom tells only its log."""
        limit_s = min(self._timeout_s, _PROBE_S)
        none = f"no association with {self._to}"
        try:
            with socket.create_connection((self._to.host, self._to.port), limit_s) as connection:
                if self._tls is not None:
                    with self._tls.wrap_socket(connection, server_hostname=self._to.host) as secure:
                        _await_verdict(secure, limit_s)
        except ConnectionRefusedError:
            return PacsUnreachable(
                f"{none}: nothing listens at that port. Is the archive running, is the port right?"
            )
        except TimeoutError:
            return PacsUnreachable(
                f"{none}: the host does not answer. Are address and port right, is a firewall "
                "between?"
            )
        except (ssl.SSLError, ConnectionResetError) as error:
            return PacsRefused(f"{none}: {tls.explain(error)}")
        except OSError as error:
            return PacsUnreachable(f"{none}: {error.strerror}. Are host and port right?")
        secured = "" if self._tls is not None else ", and without TLS"
        return PacsUnreachable(
            f"{none}: the port is open, but what listens there aborted, or did not answer within "
            f"{self._timeout_s:g} s. Is it a DICOM archive{secured}?"
        )

    def cut_off(self) -> None:
        """From another thread: end the association at once, and open none any more.

        Whoever waits for an answer over it waits no longer.
        """
        self._is_cut_off = True
        if self._association is not None:
            cut_off(self._association)

    def _abandon(self) -> None:
        if self._association is not None:
            with suppress(Exception):  # it is broken already; whatever ending it says is no news
                self._association.abort()
        self._association = None

    def close(self) -> None:
        """Release the association; asking opens another. Closing twice is harmless."""
        association, self._association = self._association, None
        if association is None or not association.is_established:
            return
        try:
            association.release()
        except Exception:  # it ends anyway; what else happens matters more
            return
        except BaseException:  # Ctrl-C while the peer has not agreed yet
            cut_off(association)
            raise


def _bound(event: evt.Event) -> None:
    bound(event.assoc, messages=None)


def _await_verdict(connection: ssl.SSLSocket, limit_s: float) -> None:
    """In TLS 1.3 what the other says to our certificate comes after the handshake.

    It comes at once or not at all: who accepts it waits for us.
    """
    connection.settimeout(min(limit_s, _VERDICT_S))
    with suppress(TimeoutError):
        connection.recv(1)
