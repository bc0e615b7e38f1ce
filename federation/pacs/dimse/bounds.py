"""What one association may make us hold, before anything of it is looked at.

Instances go to files; commands, identifiers and messages that wait are held in memory, as much of
them as the peer sends.
"""

import logging
from typing import Any

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA

from federation.pacs.dimse.association import cut_off

MAX_HELD_BYTES = 2**20
"""Of a command, and of a data set that is no instance: an identifier, or what to commit to."""
MAX_MESSAGES = 4
"""That wait. Nobody may ask again before the answer, but to cancel (PS3.7 Annex D.3.3.3)."""

_BROKEN = "Evt19"  # PS3.8 Section 9.2.1: an invalid PDU; the association is aborted

_log = logging.getLogger("iodeep.pacs")


def bound(association: Association, *, messages: int | None = MAX_MESSAGES) -> None:
    """Abort the association where it holds more, or sends what is no message.

    messages: that may wait; None: any number, where it is we who asked

    pynetdicom's thread for the connection would end by what a malformed message raises, or by a
    PDU at the wrong moment, and leave the rest of the association as it is.
    """
    _end_in_order(association)
    dimse = association.dimse
    receive = dimse.receive_primitive

    def receive_primitive(primitive: P_DATA) -> None:
        try:
            receive(primitive)
            too_much = _held_bytes(dimse.message) > MAX_HELD_BYTES
            too_many = messages is not None and dimse.msg_queue.qsize() > messages
        except Exception as error:
            _log.warning("an association sent what is no message: %s", type(error).__name__)
        else:
            if not (too_much or too_many):
                return
            _log.warning("an association sent more than is held")
        dimse.message = None
        association.dul.event_queue.put(_BROKEN)

    dimse.receive_primitive = receive_primitive  # type: ignore[method-assign]


def _end_in_order(association: Association) -> None:
    provider = association.dul
    act = provider.state_machine.do_action

    def do_action(event: str) -> None:
        try:
            act(event)
        except Exception as error:
            _log.warning("an association broke the protocol: %s", type(error).__name__)
            cut_off(association)
            provider.kill_dul()

    provider.state_machine.do_action = do_action  # type: ignore[method-assign]


def _held_bytes(message: Any) -> int:
    if message is None:
        return 0
    command: int = message.encoded_command_set.tell()
    return command if message._data_set_file else command + int(message.data_set.tell())
