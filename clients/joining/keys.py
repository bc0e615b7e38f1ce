"""The key that Flower knows a hospital's node by: ECDSA P-384, in OpenSSH's format."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from federation.iodeep.signature import public_path
from federation.joining import node_key_text
from federation.whole import SECRET, write_new


def create_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make a key pair: ``path`` holds it (mode 0600), ``path`` with ``.pub`` its public half.

    It has no passphrase: nobody is there to type one when the machine starts. Raises
    :class:`~federation.errors.ConfigError` where there is a file already.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_new(path, private, SECRET)
    write_new(public_path(path), f"{node_key_text(key.public_key())}\n".encode())
    return key
