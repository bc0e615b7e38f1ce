"""The bytes of PDUs (PS3.8 Section 9.3) and messages (PS3.7 Section 6.3), right ones and others."""

import struct

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

VERIFICATION = UID("1.2.840.10008.1.1")
FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
GET = UID("1.2.840.10008.5.1.4.1.2.2.3")
COMMITMENT = UID("1.2.840.10008.1.20.1")
CONTEXTS = {
    1: (VERIFICATION, ImplicitVRLittleEndian),
    3: (FIND, ImplicitVRLittleEndian),
    5: (GET, ImplicitVRLittleEndian),
    7: (COMMITMENT, ImplicitVRLittleEndian),
    9: (MRImageStorage, ExplicitVRLittleEndian),
    11: (MRImageStorage, DeflatedExplicitVRLittleEndian),
}
"""What :func:`request` proposes, by the context's identifier."""

C_STORE, C_GET, C_FIND, C_ECHO, N_ACTION = 0x0001, 0x0010, 0x0020, 0x0030, 0x0130
N_EVENT_REPORT, C_CANCEL = 0x0100, 0x0FFF
RELEASE = struct.pack(">BBLL", 5, 0, 4, 0)
ABORT = struct.pack(">BBLL", 7, 0, 4, 0)
NO_DATA_SET = 0x0101


def pdu(kind: int, data: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(data)) + data


def _item(kind: int, data: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(data)) + data


def request(called: str = "PEER", calling: str = "FUZZ") -> bytes:
    """An A-ASSOCIATE-RQ."""
    data = struct.pack(">HH16s16s32x", 1, 0, f"{called:16}".encode(), f"{calling:16}".encode())
    data += _item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (kind, syntax) in CONTEXTS.items():
        content = struct.pack(">BBBB", number, 0, 0, 0)
        content += _item(0x30, kind.encode()) + _item(0x40, syntax.encode())
        data += _item(0x20, content)
    data += _item(0x50, _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.3.4"))
    return pdu(1, data)


def pdata(context: int, data: bytes, *, command: bool, last: bool = True) -> bytes:
    """A P-DATA-TF of one fragment."""
    header = (1 if command else 0) | (2 if last else 0)
    return pdu(4, struct.pack(">LBB", len(data) + 2, context, header) + data)


def element(tag: int, value: bytes) -> bytes:
    """In Implicit VR Little Endian."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def command(field: int, kind: str, uid: str = "", *, data_set: bool = True) -> bytes:
    """A request's command set."""
    requested = field == N_ACTION
    elements = element(0x00000003 if requested else 0x00000002, kind.encode())
    elements += element(0x00000100, struct.pack("<H", field))
    elements += element(0x00000110, struct.pack("<H", 1))
    if field in (C_STORE, C_GET, C_FIND):
        elements += element(0x00000700, struct.pack("<H", 0))
    elements += element(0x00000800, struct.pack("<H", 1 if data_set else NO_DATA_SET))
    if uid:
        elements += element(0x00001001 if requested else 0x00001000, uid.encode())
    if requested:
        elements += element(0x00001008, struct.pack("<H", 1))
    if field == N_EVENT_REPORT:
        elements += element(0x00001002, struct.pack("<H", 1))
    return element(0x00000000, struct.pack("<L", len(elements))) + elements


def message(
    context: int, field: int, data: bytes = b"", uid: str = "", piece: int = 16000
) -> bytes:
    """A request, with its data set in pieces."""
    kind, _ = CONTEXTS[context]
    sent = pdata(context, command(field, kind, uid, data_set=bool(data)), command=True)
    for begin in range(0, len(data), piece):
        part = data[begin : begin + piece]
        sent += pdata(context, part, command=False, last=begin + piece >= len(data))
    return sent


def statuses(received: bytes) -> dict[str, int]:
    """What C-STOREs were answered, by SOP Instance UID; whatever else came is passed over."""
    found: dict[str, int] = {}
    at = 0
    while at + 6 <= len(received):
        kind, _, length = struct.unpack(">BBL", received[at : at + 6])
        body = received[at + 6 : at + 6 + length]
        at += 6 + length
        if kind == 4 and 6 < len(body) == length and body[5] & 1:
            elements = _elements(body[6:])
            if elements.get(0x00000100) == struct.pack("<H", 0x8000 | C_STORE):
                uid = elements.get(0x00001000, b"").rstrip(b"\0").decode("ascii", "replace")
                found[uid] = int.from_bytes(elements[0x00000900], "little")
    return found


def _elements(encoded: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 8 <= len(encoded):
        group, number, length = struct.unpack("<HHL", encoded[at : at + 8])
        found[group << 16 | number] = encoded[at + 8 : at + 8 + length]
        at += 8 + length
    return found
