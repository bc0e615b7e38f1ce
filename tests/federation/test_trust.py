"""Trust lists: which keys are believed for which lines, at every pull and publish."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.config import TrustTable
from federation.errors import RegistryError, SignatureError, StorageError
from federation.iodeep.signature import Signature, SigningKey
from federation.pacs import Archive, Gateway, open_gateway
from federation.registry import Registry
from federation.trust import Rule, TrustList
from tests.federation.iodeep.records import version

MANIFEST, _ = version()


@pytest.fixture
def keys(tmp_path: Path) -> tuple[SigningKey, SigningKey]:
    return SigningKey.create(tmp_path / "ours.key"), SigningKey.create(tmp_path / "other.key")


@contextmanager
def archive(folder: Path) -> Iterator[Gateway]:
    with Archive(folder / "archive"):
        pass
    with open_gateway(f"folder:{folder}/archive") as gateway:
        yield gateway


def trust(
    folder: Path, lines: str = "MR/hippocampus/*", *, signed: bool = True, unsigned: bool = False
) -> TrustList:
    signers = (folder / "ours.key.pub",) if signed else ()
    table = TrustTable(lines=(lines,), signers=signers, unsigned=unsigned)
    return TrustList([Rule.of(table)])


def test_only_the_keys_of_a_rule_that_covers_the_line_are_believed(
    tmp_path: Path, keys: tuple[SigningKey, SigningKey]
) -> None:
    ours, other = (key.sign(MANIFEST.canonical) for key in keys)
    trust(tmp_path).check(MANIFEST, ours)
    with pytest.raises(SignatureError, match=r"not trusted for that; trusted: [0-9a-f]{4}-"):
        trust(tmp_path).check(MANIFEST, other)
    with pytest.raises(SignatureError, match="no trust rule covers"):
        trust(tmp_path, "CT/*").check(MANIFEST, ours)
    with pytest.raises(SignatureError, match="no trust rule covers"):
        TrustList([]).check(MANIFEST, ours)


def test_a_signature_under_another_key_s_name_does_not_pass(
    tmp_path: Path, keys: tuple[SigningKey, SigningKey]
) -> None:
    ours, other = (key.sign(MANIFEST.canonical) for key in keys)
    forged = Signature(fingerprint=ours.fingerprint, value=other.value)
    with pytest.raises(SignatureError, match="does not fit"):
        trust(tmp_path).check(MANIFEST, forged)
    changed = MANIFEST.model_copy(update={"round": 7})
    with pytest.raises(SignatureError, match="does not fit"):
        trust(tmp_path, unsigned=True).check(changed, ours)


def test_unsigned_is_believed_only_where_a_rule_says_so(
    tmp_path: Path, keys: tuple[SigningKey, SigningKey]
) -> None:
    trust(tmp_path, signed=False, unsigned=True).check(MANIFEST, None)
    with pytest.raises(SignatureError, match="not signed"):
        trust(tmp_path).check(MANIFEST, None)


def test_every_pull_and_publish_asks(tmp_path: Path, keys: tuple[SigningKey, SigningKey]) -> None:
    """What is refused leaves nothing in the archive; what is there unsigned stays refused."""
    ours, other = keys
    with archive(tmp_path) as gateway:
        careful = Registry(gateway, trust=trust(tmp_path), signer=ours)
        manifest, parts = version(round=1)
        with pytest.raises(SignatureError):
            careful.publish(manifest, parts, signature=other.sign(manifest.canonical))
        assert careful.branches() == []

        signed = careful.publish(*version(round=1)).reference
        Registry(gateway).publish(*version(round=2))
        one, two = careful.versions(MANIFEST.line, "main")
        with careful.pull(one) as record:
            assert record.signature is not None
            assert record.signature.fingerprint == ours.public.fingerprint
        with careful.open(MANIFEST.line, "main", 1, signed):
            pass
        with pytest.raises(SignatureError, match="not signed"), careful.pull(two):
            pass
        with (
            pytest.raises(SignatureError, match="not signed"),
            careful.open(MANIFEST.line, "main", 2, two.reference),
        ):
            pass


def test_a_record_that_somebody_stored_unsigned_is_not_taken_for_the_signed_one(
    tmp_path: Path, keys: tuple[SigningKey, SigningKey]
) -> None:
    with archive(tmp_path) as gateway:
        Registry(gateway).publish(*version())
        with pytest.raises(StorageError, match="another signature, or none"):
            Registry(gateway, signer=keys[0]).publish(*version())


def test_publishing_again_with_the_same_key_stores_nothing(
    tmp_path: Path, keys: tuple[SigningKey, SigningKey]
) -> None:
    with archive(tmp_path) as gateway:
        registry = Registry(gateway, signer=keys[0])
        assert registry.publish(*version()).stored == 2
        assert registry.publish(*version()).stored == 0
        manifest, parts = version()
        other = manifest.model_copy(update={"outputs": ()})
        with pytest.raises(RegistryError, match="open a new branch"):
            registry.publish(other, parts)
