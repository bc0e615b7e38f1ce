"""What both ends of our associations share: pynetdicom set up to stream.

pynetdicom's switches belong to the process; they are set here, once, for whoever imports
the gateway or the server.
"""

import queue
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association

from federation.pacs.dimse.reactor import wake_when_needed
from federation.pacs.dimse.receiving import discard_unfinished
from federation.pacs.limits import Throttle

MAX_PDU_BYTES = 131072
"""The fastest of the sizes measured, against every archive tried."""

MAX_CONTEXTS = 128
"""Of one association: their identifiers are the odd numbers to 255 (PS3.8 Section 9.3.2)."""

_LONGEST_PDU_BYTES = 2**20
_QUEUED_PDUS = 16

TRANSFER_SYNTAXES: Sequence[str] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
)

IDENTIFIER_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
"""Of what is held in memory: deflated, it could inflate to anything."""

# From a path without decoding, and into a file as it comes: 500 MB take a few MB of memory.
_config.STORE_SEND_CHUNKED_DATASET = True
_config.STORE_RECV_CHUNKED_DATASET = True
# Identifiers hold patients' names; nothing of them may reach a log.
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False


def application_entity(title: str, *, timeout_s: float) -> AE:
    """An application entity whose every wait has a limit, in seconds."""
    ae = AE(ae_title=title)
    ae.maximum_pdu_size = MAX_PDU_BYTES
    ae.connection_timeout = timeout_s
    ae.acse_timeout = timeout_s
    ae.dimse_timeout = timeout_s
    ae.network_timeout = timeout_s
    return ae


def stream(event: evt.Event) -> None:
    """Handler of EVT_CONN_OPEN: no wait without an end, none to fill packets, no piling up.

    A DIMSE message is two writes, command and data set; with Nagle's algorithm and the peer's
    delayed acknowledgement, each question would take 40 ms for nothing. And pynetdicom reads and
    writes without a limit of time: where a peer stops in the middle of a PDU, even aborting the
    association would wait for it.
    """
    connection = _connection(event.assoc)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(event.assoc.network_timeout)
    _receive_in_large_pieces(event.assoc)
    _acknowledge_at_once(event.assoc)
    wake_when_needed(event.assoc, connection)
    _bound_the_queue(event.assoc)
    _wait_while_it_comes(event.assoc)
    _leave_answers_to_who_asked(event.assoc)


def _receive_in_large_pieces(association: Association) -> None:
    """pynetdicom receives 4096 bytes at a time, and as many as a PDU says that it has.

    Nobody may send a PDU longer than we announced, but for the one that begins an association.
    """
    connection = _connection(association)

    def recv(nr_bytes: int) -> bytearray:
        if nr_bytes > _LONGEST_PDU_BYTES:
            return bytearray()  # read as a connection that broke off
        received = bytearray(nr_bytes)
        at = 0
        with memoryview(received) as view:
            while at < nr_bytes:
                count = connection.recv_into(view[at:])
                if count == 0:
                    break
                at += count
        del received[at:]
        return received

    cast(Any, association.dul.socket).recv = recv


def _acknowledge_at_once(association: Association) -> None:
    """An archive that sends its answer in two writes, as Orthanc and DCMTK do, holds back the
    second until the first is acknowledged, which takes 40 ms by itself. The kernel forgets what
    is set here with each packet, so it is set after each question.
    """
    if not hasattr(socket, "TCP_QUICKACK"):  # Linux only
        return
    connection = _connection(association)
    provider = cast(Any, association.dul.socket)
    send = provider.send

    def send_and_expect(data: bytes) -> None:
        send(data)
        with suppress(OSError):  # closed meanwhile, as the next read will say
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    provider.send = send_and_expect


def metered(moved: Callable[[int], None], throttle: Throttle) -> tuple[Any, Any]:
    """The handler that counts what an association sends and receives, and slows it down.

    Bind it after :data:`STREAMING`.
    """

    def meter(event: evt.Event) -> None:
        connection = cast(Any, event.assoc.dul.socket)
        send, recv = connection.send, connection.recv

        def count(nr_bytes: int) -> None:
            throttle.wait_for(nr_bytes)
            moved(nr_bytes)

        def counted_send(data: bytes) -> None:
            count(len(data))
            send(data)

        def counted_recv(nr_bytes: int) -> bytearray:
            received = recv(nr_bytes)
            count(len(received))
            return cast(bytearray, received)

        connection.send, connection.recv = counted_send, counted_recv

    return (evt.EVT_CONN_OPEN, meter)


def _bound_the_queue(association: Association) -> None:
    """pynetdicom reads a file as fast as the disk gives it; let it wait for the network.

    A peer that takes nothing for the network timeout is cut off, which ends the association.
    """
    waiting = association.dul.to_provider_queue
    limit_s = association.network_timeout
    put = waiting.put

    def put_in_time(item: Any, block: bool = True, timeout: float | None = None) -> None:
        try:
            put(item, block, timeout or limit_s)
        except queue.Full:
            cut_off(association)

    waiting.maxsize = _QUEUED_PDUS
    waiting.put = put_in_time  # type: ignore[method-assign]


def _wait_while_it_comes(association: Association) -> None:
    """Let a message take as long as it needs to come in, as long as it keeps coming.

    pynetdicom waits for a whole one: a large instance over a slow line would be given up.
    """
    arrived = 0
    get = association.dimse.get_msg

    def count(_: evt.Event) -> None:
        nonlocal arrived
        arrived += 1

    def get_msg(block: bool = False) -> Any:
        while True:
            before, begin = arrived, time.monotonic()
            answer = get(block)
            limit_s = association.dimse_timeout or 0
            ran_out = answer == (None, None) and time.monotonic() - begin >= limit_s > 0
            if not (block and ran_out and arrived > before):
                return answer

    association.bind(evt.EVT_PDU_RECV, count)
    association.dimse.get_msg = get_msg  # type: ignore[method-assign]


@contextmanager
def patient(association: Association, progress: Callable[[], int]) -> Iterator[None]:
    """Wait for answers as long as ``progress`` grows, which what comes elsewhere makes it do."""
    get = association.dimse.get_msg

    def get_msg(block: bool = False) -> Any:
        while True:
            before = progress()
            answer = get(block)
            if answer != (None, None) or not block or progress() == before:
                return answer

    association.dimse.get_msg = get_msg  # type: ignore[method-assign]
    try:
        yield
    finally:
        association.dimse.get_msg = get  # type: ignore[method-assign]


def _leave_answers_to_who_asked(association: Association) -> None:
    """Let pynetdicom's reactor take no message while a question waits for its answers.

    The reactor is held while one asks, but where the next question follows at once it may not
    have noticed yet that the last one is over. It then goes round once more, and would take,
    and drop, the first answer to the new question: a study would vanish from a C-FIND.
    """
    get = association.dimse.get_msg
    nobody_asks = association._reactor_checkpoint.is_set

    def get_msg(block: bool = False) -> Any:
        return get(block) if block or nobody_asks() else (None, None)

    association.dimse.get_msg = get_msg  # type: ignore[method-assign]


def let_go(event: evt.Event) -> None:
    """Handler of EVT_CONN_CLOSE: whoever still waits to send shall not wait any longer."""
    waiting = event.assoc.dul.to_provider_queue
    with waiting.mutex:
        waiting.maxsize = sys.maxsize
        waiting.not_full.notify_all()


STREAMING: Sequence[tuple[Any, Any]] = (
    (evt.EVT_CONN_OPEN, stream),
    (evt.EVT_CONN_CLOSE, let_go),
    (evt.EVT_CONN_CLOSE, discard_unfinished),
)
"""The handlers that every association of ours has."""


def cut_off(association: Association) -> None:
    """End an association at once by its connection, whatever it is waiting for."""
    with suppress(OSError, AttributeError, TypeError):  # closed meanwhile
        # Not by the SSLSocket's own way, which takes its state from under another thread.
        socket.socket.shutdown(_connection(association), socket.SHUT_RDWR)


def _connection(association: Association) -> socket.socket:
    return cast(socket.socket, cast(Any, association.dul.socket).socket)
