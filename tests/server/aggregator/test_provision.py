"""An aggregator's folder: whole or not there, and certificates that every client takes."""

import json
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from federation.config import read_aggregator
from federation.errors import ConfigError
from federation.iodeep.signature import SigningKey
from federation.pacs import Archive
from server.aggregator.authority import Authority
from server.aggregator.home import Home
from server.aggregator.provision import create_home, renew

IODEEP = str(Path(sys.executable).with_name("iodeep"))


def made(folder: Path, address: str = "localhost:8443", now: datetime | None = None) -> Home:
    return create_home(
        folder,
        name="example",
        address=address,
        lines=["MR/hippocampus/*"],
        now=now or datetime.now(UTC),
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return made(tmp_path_factory.mktemp("here") / "aggregator")


def test_the_document_is_whole(home: Home) -> None:
    document = read_aggregator(home.path)
    assert document.name == "example"
    assert (document.address, document.listen) == ("localhost:8443", "0.0.0.0:8443")
    assert document.lines == ("MR/hippocampus/*",)
    assert document.archive == f"folder:{home.path / 'archive'}"
    Archive(home.path / "archive").close()
    assert SigningKey.read(home.key)


def test_secrets_are_their_owners_alone(home: Home) -> None:
    secret = sorted(home.path.rglob("*.key"))
    assert [path.name for path in secret] == [
        "aggregator.key", "ca.key", "loopback.key", "server.key",
    ]  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
    folders = [home.path, *(path for path in home.path.iterdir() if path.is_dir())]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    assert not list(home.path.rglob(".*"))


@pytest.mark.parametrize("name", ["server", "loopback"])
def test_openssl_verifies_the_chain_strictly(home: Home, name: str) -> None:
    verified = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", "sslserver",
         "-verify_hostname", "localhost",
         "-CAfile", str(home.certificate("ca")), str(home.certificate(name))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.parametrize("name", ["server", "loopback"])
def test_a_client_of_python_connects(home: Home, name: str) -> None:
    assert handshake(home, name, home) == "TLSv1.3"


def test_a_client_that_knows_another_authority_does_not(home: Home, tmp_path: Path) -> None:
    other = made(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(home, "server", other)


def handshake(home: Home, name: str, authority: Home) -> str | None:
    """Over loopback; the TLS version."""
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.load_cert_chain(home.certificate(name), home.private_key(name))
    asking = ssl.create_default_context(cafile=authority.certificate("ca"))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            connection, _ = listening.accept()
            try:
                accepting.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            with (
                socket.create_connection(listening.getsockname()) as plain,
                asking.wrap_socket(plain, server_hostname="localhost") as secured,
            ):
                return secured.version()
        finally:
            thread.join(timeout=10)


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("federation.example.org:443", "DNS:federation.example.org"),
        ("192.0.2.7:8443", "IP Address:192.0.2.7"),
        ("[2001:db8::7]:443", "IP Address:2001:DB8:0:0:0:0:0:7"),
    ],
)
def test_the_certificate_is_of_the_addresses_host(address: str, host: str, tmp_path: Path) -> None:
    home = made(tmp_path / "here", address)
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", home.certificate("server")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert shown.splitlines()[1].strip() == host


@pytest.mark.parametrize("address", ["no port", "a b:443", "*.example.org:443", "münchen.de:443"])
def test_an_address_that_is_none_leaves_nothing(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        made(tmp_path / "here", address)
    assert not (tmp_path / "here").exists()


def test_a_folder_that_is_not_empty_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty: it holds 'mine'"):
        made(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_aggregator_that_is_there_is_not_touched(tmp_path: Path) -> None:
    home = made(tmp_path / "a")
    before = home.private_key("ca").read_bytes()
    with pytest.raises(ConfigError, match="holds an aggregator already; nothing was changed"):
        made(tmp_path / "a")
    assert home.private_key("ca").read_bytes() == before


def test_an_empty_folder_is_filled_from_within(tmp_path: Path) -> None:
    """As it may be a mount, or the only one that is ours."""
    before = tmp_path.stat().st_ino
    made(tmp_path)
    assert tmp_path.stat().st_ino == before


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Authority, "write", full)
    with pytest.raises(OSError, match="No space"):
        made(tmp_path / "here")
    assert list(tmp_path.iterdir()) == []


def test_an_expired_certificate_is_renewed_by_the_same_authority(tmp_path: Path) -> None:
    home = made(tmp_path / "here", now=datetime.now(UTC) - timedelta(days=1000))
    authority = home.certificate("ca").read_bytes()
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(home, "server", home)
    ends = renew(home, days=30, now=datetime.now(UTC))
    assert set(ends) == {"server", "loopback"}
    assert handshake(home, "server", home)
    assert home.certificate("ca").read_bytes() == authority
    assert home.private_key("server").stat().st_mode & 0o777 == 0o600


def test_no_certificate_outlasts_its_authority(tmp_path: Path) -> None:
    home = made(tmp_path / "here", now=datetime.now(UTC) - timedelta(days=3650))
    ends = renew(home, days=825, now=datetime.now(UTC))
    authority = x509.load_pem_x509_certificate(home.certificate("ca").read_bytes())
    assert ends["server"] == authority.not_valid_after_utc
    with pytest.raises(ConfigError, match=r"the authority in .* ended at"):
        renew(home, now=datetime.now(UTC) + timedelta(days=4))


def test_a_folder_of_something_else_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [IODEEP, "server", "renew", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "is no aggregator's folder: aggregator.toml is not there" in done.stderr


def test_from_init_to_revoke_as_typed(tmp_path: Path) -> None:
    def typed(*words: str, status: int = 0) -> dict[str, str]:
        done = subprocess.run(
            [IODEEP, *words, "--json"],
            cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout) if status == 0 else {"error": done.stderr}

    begun = typed("server", "init", "agg", "--name", "example", "--address", "localhost:8443",
                  "--line", "MR/hippocampus/*")  # fmt: skip
    invited = typed("server", "invite", "agg", "a")
    assert invited["fingerprint"] == begun["fingerprint"]
    refused = typed("site", "init", "a.invitation", status=1)
    assert "--fingerprint" in refused["error"]
    joining = typed("site", "init", "a.invitation", "--fingerprint", begun["fingerprint"])
    wrong = typed("server", "approve", "agg", "a/a.request", "--fingerprint",
                  begun["fingerprint"], status=1)  # fmt: skip
    assert "was read out" in wrong["error"]
    approved = typed(
        "server", "approve", "agg", "a/a.request", "--fingerprint", joining["fingerprint"]
    )
    assert (approved["state"], approved["node_key"]) == ("approved", joining["fingerprint"])
    typed("server", "revoke", "agg", "a", "--reason", "left")
    shown = subprocess.run(
        [IODEEP, "server", "sites", "agg"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert ["a", "revoked", "-", "-", joining["fingerprint"]] == shown.splitlines()[2].split()[:5]
