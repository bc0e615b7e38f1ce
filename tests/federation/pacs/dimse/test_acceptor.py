"""Connections to the embedded archive: who gets in, and that nobody keeps the others out."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from federation.errors import PacsRefused, PacsUnreachable
from federation.pacs import Archive, ArchiveServer, open_gateway
from federation.pacs.dimse import acceptor, visitor
from federation.pacs.dimse.admission import Caller
from federation.pacs.tls import Tls
from tests.federation.pacs.conftest import once
from tests.peers.certificates import Certificates

CALLER_UNKNOWN = (1, 1, 3)
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


@contextmanager
def associated(server: ArchiveServer, calling: str = "ME") -> Iterator[Association]:
    """An association, or what became of the attempt."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.connection_timeout = ae.network_timeout = 10
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", server.port, ae_title="PEER")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def rejection(association: Association) -> tuple[int, int, int]:
    assert association.is_rejected
    primitive: Any = association.acceptor.primitive
    return primitive.result, primitive.result_source, primitive.diagnostic


def answers(server: ArchiveServer, query: str = "") -> bool:
    with open_gateway(f"{server.address}{query}", limits=once(5)) as gateway:
        gateway.echo()
    return True


def connected(server: ArchiveServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 5)


def ends(connection: socket.socket, within_s: float) -> bool:
    """Whether the other side closes, whatever it says before."""
    connection.settimeout(within_s)
    try:
        while connection.recv(1000):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def takes(connection: socket.socket, data: bytes) -> bool:
    """Whether data can be sent."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


# --- who may associate --------------------------------------------------------------------


def test_an_unknown_title_is_rejected_and_named_to_nobody_else(archive: Archive) -> None:
    callers = [Caller.parse("CT1"), Caller.parse("CT2@127.0.0.0/8")]
    with ArchiveServer(archive, ae_title="PEER", callers=callers) as server:
        for title in ("CT1", "CT2"):
            with associated(server, title) as association:
                assert association.is_established
        with associated(server, "CT3") as association:
            assert rejection(association) == CALLER_UNKNOWN
        with (
            open_gateway(f"{server.address}?calling=CT3") as gateway,
            pytest.raises(PacsRefused, match="does not know our AE title"),
        ):
            gateway.echo()


def test_a_title_from_elsewhere_is_rejected(archive: Archive) -> None:
    callers = [Caller.parse("CT1@10.1.0.0/16"), Caller.parse("CT2")]
    with (
        ArchiveServer(archive, ae_title="PEER", callers=callers) as server,
        associated(server, "CT1") as association,
    ):
        assert rejection(association) == CALLER_UNKNOWN


def test_an_unknown_address_is_rejected_before_it_says_anything(archive: Archive) -> None:
    callers = [Caller.parse("CT1@10.1.0.0/16")]
    with ArchiveServer(archive, ae_title="PEER", callers=callers) as server:
        with connected(server) as connection:
            assert connection.recv(100) == struct.pack(">BBLBBBB", 3, 0, 4, 0, *CALLER_UNKNOWN)
            assert ends(connection, 5)
        with associated(server, "CT1") as association:
            assert rejection(association) == CALLER_UNKNOWN
        assert not server._acceptor._visitors


def test_ipv6_is_listened_at_and_known(archive: Archive) -> None:
    with ArchiveServer(
        archive, ae_title="PEER", host="::1", callers=[Caller.parse("IODEEP@::1")]
    ) as server:
        assert server.address == f"dimse://PEER@[::1]:{server.port}"
        assert answers(server)


# --- nobody keeps the others out ----------------------------------------------------------


def test_more_associations_than_there_are_places_are_rejected_for_the_moment(
    server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "MAX_ASSOCIATIONS", 3)
    with ExitStack() as stack:
        for _ in range(3):
            assert stack.enter_context(associated(server)).is_established
        with associated(server) as another:
            assert rejection(another) == LOCAL_LIMIT_EXCEEDED
    wait_until(lambda: not server._acceptor._visitors)
    with associated(server) as another:
        assert another.is_established


def wait_until(so: Any, within_s: float = 5) -> None:
    until = time.monotonic() + within_s
    while not so():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_who_says_nothing_takes_no_place_and_is_cut_off(
    server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "MAX_ASSOCIATIONS", 2)
    monkeypatch.setattr(visitor, "REQUEST_S", 1.0)
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(server)) for _ in range(20)]
        assert answers(server)
        assert all(ends(connection, 5) for connection in silent)


@pytest.mark.parametrize("begin", [b"\x01", b"\x01\x00\x00\x00\x01\x00" + b"\0" * 100])
def test_who_asks_drop_by_drop_is_cut_off(
    server: ArchiveServer, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(visitor, "REQUEST_S", 1.0)
    with connected(server) as connection:
        connection.sendall(begin)
        wait_until(lambda: not takes(connection, b"\0"))
        assert answers(server)
    wait_until(lambda: not server._acceptor._visitors)


def test_who_stops_within_a_pdu_is_cut_off(
    server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitor, "PDU_S", 1.0)
    with associated(server) as association:
        raw: Any = association.dul.socket
        raw.socket.sendall(b"\x04\x00\x00\x00\x10\x00" + b"\0" * 10)
        wait_until(lambda: not association.is_established)
    wait_until(lambda: not server._acceptor._visitors)


def test_one_too_many_that_wait_replaces_the_oldest(
    server: ArchiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "MAX_WAITING", 5)
    with ExitStack() as stack:
        first = stack.enter_context(connected(server))
        others = [stack.enter_context(connected(server)) for _ in range(4)]
        assert not ends(first, 0.3)
        others.append(stack.enter_context(connected(server)))
        assert ends(first, 5)
        assert answers(server)
        assert sum(ends(connection, 0.1) for connection in others) == 1


def test_closing_ends_what_goes_on(archive: Archive) -> None:
    before = threading.active_count()
    with ArchiveServer(archive, ae_title="PEER") as server:
        connections = [connected(server) for _ in range(3)]
        with associated(server) as association:
            server.close()
            assert all(ends(connection, 5) for connection in connections)
            wait_until(lambda: not association.is_established)
    for connection in connections:
        connection.close()
    wait_until(lambda: threading.active_count() <= before)


# --- TLS ----------------------------------------------------------------------------------


@pytest.fixture
def secured(archive: Archive, certificates: Certificates) -> Iterator[ArchiveServer]:
    own = certificates.server
    tls = Tls(ca=certificates.ca, cert=own.cert, key=own.key)
    with ArchiveServer(archive, ae_title="PEER", tls=tls) as server:
        yield server


def credentials(certificates: Certificates) -> str:
    own = certificates.client
    return f"?tls={certificates.ca}&cert={own.cert}&key={own.key}"


def test_who_has_a_certificate_is_let_in(
    secured: ArchiveServer, certificates: Certificates
) -> None:
    assert answers(secured, credentials(certificates))


def test_who_has_none_or_a_stranger_s_is_not(
    secured: ArchiveServer, certificates: Certificates
) -> None:
    stranger = certificates.other
    with_other = f"?tls={certificates.ca}&cert={stranger.cert}&key={stranger.key}"
    for query in (f"?tls={certificates.ca}", with_other):
        with pytest.raises(PacsUnreachable):
            answers(secured, query)
    assert answers(secured, credentials(certificates))


def test_without_an_authority_everybody_may_come_over_tls(
    archive: Archive, certificates: Certificates
) -> None:
    own = certificates.server
    with ArchiveServer(archive, ae_title="PEER", tls=Tls(cert=own.cert, key=own.key)) as server:
        assert answers(server, f"?tls={certificates.ca}")
        with pytest.raises(PacsUnreachable):
            answers(server)


def test_who_hangs_in_the_handshake_keeps_nobody_out(
    secured: ArchiveServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitor, "REQUEST_S", 2.0)
    hello = ssl.create_default_context(cafile=certificates.ca)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        hello.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    begun = outgoing.read()
    with ExitStack() as stack:
        hanging = [stack.enter_context(connected(secured)) for _ in range(10)]
        for number, connection in enumerate(hanging):
            connection.sendall(begun[: len(begun) * number // 10])
        begin = time.monotonic()
        assert answers(secured, credentials(certificates))
        assert time.monotonic() - begin < 1.5
        assert all(ends(connection, 5) for connection in hanging)
    wait_until(lambda: not secured._acceptor._visitors)


def test_who_shakes_hands_and_says_nothing_is_cut_off(
    secured: ArchiveServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitor, "REQUEST_S", 1.0)
    with (
        connected(secured) as plain,
        certificates.context().wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        assert ends(connection, 5)


def test_an_unknown_address_gets_no_handshake(archive: Archive, certificates: Certificates) -> None:
    own = certificates.server
    with (
        ArchiveServer(
            archive,
            ae_title="PEER",
            tls=Tls(cert=own.cert, key=own.key),
            callers=[Caller.parse("*@10.1.0.0/16")],
        ) as server,
        connected(server) as connection,
    ):
        assert connection.recv(100) == b""
