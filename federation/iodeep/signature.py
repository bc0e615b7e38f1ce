"""Ed25519 signatures over canonical manifests (RFC 8032), and the keys that make them.

A signature rests in the manifest's instance: 32 bytes of the key's fingerprint, 64 of the
signature. As the manifest names the digests of all weights and of its parent, signing it signs
them too.
"""

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation.errors import CodecError, ConfigError, SignatureError
from federation.secret import read_secret

SIGNATURE_BYTES = 96
MAX_KEY_FILE_BYTES = 4096

_FINGERPRINT_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """A signature (64 bytes) and the fingerprint (hex) of the key that made it."""

    fingerprint: str
    value: bytes

    def encode(self) -> bytes:
        return bytes.fromhex(self.fingerprint) + self.value

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what :meth:`encode` wrote. Raises :class:`CodecError`."""
        if len(data) != SIGNATURE_BYTES:
            raise CodecError(f"a signature has {len(data)} bytes; expected {SIGNATURE_BYTES}")
        return cls(
            fingerprint=data[:_FINGERPRINT_BYTES].hex(),
            value=data[_FINGERPRINT_BYTES:],
        )


class PublicKey:
    """An Ed25519 public key, to check signatures with."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.fingerprint = hashlib.sha256(raw).hexdigest()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a PEM file (RFC 7468). Raises :class:`ConfigError`."""
        try:
            key = serialization.load_pem_public_key(_read(path))
        except ValueError as error:
            raise ConfigError(f"{path} is no public key in PEM; make one with {_HINT}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"{path} is a {type(key).__name__}; expected an Ed25519 key")
        return cls(key)

    def verify(self, signature: Signature, message: bytes) -> None:
        """Raises :class:`SignatureError` where this key did not sign these bytes."""
        try:
            self._key.verify(signature.value, message)
        except InvalidSignature as error:
            raise SignatureError(
                f"the signature of key {show_fingerprint(self.fingerprint)} does not fit the "
                "manifest: one of them was changed"
            ) from error

    def pem(self) -> bytes:
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def __repr__(self) -> str:
        return f"PublicKey({show_fingerprint(self.fingerprint)})"


class SigningKey:
    """An Ed25519 private key. It stays where it was made; its file is the owner's alone."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a key: ``path`` holds it (mode 0600), ``path`` with ``.pub`` its public half.

        Raises :class:`ConfigError` where there is a file already.
        """
        made = cls(Ed25519PrivateKey.generate())
        pem = made._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        try:
            _write_new(path, pem, 0o600)
            made.write_public(path)
        except FileExistsError:
            raise ConfigError(f"{path} is there already; keys are never overwritten") from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        return made

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a PEM file that nobody but its owner can read. Raises :class:`ConfigError`."""
        data = read_secret(path, what="key", max_bytes=MAX_KEY_FILE_BYTES)
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{path} is no private key in PEM without a password; make one with {_HINT}"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path} is a {type(key).__name__}; expected an Ed25519 key")
        return cls(key)

    def write_public(self, path: Path) -> None:
        """Write the public half of the key at ``path`` beside it."""
        public_path(path).write_bytes(self.public.pem())

    def sign(self, message: bytes) -> Signature:
        return Signature(fingerprint=self.public.fingerprint, value=self._key.sign(message))


def public_path(path: Path) -> Path:
    """Where the public half of the key at ``path`` lies."""
    return path.with_name(path.name + ".pub")


def show_fingerprint(fingerprint: str) -> str:
    """The first half of a fingerprint in groups of four, to be read out: 128 bits of SHA-256."""
    return "-".join(fingerprint[start : start + 4] for start in range(0, 32, 4))


_HINT = "`iodeep key create FILE`"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"key {path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_KEY_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_KEY_FILE_BYTES} bytes, so no key in PEM")
    return data


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """The whole file or none; raises FileExistsError where there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
        os.link(part, path)
    finally:
        part.unlink(missing_ok=True)
