"""Small text documents that travel by mail, signed with the key that is named inside.

The signature says that nothing was changed on the way; whose key it is, the telephone does. A
document is JSON with two members: itself, under its title, and ``signature``: Ed25519 (RFC 8032)
over its canonical form (RFC 8785), in hex.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import rfc8785
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import AfterValidator, AwareDatetime, Field, PlainSerializer

from federation.config.reading import validate
from federation.errors import ConfigError, SignatureError
from federation.iodeep.signature import PublicKey, Signature, SigningKey, show_fingerprint
from federation.values import Value

FORMAT = 1
MAX_BYTES = 65536

_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_SEPARATORS = re.compile(r"[\s:-]+")
_FINGERPRINT = re.compile(r"[0-9a-f]{32}(?:[0-9a-f]{32})?")  # as shown, or the whole


def public_key_of(pem: str) -> PublicKey:
    """The Ed25519 key that a text in PEM is. Raises :class:`ConfigError`."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError("expected an Ed25519 public key in PEM")
    return PublicKey(key)


def _public_pem(text: str) -> str:
    try:
        return public_key_of(text).pem().decode()
    except ConfigError as error:
        raise ValueError(str(error)) from None


PublicPem = Annotated[str, AfterValidator(_public_pem)]
"""An Ed25519 public key in PEM."""

Release = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
"""Of this software, as ``0.1.0``."""

Instant = Annotated[
    AwareDatetime,
    PlainSerializer(lambda at: f"{at:%Y-%m-%dT%H:%M:%SZ}", when_used="json"),
]
"""A date with its time, in UTC and whole seconds."""


class SignedDocument(Value):
    """What every such document says.

    key:      the public half of the key that signs it (PEM)
    software: the release that wrote it
    """

    title: ClassVar[str]

    format: Literal[1] = 1
    key: PublicPem
    software: Release

    @property
    def signer(self) -> PublicKey:
        return public_key_of(self.key)

    def sign(self, key: SigningKey) -> bytes:
        """The document's text, signed by ``key``, which is the one that it names."""
        body = self.model_dump(mode="json")
        document = {self.title: body, "signature": key.sign(rfc8785.dumps(body)).value.hex()}
        return json.dumps(document, indent=1).encode() + b"\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file, and check that its signature fits.

        Raises :class:`SignatureError` where it was altered, :class:`ConfigError` where it is
        another kind of file, or in another format.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{cls.title} {path} cannot be read: {error.strerror}") from error
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes, so no {cls.title}")
        body, signature = _parse(data, cls.title, path)
        if body.get("format") != FORMAT:
            raise ConfigError(
                f"{path} is in format {body.get('format')!r:.20}, and this release reads format "
                f"{FORMAT}; both sides must run the same release of iodeep: `iodeep --version`"
            )
        _check(body, signature, f"{cls.title} {path}")
        return validate(cls, body, str(path))


def check_read_out(said: str, fingerprint: str, whose: str) -> None:
    """Compare a fingerprint with what was read out by telephone, however that was grouped.

    Raises :class:`ConfigError` where that is no fingerprint, :class:`SignatureError` where it is
    another.
    """
    digits = _SEPARATORS.sub("", said).lower()
    if not _FINGERPRINT.fullmatch(digits):
        raise ConfigError(
            f"{said!r:.80} is no fingerprint; expected eight groups of four of the characters "
            "0-9 and a-f, as 1a2b-3c4d-…"
        )
    if not fingerprint.startswith(digits):
        raise SignatureError(
            f"the fingerprint of {whose} is {show_fingerprint(fingerprint)}, and "
            f"{show_fingerprint(digits)} was read out: the file is not from whom you spoke to, or "
            "a character was misheard. Have it read out again; if it stays so, use the file for "
            "nothing"
        )


def _parse(data: bytes, title: str, path: Path) -> tuple[dict[str, Any], str]:
    """What is signed, and the signature, neither of them checked."""
    try:
        document = json.loads(data.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError):  # what json and the decoding raise
        raise ConfigError(
            f"{path} is no {title}: it is not JSON; have the file sent again, as an attachment"
        ) from None
    if not isinstance(document, dict) or document.keys() != {title, "signature"}:
        raise ConfigError(f"{path} is no {title}; expected JSON with {title!r} and 'signature'")
    if not isinstance(document[title], dict):
        raise ConfigError(f"{path} is no {title}: {title!r} in it is no object")
    return document[title], str(document["signature"])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, none of whose members stands there twice."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands there twice")
    return members


def _check(body: dict[str, Any], signature: str, what: str) -> None:
    try:
        if not _SIGNATURE.fullmatch(signature):
            raise ValueError
        key = public_key_of(str(body.get("key")))
        signed = Signature(fingerprint=key.fingerprint, value=bytes.fromhex(signature))
        key.verify(signed, rfc8785.dumps(body))
    except (ValueError, RecursionError, ConfigError, SignatureError):
        raise SignatureError(
            f"{what} was altered: its signature does not fit what it says. Have it sent again, "
            "and use this one for nothing"
        ) from None
