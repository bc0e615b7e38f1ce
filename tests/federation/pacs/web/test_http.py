"""Connections to web services, reached and not, and their limits."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.errors import PacsUnreachable
from federation.pacs import Gateway, Limits, open_gateway
from tests.federation.pacs.conftest import Make, once
from tests.federation.pacs.web.web_archive import (
    HERE,
    JSON,
    KEYS,
    MULTIPART,
    QUICK,
    Reply,
    Request,
    WebArchive,
    in_turn,
    message,
    status,
    web_archive,
)

# --- reached or not --------------------------------------------------------------------------


@pytest.mark.parametrize("code", [408, 429, 502, 503, 504])
def test_a_busy_archive_is_asked_again(three: WebArchive, code: int) -> None:
    three.search = in_turn(status(code), status(code), three._search)
    with web_archive(three), open_gateway(three.address, limits=QUICK) as gateway:
        assert len(gateway.find("IMAGE", KEYS)) == 3
    assert len(three.seen) == 3


def test_a_busy_archive_is_given_up_after_so_many_attempts() -> None:
    with web_archive(WebArchive(search=status(503))) as archive:
        with (
            open_gateway(archive.address, limits=QUICK) as gateway,
            pytest.raises(PacsUnreachable, match=r"answered 503 \(Service Unavailable\).*busy"),
        ):
            gateway.echo()
        assert len(archive.seen) == 3


def test_an_archive_that_falls_silent_is_waited_for_within_the_limit() -> None:
    done = threading.Event()
    with web_archive(WebArchive(search=lambda request: done.wait(30) and None)) as archive:
        begin = time.monotonic()
        with (
            open_gateway(archive.address, limits=once(0.3)) as gateway,
            pytest.raises(PacsUnreachable, match=r"did not go on with a search for 0\.3 s"),
        ):
            gateway.echo()
        assert time.monotonic() - begin < 2
        done.set()


def test_who_does_not_listen_or_speak_http_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer_otherwise() -> None:
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.sendall(b"\x03\x00\x00\x00\x00\x04\x00\x00\x00\x00")  # A-ASSOCIATE-RJ
            connection.close()

        threading.Thread(target=answer_otherwise, daemon=True).start()
        with (
            open_gateway(f"dicomweb+http://127.0.0.1:{port}", limits=once(2)) as gateway,
            pytest.raises(PacsUnreachable, match="is not HTTP"),
        ):
            gateway.echo()
    for address, said in (
        (f"dicomweb+http://127.0.0.1:{port}", "nothing listens"),
        ("dicomweb+http://no-such-host.invalid", "Are host and port right"),
    ):
        with (
            open_gateway(address, limits=once(2)) as gateway,
            pytest.raises(PacsUnreachable, match=said),
        ):
            gateway.echo()


@pytest.mark.parametrize("length", [5, 30, 60])
def test_an_answer_that_breaks_off_in_its_headers_is_asked_for_again(
    three: WebArchive, length: int
) -> None:
    def cut(request: Request) -> None:
        headers = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
        request.wfile.write(headers[:length])
        request.close_connection = True

    three.search = in_turn(cut, cut, three._search)
    with web_archive(three), open_gateway(three.address, limits=QUICK) as gateway:
        assert len(gateway.find("IMAGE", KEYS)) == 3
    assert len(three.seen) == 3


@pytest.mark.parametrize("body", [b"", b"[{"])
def test_an_answer_that_ends_with_its_connection_may_have_broken_off(
    three: WebArchive, body: bytes
) -> None:
    def unframed(body: bytes) -> Reply:
        def reply(request: Request) -> None:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nConnection: close\r\n\r\n"
            request.wfile.write(head.encode() + body)
            request.close_connection = True

        return reply

    three.search = in_turn(unframed(body), unframed(b"[]"))
    with web_archive(three), open_gateway(three.address, limits=QUICK) as gateway:
        assert gateway.find("IMAGE", KEYS) == []
    assert len(three.seen) == 2


def test_a_connection_that_was_ended_in_between_is_opened_anew(three: WebArchive) -> None:
    def last(request: Request) -> None:
        three._search(request)
        request.close_connection = True

    three.search = last
    with web_archive(three), open_gateway(three.address, limits=once(2)) as gateway:
        for _ in range(3):
            gateway.find("IMAGE", KEYS)
            time.sleep(0.05)


def test_release_ends_the_connections_until_the_next_question(three: WebArchive) -> None:
    with web_archive(three), open_gateway(three.address) as gateway:
        gateway.echo()
        gateway.echo()
        gateway.release()
        gateway.echo()
        gateway.close()
        gateway.close()
    clients = [request.client_address for request in three.seen]
    assert clients[0] == clients[1] != clients[2]


def interrupted(act: Callable[[], object], started: threading.Event) -> float:
    """Seconds between Ctrl-C and its coming through."""
    at: list[float] = []

    def interrupt() -> None:
        started.wait(10)
        time.sleep(0.1)
        at.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        act()
    return time.monotonic() - at[0]


def test_ctrl_c_ends_fetching_and_storing_at_once(
    three: WebArchive, folder: Path, make: Make
) -> None:
    started, done = threading.Event(), threading.Event()

    def stuck(request: Request) -> None:
        part = message([next(iter(three.instances.values()))])
        request.send_response(200)
        request.send_header("Content-Type", MULTIPART)
        request.send_header("Content-Length", str(2 * len(part)))
        request.end_headers()
        request.wfile.write(part[:-200])
        started.set()
        done.wait(30)

    def silent(_: Request) -> None:
        started.set()
        done.wait(30)

    three.retrieve_series = three.retrieve_instance = stuck
    three.store = silent
    with web_archive(three), open_gateway(three.address) as gateway:
        assert interrupted(lambda: gateway.fetch(folder, **HERE), started) < 1
        assert list(folder.iterdir()) == []
        started.clear()
        paths = [make(), make()]
        assert interrupted(lambda: gateway.store(paths), started) < 1
        assert not [one for one in threading.enumerate() if one.name.startswith("iodeep-pacs")]
        gateway.echo()
        done.set()


# --- limits ----------------------------------------------------------------------------------


def test_bytes_are_told_and_held_back_both_ways(
    three: WebArchive, folder: Path, make: Make
) -> None:
    sent = make(PixelData=bytes(1_000_000))
    three.instances = {sent.stem: sent.read_bytes()}
    told: list[int] = []
    limits = Limits(mb_per_s=4)

    def timed(act: Callable[[Gateway], object]) -> float:
        with open_gateway(three.address, limits=limits, moved=told.append) as gateway:
            begin = time.monotonic()
            act(gateway)
            return time.monotonic() - begin

    with web_archive(three):
        for act in (
            lambda gateway: gateway.store([sent]),
            lambda gateway: gateway.fetch(folder, **HERE, instance=sent.stem),
        ):
            told.clear()
            assert 0.1 < timed(act) < 2
            assert 1_000_000 < sum(told) < 1_010_000


def test_no_more_connections_than_allowed_are_open(make: Make) -> None:
    at_once: list[int] = []
    busy = threading.Semaphore(100)
    archive = WebArchive()

    def store(request: Request) -> None:
        with busy:
            at_once.append(100 - busy._value)
            time.sleep(0.05)
        archive._store(request)

    archive.store = store
    small = [make() for _ in range(12)]
    large = [make(PixelData=bytes(5_000_000)) for _ in range(5)]
    with (
        web_archive(archive),
        open_gateway(archive.address, limits=Limits(storing=3)) as gateway,
    ):
        gateway.store(small)
        assert max(at_once) == 1  # they are soon sent
        gateway.store(large)
        assert max(at_once) == 3
