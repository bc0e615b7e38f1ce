"""nginx before the SuperLink: whose calls it passes, how much of them, and from how many."""

import signal
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from federation.errors import ConfigError
from server.aggregator.edge import command, write_approved, write_room
from server.aggregator.home import Home
from server.aggregator.provision import create_home
from tests.peers import peer
from tests.peers.process import free_port, running

KIB, MIB = 1 << 10, 1 << 20
PUSH_OBJECT, PUSH_MESSAGES = "/v1/fleet/push-object", "/v1/fleet/push-messages"
PULL_MESSAGES, ACTIVATE = "/v1/fleet/pull-messages", "/v1/fleet/activate-node"
SITE, NEIGHBOUR = "127.0.0.1", "127.0.0.2"


def new_key() -> bytes:
    return public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key())


class SuperLink:
    """In its place: notes how many bytes come for which call, and answers 200."""

    def __init__(self, home: Home) -> None:
        self.calls: list[tuple[str, int]] = []
        calls = self.calls

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                calls.append((self.path, len(self.rfile.read(length))))
                with suppress(OSError):  # who was slow has gone
                    self.send_response(200)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing: pytest shows what fails."""

        self.server = ThreadingHTTPServer(("127.0.0.1", home.document.loopback.superlink), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(home.certificate("loopback"), home.private_key("loopback"))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


class Front:
    """An nginx that runs, the site whose key is approved, and what stands for the SuperLink."""

    def __init__(self, home: Home, stack: ExitStack) -> None:
        self.home = home
        self.port = int(home.document.listen.rpartition(":")[2])
        self.key = new_key()
        self.superlink = SuperLink(home)
        stack.callback(self.superlink.server.server_close)
        stack.callback(self.superlink.server.shutdown)
        words = command(home)
        write_approved(home, [new_key(), self.key])
        log = home.nginx / "nginx.log"
        self._process = stack.enter_context(running(words, log=log, answers=self._answers))

    def connect(self, address: str = SITE) -> HTTPSConnection:
        """From an address of this machine."""
        context = ssl.create_default_context(cafile=self.home.certificate("ca"))
        return HTTPSConnection(
            "localhost", self.port, context=context, timeout=20, source_address=(address, 0)
        )

    def begin(
        self, path: str, key: bytes | None, length: int, address: str = SITE
    ) -> HTTPSConnection:
        """A call whose body is still to come."""
        connection = self.connect(address)
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", "application/protobuf")
        connection.putheader("Content-Length", str(length))
        if key is not None:
            connection.putheader(FLEET_HTTP_PUBLIC_KEY_HEADER, b64encode(key).decode())
        connection.endheaders()
        return connection

    def post(
        self, path: str, key: bytes | None, length: int = 0, address: str = SITE
    ) -> tuple[int, str]:
        """The answer's status, and what it says."""
        connection = self.begin(path, key, length, address)
        with suppress(OSError):  # who is refused before the body came
            connection.send(bytes(length))
        answer = connection.getresponse()
        said = answer.read().decode()
        connection.close()
        return answer.status, said

    def status(self, path: str, key: bytes | None, length: int = 0, address: str = SITE) -> int:
        return self.post(path, key, length, address)[0]

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def _answers(self) -> bool:
        with suppress(OSError):
            return self.status("/", None) == 403
        return False


def until(condition: Callable[[], bool], within_s: float = 10) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    peer("nginx")
    port = free_port()
    home = create_home(
        tmp_path_factory.mktemp("front") / "aggregator",
        name="example", address=f"localhost:{port}", now=datetime.now(UTC),
    )  # fmt: skip
    document = home.path / "aggregator.toml"
    document.write_text(document.read_text().replace("8470", str(free_port())))
    with ExitStack() as stack:
        yield Front(home, stack)


@pytest.mark.parametrize("name", ["a[b", "a*", "a?", "a;b"])
def test_a_folder_that_nginx_would_not_find_is_named(name: str, tmp_path: Path) -> None:
    peer("nginx")
    home = create_home(tmp_path / name, name="x", address="localhost:1", now=datetime.now(UTC))
    with pytest.raises(ConfigError, match="has a character that nginx does not read in a path"):
        command(home)


def test_a_call_is_passed_by_the_key_of_an_approved_site(front: Front) -> None:
    for path in (PUSH_OBJECT, PUSH_MESSAGES, PULL_MESSAGES, ACTIVATE):
        assert front.status(path, front.key, 100) == 200
        assert front.superlink.calls[-1] == (path, 100)


@pytest.mark.parametrize("path", [PUSH_OBJECT, PUSH_MESSAGES, PULL_MESSAGES, ACTIVATE])
@pytest.mark.parametrize("key", [None, new_key(), b"", b'" site; \n'])
def test_what_a_stranger_sends_reaches_nobody(front: Front, path: str, key: bytes | None) -> None:
    """However large it is, as parsing it is what costs."""
    before = len(front.superlink.calls)
    assert front.status(path, key, 30 * MIB) == (412 if key and path == ACTIVATE else 401)
    assert len(front.superlink.calls) == before


def test_a_supernode_that_is_not_approved_ends_as_at_flowers_superlink(front: Front) -> None:
    status, said = front.post(ACTIVATE, new_key(), 100)
    told, theirs = FlowerError.from_json(said), ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED
    assert told is not None
    assert (told.code, told.message) == (theirs, API_ERROR_MAP[theirs].public_message)
    assert status == API_ERROR_MAP[theirs].http_status_code


@pytest.mark.parametrize(
    ("path", "most"), [(PUSH_OBJECT, 32 * MIB), (PUSH_MESSAGES, MIB), (PULL_MESSAGES, 16 * KIB)]
)
def test_a_site_sends_no_more_than_a_call_needs(front: Front, path: str, most: int) -> None:
    assert front.status(path, front.key, most) == 200
    assert front.status(path, front.key, most + 1) == 413


def test_a_message_of_thousands_of_tensors_is_announced_in_what_a_call_may_have() -> None:
    arrays = {f"layers.{n}.weight": Array("F32", (4,), "raw", b"%016d" % n) for n in range(5000)}
    content = RecordDict({"iodeep": ConfigRecord({"json": ""}), "arrays": ArrayRecord(arrays)})
    request = PushMessagesRequest(message_object_trees=[get_object_tree(content)])
    assert request.ByteSize() < MIB


def test_approval_and_revocation_are_taken_up_without_a_restart(front: Front) -> None:
    new = new_key()
    assert write_approved(front.home, [new, front.key])
    assert not write_approved(front.home, [front.key, new])
    front.reload()
    until(lambda: front.status(PULL_MESSAGES, new) == 200)
    assert write_approved(front.home, [front.key])
    front.reload()
    until(lambda: front.status(PULL_MESSAGES, new) == 401)
    assert front.status(PULL_MESSAGES, front.key) == 200


def test_a_full_disk_takes_no_tensors_and_all_else(front: Front) -> None:
    assert write_room(front.home, is_full=True)
    front.reload()
    until(lambda: front.status(PUSH_OBJECT, front.key) == 507)
    assert front.status(PUSH_MESSAGES, front.key) == 200
    assert write_room(front.home, is_full=False)
    assert not write_room(front.home, is_full=False)
    front.reload()
    until(lambda: front.status(PUSH_OBJECT, front.key) == 200)


def test_silent_connections_keep_nobody_out_and_are_closed(front: Front) -> None:
    with ExitStack() as stack:
        silent = []
        for _ in range(2000):
            one = stack.enter_context(socket.create_connection((SITE, front.port)))
            one.sendall(b"\x16\x03\x01")  # of a handshake: those without make room for others
            silent.append(one)
        begun = time.monotonic()
        assert front.status(PULL_MESSAGES, front.key, address=NEIGHBOUR) == 200
        silent[0].settimeout(30)
        with suppress(ConnectionResetError):
            assert silent[0].recv(1) == b""
        assert time.monotonic() - begun < 20


def test_slow_uploads_of_one_address_keep_no_other_out(front: Front) -> None:
    with ExitStack() as stack:
        slow = [front.begin(PUSH_OBJECT, front.key, MIB) for _ in range(40)]
        for one in slow:
            stack.callback(one.close)
        until(lambda: front.status(PULL_MESSAGES, front.key) == 503)
        assert front.status(PULL_MESSAGES, front.key, address=NEIGHBOUR) == 200
