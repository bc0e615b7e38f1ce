"""The way to the aggregator: what is wrong with it is said before Flower ends without a word."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from clients.joining.link import AggregatorAway, check_link
from federation.config import AggregatorTable
from federation.errors import ConfigError, FlowerError
from tests.peers.certificates import Certificates, Identity
from tests.peers.process import free_port


class Forbidding(BaseHTTPRequestHandler):
    """As nginx answers: 403, with the date."""

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving(own: Identity | None) -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Forbidding)
    if own is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own.cert, own.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def table(port: int, ca: Path, host: str = "127.0.0.1") -> AggregatorTable:
    return AggregatorTable(address=f"{host}:{port}", ca=ca, key=Path("node.key"))


def test_who_answers_as_certified_is_let_in(certificates: Certificates) -> None:
    with serving(certificates.server) as port:
        check_link(table(port, certificates.ca))


@pytest.mark.parametrize(
    ("own", "ca", "said"),
    [
        ("other", "ca", "did not certify it"),
        ("expired", "ca", "has expired.*server renew"),
        ("server", "other_ca", "did not certify it"),
    ],
)
def test_a_certificate_that_does_not_do_is_said(
    certificates: Certificates, own: str, ca: str, said: str
) -> None:
    with (
        serving(getattr(certificates, own)) as port,
        pytest.raises(FlowerError, match=said) as error,
    ):
        check_link(table(port, getattr(certificates, ca)))
    assert not isinstance(error.value, AggregatorAway)


def test_a_certificate_of_another_machine_is_said(certificates: Certificates) -> None:
    with (
        serving(certificates.server) as port,
        pytest.raises(FlowerError, match="another machine's"),
    ):
        check_link(table(port, certificates.ca, host="127.1"))  # the same, by a name it lacks


@pytest.mark.parametrize(
    ("off", "said"), [(timedelta(hours=1), "3[56].. s ahead of"), (-timedelta(hours=1), "behind")]
)
def test_a_clock_that_is_off_by_an_hour_is_said(
    certificates: Certificates, off: timedelta, said: str
) -> None:
    with serving(certificates.server) as port, pytest.raises(FlowerError, match=said):
        check_link(table(port, certificates.ca), now=datetime.now(UTC) + off)


def test_a_clock_that_is_a_minute_behind_will_do(certificates: Certificates) -> None:
    with serving(certificates.server) as port:
        check_link(table(port, certificates.ca), now=datetime.now(UTC) - timedelta(minutes=1))


def test_nobody_there_may_come_back(certificates: Certificates) -> None:
    with pytest.raises(AggregatorAway, match=r"does not answer.*firewall"):
        check_link(table(free_port(), certificates.ca))
    with pytest.raises(AggregatorAway, match="cannot be resolved"):
        check_link(table(443, certificates.ca, host="aggregator.invalid"))


def test_no_tls_is_said(certificates: Certificates) -> None:
    with serving(None) as port, pytest.raises(FlowerError, match="does not speak TLS"):
        check_link(table(port, certificates.ca))


def test_a_file_that_holds_no_authority_is_said(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(ConfigError, match="came with the invitation"):
        check_link(table(443, tmp_path / "ca.crt"))
