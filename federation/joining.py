"""A request to join: the document that a hospital sends back when it was invited.

It is signed by both keys that the hospital made: the node key, whose fingerprint is read out by
telephone, so vouches for the other.
"""

from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Annotated, ClassVar, Self

import rfc8785
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)
from pydantic import AfterValidator, Field

from federation.config import Name
from federation.errors import SignatureError
from federation.invitation import InvitationId
from federation.signed import Instant, SignedDocument

_ALGORITHM = ec.ECDSA(hashes.SHA384())


def _node_key(text: str) -> str:
    return node_key_text(_loaded(text))


def _loaded(text: str) -> ec.EllipticCurvePublicKey:
    """Raises ValueError."""
    try:
        key = load_ssh_public_key(text.encode())
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError("expected a key of type ecdsa-sha2-nistp384")
    return key


NodeKey = Annotated[str, Field(max_length=1024), AfterValidator(_node_key)]
"""The public key that Flower knows a node by: ``ecdsa-sha2-nistp384 AAAA…``, as OpenSSH has it."""


def node_key_text(key: ec.EllipticCurvePublicKey) -> str:
    """A public key as OpenSSH writes it, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def node_fingerprint(node_key: str) -> str:
    """SHA-256 (hex) of the key's own bytes: the digest that ``ssh-keygen -l`` shows in base64."""
    return sha256(b64decode(node_key.split()[1])).hexdigest()


class JoinRequest(SignedDocument):
    """A hospital asks to join.

    name, invitation: as the invitation has its name and id
    node_key:         what Flower knows the hospital's node by
    key:              what the hospital signs its records with
    node_signature:   by the node key, of all of this but itself (ECDSA with SHA-384, in hex)
    """

    title: ClassVar[str] = "request"

    name: Name
    invitation: InvitationId
    node_key: NodeKey
    created: Instant
    node_signature: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){0,120}$")] = ""

    @property
    def fingerprint(self) -> str:
        """Of the node key, in hex."""
        return node_fingerprint(self.node_key)

    def vouched(self, node_key: ec.EllipticCurvePrivateKey) -> Self:
        """The same, signed by the node key."""
        signature = node_key.sign(self._vouched_for(), _ALGORITHM)
        return self.model_copy(update={"node_signature": signature.hex()})

    def _vouched_for(self) -> bytes:
        return rfc8785.dumps(self.model_dump(mode="json", exclude={"node_signature"}))

    @classmethod
    def read(cls, path: Path) -> Self:
        """As of every signed document; raises SignatureError also where the node key did not sign.

        Then whoever sent it does not have that key: it is somebody else's.
        """
        request = super().read(path)
        try:
            _loaded(request.node_key).verify(
                bytes.fromhex(request.node_signature), request._vouched_for(), _ALGORITHM
            )
        except InvalidSignature:
            raise SignatureError(
                f"request {path} was not signed by the node key that it names; have it made anew "
                "with `iodeep site init`"
            ) from None
        return request
