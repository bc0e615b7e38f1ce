"""Peers that mean harm, or are broken: the archive refuses, keeps nothing of it, and lives on."""

import gc
import itertools
import logging
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from federation.pacs import ArchiveServer, elements, open_gateway
from federation.pacs.attributes import read_attributes
from federation.pacs.dimse import visitor
from tests.federation.pacs.conftest import Make
from tests.federation.pacs.dimse import wire
from tests.federation.pacs.dimse.test_acceptor import wait_until

MR, DEFLATED_MR = 9, 11
TEMPLATE = "1.2.3.4.5.6.7.8"


# --- a peer of our own --------------------------------------------------------------------


def connected(server: ArchiveServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 5)


def received(connection: socket.socket, until: Callable[[bytes], bool], within_s: float) -> bytes:
    """All that comes until enough has, the other side closes, or time is up."""
    data, end = b"", time.monotonic() + within_s
    with suppress(OSError):
        while not until(data) and time.monotonic() < end:
            connection.settimeout(max(0.01, end - time.monotonic()))
            piece = connection.recv(65536)
            if not piece:
                break
            data += piece
    return data


@contextmanager
def associated(server: ArchiveServer) -> Iterator[socket.socket]:
    with connected(server) as connection:
        connection.sendall(wire.request())
        accepted = received(connection, lambda data: len(data) > 6, 5)
        assert accepted[0] == 2
        yield connection


def answer(server: ArchiveServer, sent: bytes, within_s: float = 20) -> dict[str, int]:
    """What C-STOREs over one association are answered; nothing where it is aborted."""
    with associated(server) as connection:
        with suppress(OSError):
            connection.sendall(sent)
        return wire.statuses(received(connection, lambda data: bool(wire.statuses(data)), within_s))


def answers(server: ArchiveServer) -> bool:
    with open_gateway(server.address) as gateway:
        gateway.echo()
    return True


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What is logged with an exception keeps all that its frames know, for the test's report."""
    for logger in ("pynetdicom", "iodeep.pacs"):
        caplog.set_level(logging.CRITICAL + 1, logger)


def _associations() -> list[Association]:
    return [one for one in gc.get_objects() if isinstance(one, Association)]


@contextmanager
def nothing_is_left(server: ArchiveServer, megabytes: float = 50) -> Iterator[None]:
    """Whatever happens meanwhile, there are no more threads, files, and hardly more memory."""
    process = psutil.Process()
    assert answers(server)
    wait_until(lambda: not server._acceptor._visitors)
    gc.collect()
    before = (process.num_threads(), process.num_fds(), process.memory_info().rss)
    known = set(map(id, _associations()))  # of other tests
    yield
    assert answers(server)
    wait_until(lambda: not server._acceptor._visitors, 15)
    wait_until(lambda: process.num_threads() <= before[0])
    wait_until(lambda: process.num_fds() <= before[1])
    assert not list(server.archive.incoming.iterdir())
    gc.collect()
    assert not [one for one in _associations() if id(one) not in known]
    assert process.memory_info().rss - before[2] < megabytes * 2**20


def data_set(path: Path) -> bytes:
    """What a C-STORE of a file sends."""
    content = path.read_bytes()
    (length,) = struct.unpack("<L", content[140:144])
    return content[144 + length :]


class Fuzz:
    """Connections with something wrong in each, several at a time.

    cut: UIDs of instances that were sent, but never whole
    acknowledged: those that were answered 0x0000
    """

    def __init__(self, server: ArchiveServer, template: bytes, seed: int) -> None:
        self._server = server
        self._template = template
        self._seed = seed
        self._numbers = itertools.count(10**6 * (1 + seed))  # as many digits as the template's
        self.cut: set[str] = set()
        self.acknowledged: set[str] = set()

    def run(self, runs: int) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._one, range(runs)))

    def _one(self, number: int) -> None:
        draw = random.Random(f"{self._seed}.{number}")
        before = draw.choice((self._noise, self._request, self._long_pdu))
        within = draw.choice((self._noise, self._pdu, self._message, self._cut, self._many,
                              self._long_pdu))  # fmt: skip
        with suppress(OSError), connected(self._server) as connection:
            if draw.random() < 0.3:
                send(draw, connection, before(draw))
                return
            send(draw, connection, wire.request())
            received(connection, lambda data: len(data) > 6, 5)
            send(draw, connection, within(draw))
            patience_s = draw.choice((0, 0.01, 1))
            got = received(connection, lambda data: bool(wire.statuses(data)), patience_s)
            answered = wire.statuses(got)
            self.acknowledged |= {uid for uid, status in answered.items() if status == 0x0000}

    def _instance(self) -> tuple[str, bytes]:
        uid = f"1.2.3.4.{next(self._numbers)}"
        return uid, self._template.replace(TEMPLATE.encode(), uid.encode())

    def _noise(self, draw: random.Random) -> bytes:
        return draw.randbytes(draw.choice((1, 6, 100, 10_000)))

    def _request(self, draw: random.Random) -> bytes:
        return mutated(draw, wire.request())

    def _pdu(self, draw: random.Random) -> bytes:
        content = draw.randbytes(draw.choice((0, 4, 100)))
        return draw.choice((wire.request(), wire.pdu(draw.randrange(9), content)))

    def _message(self, draw: random.Random) -> bytes:
        uid, data = self._instance()
        sent = draw.choice(
            (
                wire.message(MR, wire.C_STORE, data, uid, piece=draw.choice((100, 16000))),
                wire.message(DEFLATED_MR, wire.C_STORE, deflated(data), uid),
                wire.message(MR, wire.C_STORE, mutated(draw, data), uid),
                wire.message(3, wire.C_FIND, identifier(draw)),
                wire.message(5, wire.C_GET, identifier(draw)),
                wire.message(7, wire.N_ACTION, identifier(draw), "1.2.840.10008.1.20.1.1"),
                wire.message(1, wire.C_ECHO),
            )
        )
        return draw.choice((sent, mutated(draw, sent), sent + wire.RELEASE))

    def _cut(self, draw: random.Random) -> bytes:
        uid, data = self._instance()
        self.cut.add(uid)
        sent = wire.message(MR, wire.C_STORE, data, uid)
        if draw.random() < 0.5:
            return sent[: draw.randrange(1, len(sent))]
        end = draw.choice((wire.ABORT, wire.RELEASE, wire.message(1, wire.C_ECHO)))
        # By more than the end is long, which would make it whole again.
        return sent[: draw.randrange(1, len(sent) - len(end))] + end

    def _many(self, draw: random.Random) -> bytes:
        """More than may be asked at once."""
        instances = [self._instance() for _ in range(draw.randrange(2, 20))]
        return b"".join(wire.message(MR, wire.C_STORE, data, uid) for uid, data in instances)

    def _long_pdu(self, draw: random.Random) -> bytes:
        """A PDU, or a value in one, that says it is longer than anything."""
        huge = draw.choice((2**32 - 1, 2**31, 2**24))
        pdu = struct.pack(">BBL", draw.choice((1, 4)), 0, huge)
        value = wire.pdu(4, struct.pack(">LBB", huge, MR, draw.randrange(4)) + bytes(100))
        return draw.choice((pdu, value)) + bytes(draw.choice((0, 10_000)))


def send(draw: random.Random, connection: socket.socket, data: bytes) -> None:
    """In pieces that have nothing to do with what is in them."""
    at = 0
    while at < len(data):
        size = draw.choice((7, 100, 10**6))
        connection.sendall(data[at : at + size])
        at += size


def mutated(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 2, 10))):
        at = draw.randrange(len(changed))
        match draw.randrange(4):
            case 0:
                changed[at] = draw.randrange(256)
            case 1:
                changed[at : at + 4] = draw.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
            case 2:
                del changed[at : at + draw.choice((1, 2, 100))]
            case 3:
                changed[at:at] = draw.randbytes(draw.choice((1, 4, 100)))
        if not changed:
            return draw.randbytes(4)
    return bytes(changed)


def deflated(data: bytes) -> bytes:
    compress = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    encoded = compress.compress(data) + compress.flush()
    return encoded + b"\0" * (len(encoded) % 2)


def identifier(draw: random.Random) -> bytes:
    level = draw.choice((b"STUDY ", b"SERIES", b"IMAGE "))
    keys = wire.element(0x00080052, level) + wire.element(0x00100020, b"*1*" * draw.randrange(1, 9))
    keys += wire.element(0x0020000D, b"1.2.3.1") + wire.element(0x0020000E, b"")
    return mutated(draw, keys) if draw.random() < 0.7 else keys


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(
    "runs", [150, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_whatever_comes_the_archive_lives_on_and_holds_only_what_was_whole(
    server: ArchiveServer, make: Make, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitor, "REQUEST_S", 1.0)
    template = data_set(make(SOPInstanceUID=TEMPLATE))
    Fuzz(server, template, seed=0).run(20)  # what is loaded once, is loaded
    with nothing_is_left(server):
        run = Fuzz(server, template, seed=1)
        run.run(runs)
    held = {one.uid: one for one in server.archive.instances()}
    assert run.acknowledged
    assert run.acknowledged <= held.keys()
    assert not run.cut & held.keys()
    found = server.archive.check()
    assert (found.lost, found.removed) == ((), 0)
    for one in held.values():
        assert read_attributes(one.path)["SOPInstanceUID"] == one.uid


# --- data sets ----------------------------------------------------------------------------


def refused(server: ArchiveServer, data: bytes, *, context: int = MR) -> int:
    """The status that a data set of instance 1.2.3 is answered with, of which nothing is left."""
    with nothing_is_left(server):
        found = answer(server, wire.message(context, wire.C_STORE, data, "1.2.3"))
    assert server.archive.instances() == []
    return found["1.2.3"]


def explicit(tag: int, vr: bytes, length: int) -> bytes:
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, length)


def test_what_inflates_without_end_is_refused(
    server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elements, "MAX_INFLATED_BYTES", 100 * 10**6)
    compress = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = compress.compress(explicit(0x7FE00010, b"OB", 2 * 10**8))
    data += b"".join(compress.compress(bytes(10**7)) for _ in range(20)) + compress.flush()
    assert refused(server, data, context=DEFLATED_MR) == 0xC000


def test_millions_of_elements_are_refused(
    server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 500_000)
    tiny = struct.pack("<HH2sH", 0x7FE1, 0x1010, b"LO", 0)
    assert refused(server, tiny * 600_000) == 0xC000


def test_sequences_without_end_are_refused(server: ArchiveServer) -> None:
    deeper = explicit(0x00081111, b"SQ", 2**32 - 1) + struct.pack("<HHL", 0xFFFE, 0xE000, 2**32 - 1)
    assert refused(server, deeper * 200_000) == 0xC000


@pytest.mark.parametrize("length", [2**32 - 2, 2**31, 10**6])
def test_lengths_beyond_the_end_are_refused(server: ArchiveServer, length: int) -> None:
    assert refused(server, explicit(0x7FE00010, b"OB", length) + bytes(1000)) == 0xC000


def test_what_is_cut_short_is_refused(server: ArchiveServer, make: Make) -> None:
    data = data_set(make(SOPInstanceUID="1.2.3"))
    assert refused(server, data[:-2]) == 0xC000
    assert refused(server, deflated(data)[:-4], context=DEFLATED_MR) == 0xC000


# --- messages -----------------------------------------------------------------------------


def aborted(server: ArchiveServer, pieces: Iterable[bytes]) -> bool:
    """Whether the association ends by itself, of which nothing is left."""
    with nothing_is_left(server), associated(server) as connection:
        with suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
        received(connection, lambda _: False, 10)
        with suppress(OSError):
            return connection.recv(1) == b""
        return True


def test_an_identifier_without_end_is_not_held(server: ArchiveServer) -> None:
    begin = wire.pdata(3, wire.command(wire.C_FIND, wire.FIND), command=True)
    more = wire.pdata(3, bytes(16000), command=False, last=False)
    assert aborted(server, (begin, *[more] * 10_000))


def test_a_command_without_end_is_not_held(server: ArchiveServer) -> None:
    assert aborted(server, [wire.pdata(3, bytes(16000), command=True, last=False)] * 10_000)


def test_who_asks_without_waiting_for_answers_is_cut_off(server: ArchiveServer, make: Make) -> None:
    """Each would take a file, open until its turn comes."""
    data = data_set(make(SOPInstanceUID=TEMPLATE))
    assert aborted(server, [wire.message(MR, wire.C_STORE, data, TEMPLATE)] * 2000)


def test_an_instance_that_is_never_finished_is_dropped(server: ArchiveServer) -> None:
    begin = wire.pdata(MR, wire.command(wire.C_STORE, wire.CONTEXTS[MR][0], "1.2.3"), command=True)
    more = wire.pdata(MR, bytes(16000), command=False, last=False)
    with nothing_is_left(server), associated(server) as connection:
        connection.sendall(begin + more * 100)


def test_a_message_in_a_context_that_was_never_agreed_is_no_message(server: ArchiveServer) -> None:
    command = wire.command(wire.C_STORE, wire.CONTEXTS[MR][0], "1.2.3")
    assert aborted(server, [wire.pdata(99, command, command=True)])


@pytest.mark.parametrize("kind", [wire.FIND, wire.GET, wire.COMMITMENT])
def test_a_deflated_identifier_is_not_agreed_to(server: ArchiveServer, kind: UID) -> None:
    ae = AE()
    ae.add_requested_context(kind, DeflatedExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", server.port, ae_title="PEER")
    assert not association.is_established
