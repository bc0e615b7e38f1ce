"""TLS for associations and DICOMweb (PS3.15 Annex B): whom to trust, and who we are."""

import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from federation.errors import ConfigError
from federation.secret import read_secret

SYSTEM = "system"
"""Stands for the certificates that the operating system trusts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """Files in PEM. ``cert`` and ``key`` come together or not at all.

    ca:   the certificates to trust; None for those that the system trusts
    cert: our own certificate, with those between it and its authority
    key:  its private key
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def beside(self, folder: Path) -> Self:
        """The same, with files that are named relative to ``folder``."""
        return replace(
            self,
            ca=self.ca and folder / self.ca,
            cert=self.cert and folder / self.cert,
            key=self.key and folder / self.key,
        )

    def client(self) -> ssl.SSLContext:
        """For whoever connects: the other's certificate is checked, and its host name too.

        Raises :class:`ConfigError` for files that cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)  # of a file, no others beside
        except (OSError, ssl.SSLError) as error:
            raise _unusable(f"{self.ca} holds no certificates to trust", error) from error
        self._identify(context)
        return context

    def server(self) -> ssl.SSLContext:
        """For whoever listens: with a ``ca``, only who has a certificate of it may connect.

        Raises :class:`ConfigError` for files that cannot be used.
        """
        if self.cert is None:
            raise ConfigError("who listens over TLS needs a certificate and its key")
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise _unusable(f"{self.ca} holds no certificates to trust", error) from error
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        self._identify(context)
        return context

    def _identify(self, context: ssl.SSLContext) -> None:
        if self.cert is None or self.key is None:
            return
        read_secret(self.key, what="private key")
        try:
            context.load_cert_chain(self.cert, self.key, password=_no_password)
        except (OSError, ssl.SSLError, ConfigError) as error:
            raise _unusable(
                f"{self.cert} and {self.key} are no certificate and its key without a password",
                error,
            ) from error


def _no_password() -> str:
    """Asked where a key has a password: better an error than a prompt."""
    raise ConfigError("a private key has a password")


def _unusable(what: str, error: Exception) -> ConfigError:
    why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return ConfigError(f"TLS cannot be set up: {what} ({why}); expected files in PEM")


def explain(error: Exception) -> str:
    """Why a handshake failed, and what to try, in words for whoever runs the archive."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message
        if error.verify_code == _EXPIRED:
            return f"its certificate is not valid today ({said}); have it renewed"
        if error.verify_code in _ANOTHER_HOST:
            return f"its certificate is another host's ({said}); is the address right?"
        return (
            f"its certificate is of no authority that we trust ({said}); "
            "name the authority's with tls=CA.crt"
        )
    reason = getattr(error, "reason", None) or ""
    if reason == "WRONG_VERSION_NUMBER" or isinstance(error, ConnectionResetError):
        return "it does not speak TLS at that port; is the port right, is TLS switched on there?"
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "HANDSHAKE_FAILURE" in reason:
        return (
            f"it does not accept our certificate ({reason.lower().replace('_', ' ')}); "
            "name one that it trusts with cert=OWN.crt and key=OWN.key"
        )
    return f"the TLS handshake failed ({reason or error})"


_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_ANOTHER_HOST = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
