"""Throw-away certificates: an authority's, those it issued, and a stranger's."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)
_HOSTS = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Files in PEM: a certificate, and its private key of mode 0600."""

    cert: Path
    key: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificates:
    """All for localhost and 127.0.0.1, to connect and to be connected to.

    ca:       the authority's certificate
    server:   the archive's
    client:   ours
    expired:  of the authority, until yesterday
    other_ca: another authority's certificate
    other:    of that one
    """

    ca: Path
    server: Identity
    client: Identity
    expired: Identity
    other_ca: Path
    other: Identity

    def context(self) -> ssl.SSLContext:
        """For who connects to an archive that wants to see the client's certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.client.cert, self.client.key)
        return context


def write_certificates(folder: Path) -> Certificates:
    """Make authorities and certificates, and write them into a folder."""
    ours, other = _Authority(folder, "ca"), _Authority(folder, "other-ca")
    return Certificates(
        ca=ours.cert,
        server=ours.issue("server"),
        client=ours.issue("client"),
        expired=ours.issue("expired", ends_in=-_DAY),
        other_ca=other.cert,
        other=other.issue("other"),
    )


class _Authority:
    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = _named(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self.cert = folder / f"{name}.crt"
        usage = x509.KeyUsage(
            key_cert_sign=True, crl_sign=True, digital_signature=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            self._begun(self._name, self._key, ends_in=30 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, ends_in: timedelta = 30 * _DAY) -> Identity:
        """A certificate that holds for both sides: an archive also connects, to report."""
        key = ec.generate_private_key(ec.SECP256R1())
        sides = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier)
        certificate = (
            self._begun(_named(name), key, ends_in=ends_in)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(_HOSTS), critical=False)
            .add_extension(x509.ExtendedKeyUsage(sides), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        own = Identity(cert=self._folder / f"{name}.crt", key=self._folder / f"{name}.key")
        own.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        own.key.touch(mode=0o600)
        own.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return own

    def _begun(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ends_in: timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 30 * _DAY)
            .not_valid_after(now + ends_in)
            .add_extension(identifier, critical=False)
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"IODeep test {name}")])
