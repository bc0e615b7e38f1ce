"""The aggregator's own authority (X.509, RFC 5280), and what it certifies."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import ConfigError
from federation.secret import read_secret
from federation.whole import SECRET, write_over
from server.aggregator.home import Home

LOOPBACK = ("127.0.0.1", "localhost")

_YEARS_10 = timedelta(days=3653)
_EARLIER = timedelta(days=1)  # than now, for machines whose clocks are behind
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate that certifies others, and its private key (ECDSA P-256)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str, *, now: datetime) -> Self:
        """A new one, for ten years, of the aggregator called ``name``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _named(f"IODeep authority of {name}")
        certificate = (
            _begun(subject, subject, key, key.public_key(), now, now + _YEARS_10)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def read(cls, home: Home) -> Self:
        """The one of an aggregator's folder. Raises :class:`ConfigError`."""
        path = home.private_key("ca")
        data = read_secret(path, what="key")
        try:
            key = serialization.load_pem_private_key(data, password=None)
            certificate = x509.load_pem_x509_certificate(home.certificate("ca").read_bytes())
        except OSError as error:
            raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}, or the certificate beside it, is not in PEM") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{path} is a {type(key).__name__}; expected an ECDSA key")
        if key.public_key() != certificate.public_key():
            raise ConfigError(f"{path} is not the key of {home.certificate('ca')}; restore both")
        return cls(certificate, key)

    @property
    def ends(self) -> datetime:
        return self.certificate.not_valid_after_utc

    def write(self, home: Home) -> None:
        _write(home, "ca", self.key, self.certificate)

    def issue(
        self, home: Home, name: str, hosts: Sequence[str], *, days: int, now: datetime
    ) -> datetime:
        """Make a server's certificate with a new key, in place of what there is; when it ends.

        It ends with the authority at the latest. Raises :class:`ConfigError` for a host that is
        neither a name nor an address, and where the authority has ended.
        """
        if now >= self.ends:
            raise ConfigError(
                f"the authority in {home.certificate('ca')} ended at {self.ends:%Y-%m-%d}; make a "
                "new aggregator with `iodeep server init`, and invite its sites anew"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        ends = min(now + timedelta(days=days), self.ends)
        issuer = self.certificate.subject
        certificate = (
            _begun(_named(f"IODeep {name}"), issuer, self.key, key.public_key(), now, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([*map(_host, hosts)]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        _write(home, name, key, certificate)
        return certificate.not_valid_after_utc


def shown_certificate(home: Home) -> bytes | None:
    """The certificate that sites see (PEM); None while it is written anew, and is not the key's."""
    try:
        data = home.certificate("server").read_bytes()
        key = serialization.load_pem_private_key(home.private_key("server").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(data)
    except (OSError, ValueError, TypeError):
        return None
    return data if key.public_key() == certificate.public_key() else None


def host_of(address: str) -> str:
    """The host of ``HOST:PORT``, an IPv6 address without its brackets."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _DNS.fullmatch(host):
        raise ConfigError(
            f"{host!r:.100} is neither a host's name nor an address; a name with other letters "
            "than a to z is written as xn--…"
        )
    return x509.DNSName(host)


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    ends: datetime,
) -> x509.CertificateBuilder:
    """With both key identifiers, without which Python 3.13 refuses a certificate."""
    own = x509.SubjectKeyIdentifier.from_public_key(key)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(ends)
        .add_extension(own, critical=False)
        .add_extension(authority, critical=False)
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        key_cert_sign=certificates, crl_sign=certificates, digital_signature=not certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _write(
    home: Home, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_over(home.private_key(name), private, SECRET)
    write_over(home.certificate(name), certificate.public_bytes(serialization.Encoding.PEM))
