"""What both ends of our associations share: pynetdicom set up to stream.

pynetdicom's switches belong to the process; they are set here, once, for whoever imports
the gateway or the server.
"""

import socket
from collections.abc import Sequence
from typing import Any, cast

from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
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

MAX_PDU_BYTES = 131072
"""The fastest of the sizes measured, against every archive tried."""

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
)

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


def send_at_once(event: evt.Event) -> None:
    """Handler of EVT_CONN_OPEN: no waiting to fill packets (Nagle).

    A DIMSE message is two writes, command and data set; with the peer's delayed
    acknowledgement, each question would otherwise take 40 ms for nothing.
    """
    transport = cast(Any, event.assoc.dul.socket)
    transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
