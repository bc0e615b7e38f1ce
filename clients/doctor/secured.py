"""Whether others can read what travels to an archive, and how long its certificates last."""

import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from clients.doctor.finding import Finding, Subject
from federation.pacs.address import Address, FolderAddress, WebAddress
from federation.pacs.tls import Tls

_SOON = timedelta(days=14)


def examine_tls(subject: Subject, to: Address, *, now: datetime, timeout_s: float) -> Finding:
    """Of an archive that answers at an address."""
    if isinstance(to, FolderAddress):
        return subject.passed("tls", "not needed: no network is between")
    if isinstance(to, WebAddress):
        url = urlsplit(to.url)
        host, port = url.hostname or "", url.port or 443
    else:
        host, port = to.host, to.port
    if to.tls is None:
        return _unsecured(subject, host)
    ends = {"the archive's certificate": _end_of_theirs(to.tls, host, port, timeout_s)}
    if to.tls.cert is not None:
        ends["our certificate"] = _end_of_ours(to.tls.cert)
    known = {whose: end for whose, end in ends.items() if end is not None}
    seen = "TLS; " + "; ".join(
        f"{whose} is valid until {end:%Y-%m-%d}" for whose, end in known.items()
    )
    if any(end - now < _SOON for end in known.values()):
        return subject.warned(
            "tls", seen, "have it renewed in time: without it nothing is exchanged"
        )
    return subject.passed("tls", seen)


def _unsecured(subject: Subject, host: str) -> Finding:
    if _is_this_machine(host):
        return subject.passed("tls", "not needed: nothing leaves this machine")
    return subject.warned(
        "tls",
        "none: names and images of patients travel readable for others",
        "have the archive speak TLS, and add tls=CA.crt to its address",
    )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _end_of_theirs(tls: Tls, host: str, port: int, timeout_s: float) -> datetime | None:
    """None where it cannot be had: it was valid a moment ago, and that must do."""
    try:
        with (
            socket.create_connection((host, port), timeout_s) as connection,
            tls.client().wrap_socket(connection, server_hostname=host) as secured,
        ):
            end = (secured.getpeercert() or {}).get("notAfter")
    except OSError:
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(end)), UTC)


def _end_of_ours(cert: Path) -> datetime | None:
    try:
        return x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
