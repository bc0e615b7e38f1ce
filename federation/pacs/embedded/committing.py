"""Storage commitment as SCP (PS3.4 Annex J): what is asked about is looked at, and reported.

The report goes to where its requestor is known to listen. Else, or where nobody takes it there, it
goes over the association that was asked over, as long as that lasts.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast
from weakref import WeakKeyDictionary

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_ACTION_RSP, N_EVENT_REPORT_RSP
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from federation.closing import Closing
from federation.pacs.address import DimseAddress
from federation.pacs.attributes import is_uid, text_of
from federation.pacs.dimse.association import IDENTIFIER_SYNTAXES, STREAMING
from federation.pacs.embedded.archive import Archive

MAX_DUE = 64
"""Reports that are owed at once; another request is refused for the moment."""
REPORT_S = 10.0
"""To wait for the answer to a report over the association that was asked over."""

# PS3.4 Section J.3, PS3.7 Annex C
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
INVALID_ARGUMENT = 0x0115
CLASS_INSTANCE_CONFLICT = 0x0119
NO_SUCH_ACTION = 0x0123
RESOURCE_LIMITATION = 0x0213
_REQUEST, _ALL_KEPT, _SOME_NOT = 1, 1, 2  # an action and two events, by type

_ABOUT = 500  # instances to look up at once
_LOOKS_EVERY_S = 0.1

_log = logging.getLogger("iodeep.pacs")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """Whether these instances are kept: pairs of SOP class and SOP Instance UID."""

    transaction: str
    instances: tuple[tuple[str, str], ...]


class Commitments(Closing):
    """Answers requests for storage commitment, and reports on them. Close it."""

    def __init__(self, archive: Archive, ae: AE, destinations: Mapping[str, DimseAddress]) -> None:
        """``ae`` is who reports; ``destinations`` where others listen, by their AE titles."""
        self._archive = archive
        self._ae = ae
        self._destinations = destinations
        self._reporters = ThreadPoolExecutor(4, thread_name_prefix="commitment")
        # Neither's values may hold the association, which would never be forgotten.
        self._due: WeakKeyDictionary[Association, _Asked] = WeakKeyDictionary()
        self._links: WeakKeyDictionary[Association, _Link] = WeakKeyDictionary()
        self._owed: set[Future[None]] = set()
        ae.add_supported_context(cast(UID, StorageCommitmentPushModel), list(IDENTIFIER_SYNTAXES))

    @property
    def handlers(self) -> Sequence[Any]:
        """What a server's associations need, after :data:`STREAMING`."""
        return [
            (evt.EVT_CONN_OPEN, self._on_open),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_DIMSE_SENT, self._on_sent),
            (evt.EVT_DIMSE_RECV, self._on_received),
        ]

    def close(self) -> None:
        """Report no more. Closing twice is harmless."""
        self._reporters.shutdown(wait=False, cancel_futures=True)

    # --- asked ----------------------------------------------------------------------------

    def _on_open(self, event: evt.Event) -> None:
        self._links[event.assoc] = _Link(event.assoc)

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        request = cast(N_ACTION, event.request)
        if event.action_type != _REQUEST:
            return NO_SUCH_ACTION, None
        if request.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance:
            return NO_SUCH_INSTANCE, None
        asked = _asked(event.action_information)
        if asked is None:
            return INVALID_ARGUMENT, None
        if len(self._due) + len(self._owed) >= MAX_DUE:
            return RESOURCE_LIMITATION, None
        self._due[event.assoc] = asked
        return SUCCESS, None

    def _on_sent(self, event: evt.Event) -> None:
        """The report follows the answer, on whatever way."""
        if isinstance(event.message, N_ACTION_RSP):
            asked = self._due.pop(event.assoc, None)
            if asked is not None:
                report = self._reporters.submit(self._report, event.assoc, asked)
                self._owed.add(report)
                report.add_done_callback(self._owed.discard)

    def _on_received(self, event: evt.Event) -> None:
        if isinstance(event.message, N_EVENT_REPORT_RSP):
            self._links[event.assoc].heard(event.message.command_set)

    # --- reporting ------------------------------------------------------------------------

    def _report(self, association: Association, asked: _Asked) -> None:
        title = str(association.requestor.ae_title)
        try:
            event_type, report = self._judged(asked)
            known = self._destinations.get(title)
            told = known is not None and self._report_to(known, event_type, report)
            if not told and not self._links[association].report(association, event_type, report):
                _log.warning("nobody took the report on storage commitment for %s", title)
        except Exception:
            _log.exception("a report on storage commitment for %s failed", title)

    def _judged(self, asked: _Asked) -> tuple[int, Dataset]:
        """The type of event (PS3.4 Section J.3.3.1), and what it is about."""
        stored = dict(self._stored([uid for _, uid in asked.instances]))
        kept, failed = [], []
        for sop_class, uid in asked.instances:
            stored_as = stored.get(uid)
            item = Dataset()
            item.ReferencedSOPClassUID = sop_class
            item.ReferencedSOPInstanceUID = uid
            if stored_as == sop_class:
                kept.append(item)
            else:
                conflict = stored_as is not None
                item.FailureReason = CLASS_INSTANCE_CONFLICT if conflict else NO_SUCH_INSTANCE
                failed.append(item)
        report = Dataset()
        report.TransactionUID = asked.transaction
        report.RetrieveAETitle = self._ae.ae_title
        if kept:
            report.ReferencedSOPSequence = kept
        if failed:
            report.FailedSOPSequence = failed
        return _SOME_NOT if failed else _ALL_KEPT, report

    def _stored(self, uids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """SOP Instance UID and SOP class of those that are here, file and all."""
        for begin in range(0, len(uids), _ABOUT):
            for one in self._archive.instances(instance="\\".join(uids[begin : begin + _ABOUT])):
                if one.is_whole():
                    yield one.uid, one.sop_class

    def _report_to(self, known: DimseAddress, event_type: int, report: Dataset) -> bool:
        """Over an association of its own, where we act as SCP though we ask for it."""
        push = cast(UID, StorageCommitmentPushModel)
        association = self._ae.associate(
            known.host,
            known.port,
            contexts=[build_context(push, list(IDENTIFIER_SYNTAXES))],
            ae_title=known.called,
            ext_neg=[build_role(push, scp_role=True)],
            evt_handlers=[*STREAMING],
            tls_args=None if known.tls is None else (known.tls.client(), known.host),
        )
        if not association.is_established:
            return False
        try:
            status, _ = association.send_n_event_report(
                report, event_type, push, StorageCommitmentPushModelInstance
            )
        except ValueError:  # the context was not accepted
            return False
        finally:
            association.release()
        return bool(status.get("Status") == SUCCESS)


class _Link:
    """Lets an association report while it serves.

    pynetdicom's own way takes the next message for the answer, whatever it is; and a requestor
    may well go on asking. So here the answer is picked out, and messages do not mix.
    """

    def __init__(self, association: Association) -> None:
        self._one_at_a_time = threading.Lock()
        self._heard = threading.Event()
        self._status: int | None = None
        sending = threading.Lock()
        send = association.dimse.send_msg

        def send_msg(*args: Any) -> None:
            with sending:
                send(*args)

        association.dimse.send_msg = send_msg  # type: ignore[assignment,method-assign]

    def heard(self, answer: Dataset) -> None:
        self._status = answer.get("Status")
        self._heard.set()

    def report(self, association: Association, event_type: int, report: Dataset) -> bool:
        """Whether the requestor took it."""
        context = _context(association)
        if context is None or not association.is_established:
            return False
        request = N_EVENT_REPORT()
        request.MessageID = 1
        request.AffectedSOPClassUID = cast(UID, StorageCommitmentPushModel)
        request.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
        request.EventTypeID = event_type
        syntax = context.transfer_syntax[0]
        encoded = encode(report, syntax.is_implicit_VR, syntax.is_little_endian)
        request.EventInformation = BytesIO(cast(bytes, encoded))
        with self._one_at_a_time:
            self._heard.clear()
            self._status = None
            association.dimse.send_msg(request, cast(int, context.context_id))
            until = time.monotonic() + REPORT_S
            while not self._heard.wait(_LOOKS_EVERY_S):
                if time.monotonic() > until or not association.is_established:
                    return False
            return self._status == SUCCESS


def _context(association: Association) -> PresentationContext | None:
    for context in association.accepted_contexts:
        if context.abstract_syntax == StorageCommitmentPushModel:
            return context
    return None


def _asked(information: Dataset) -> _Asked | None:
    """What an N-ACTION asks about (PS3.4 Section J.3.2.1); None where that cannot be said."""
    transaction = text_of(information, "TransactionUID")
    items = information.get("ReferencedSOPSequence") or []
    instances = tuple(
        (text_of(item, "ReferencedSOPClassUID"), text_of(item, "ReferencedSOPInstanceUID"))
        for item in items
    )
    uids = [transaction, *(uid for pair in instances for uid in pair)]
    if not instances or not all(map(is_uid, uids)):
        return None
    return _Asked(transaction=transaction, instances=instances)
