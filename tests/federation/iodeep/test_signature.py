"""Keys and signatures: what is signed is checked, and anything else is refused."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import CodecError, ConfigError, SignatureError
from federation.iodeep.codec import read_record, write_record
from federation.iodeep.header import Stamp
from federation.iodeep.signature import PublicKey, Signature, SigningKey, public_path
from tests.federation.iodeep.records import version


def test_a_key_pair_signs_and_checks(tmp_path: Path) -> None:
    made = SigningKey.create(tmp_path / "keys" / "a.key")
    read = SigningKey.read(tmp_path / "keys" / "a.key")
    public = PublicKey.read(public_path(tmp_path / "keys" / "a.key"))
    signature = read.sign(b"manifest")
    assert signature == made.sign(b"manifest")
    assert signature.fingerprint == public.fingerprint
    assert Signature.decode(signature.encode()) == signature
    public.verify(signature, b"manifest")
    with pytest.raises(SignatureError, match="does not fit"):
        public.verify(signature, b"manifesto")


def test_a_private_key_is_its_owner_s_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    SigningKey.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        SigningKey.create(path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.key", "a.key.pub"]
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        SigningKey.read(path)


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    files = {
        "text": b"not a key",
        "large": b"x" * 5000,
        "curve": other.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        "curve.pub": other.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    }
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        path.chmod(0o600)
        for kind in (SigningKey, PublicKey):
            with pytest.raises(ConfigError):
                kind.read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        PublicKey.read(tmp_path / "absent")


@given(st.binary(max_size=200))
def test_any_other_bytes_are_no_signature(data: bytes) -> None:
    if len(data) == 96:
        assert Signature.decode(data).encode() == data
    else:
        with pytest.raises(CodecError, match="96"):
            Signature.decode(data)


@pytest.mark.parametrize("last", [0x20, 0x00, 0xFF])
def test_a_record_keeps_its_signature_bit_for_bit(tmp_path: Path, last: int) -> None:
    """A last byte that looks like padding is none."""
    manifest, parts = version()
    signature = Signature(fingerprint="ab" * 32, value=b"\x01" * 63 + bytes([last]))
    paths = write_record(tmp_path, manifest, parts, Stamp.now(), signature)
    assert read_record(paths).signature == signature
