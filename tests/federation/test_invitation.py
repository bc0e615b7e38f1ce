"""Invitations and requests: nothing that was altered is believed, and every fault has its word."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.errors import ConfigError, IODeepError, SignatureError, SoftwareError
from federation.invitation import Invitation, read_invitation, region_of
from federation.iodeep.signature import SigningKey, show_fingerprint
from federation.joining import JoinRequest, node_key_text
from federation.signed import MAX_BYTES, check_read_out
from federation.software import software
from tests.peers.certificates import Certificates

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)

Facts = dict[str, Any]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey.create(tmp_path_factory.mktemp("keys") / "aggregator.key")


@pytest.fixture(scope="module")
def facts(key: SigningKey, certificates: Certificates) -> Facts:
    pem = key.public.pem().decode()
    return {
        "format": 1,
        "key": pem,
        "software": software(),
        "id": "0" * 32,
        "name": "hospital-a",
        "aggregator": "example",
        "address": "federation.example.org:443",
        "ca": certificates.ca.read_text(encoding="ascii"),
        "lines": [{"pattern": "MR/hippocampus/*", "signers": [pem]}],
        "policy": {"min_studies": 10, "max_unusable": 0.5},
        "issued": "2026-11-28T12:00:00Z",
        "expires": "2026-12-12T12:00:00Z",
    }


@pytest.fixture
def write(tmp_path: Path, key: SigningKey) -> Callable[..., Path]:
    def written(facts: Facts, by: SigningKey = key) -> Path:
        signature = by.sign(rfc8785.dumps(facts)).value.hex()
        path = tmp_path / "hospital-a.invitation"
        path.write_text(json.dumps({"invitation": facts, "signature": signature}))
        return path

    return written


def test_an_invitation_reads_as_it_was_written(
    facts: Facts, key: SigningKey, tmp_path: Path
) -> None:
    invitation = Invitation.model_validate(facts)
    path = tmp_path / "a.invitation"
    path.write_bytes(invitation.sign(key))
    assert read_invitation(path, now=NOW) == invitation
    assert invitation.signer.fingerprint == key.public.fingerprint


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_an_altered_byte_is_refused_or_changes_nothing(
    data: st.DataObject, facts: Facts, key: SigningKey, tmp_path: Path
) -> None:
    """Nothing but the space between words can be another."""
    invitation = Invitation.model_validate(facts)
    text = bytearray(invitation.sign(key))
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "altered.invitation"
    path.write_bytes(text)
    try:
        read = read_invitation(path, now=NOW)
    except IODeepError:
        return
    assert read == invitation


@pytest.mark.parametrize(
    ("field", "value"),
    [("address", "evil.example.org:443"), ("policy", {}), ("expires", "2027-12-12T12:00:00Z")],
)
def test_what_was_changed_after_signing_is_altered(
    field: str, value: Any, facts: Facts, write: Callable[..., Path]
) -> None:
    path = write(facts)
    document = json.loads(path.read_text())
    document["invitation"][field] = value
    path.write_text(json.dumps(document))
    with pytest.raises(SignatureError, match="was altered"):
        read_invitation(path, now=NOW)


def test_a_strangers_invitation_is_whole_and_has_another_fingerprint(
    facts: Facts, write: Callable[..., Path], key: SigningKey, tmp_path: Path
) -> None:
    stranger = SigningKey.create(tmp_path / "stranger.key")
    path = write({**facts, "key": stranger.public.pem().decode()}, stranger)
    read = read_invitation(path, now=NOW)
    said = show_fingerprint(key.public.fingerprint)
    with pytest.raises(SignatureError, match="was read out: the file is not from whom you spoke"):
        check_read_out(said, read.signer.fingerprint, "the invitation")
    check_read_out(said.replace("-", " ").upper(), key.public.fingerprint, "the invitation")
    with pytest.raises(ConfigError, match="is no fingerprint"):
        check_read_out(said[:-1], key.public.fingerprint, "the invitation")
    with pytest.raises(SignatureError, match="altered"):
        read_invitation(write(facts, stranger), now=NOW)


def test_an_expired_one_says_when_and_what_the_clock_says(
    facts: Facts, write: Callable[..., Path]
) -> None:
    path = write(facts)
    assert read_invitation(path, now=NOW + timedelta(days=13, hours=23))
    with pytest.raises(
        ConfigError, match=r"until 2026-12-12 12:00 UTC, and this machine's clock says 2026-12-12"
    ):
        read_invitation(path, now=NOW + timedelta(days=14))


def test_a_clock_that_is_behind_is_named_beyond_five_minutes(
    facts: Facts, write: Callable[..., Path]
) -> None:
    path = write(facts)
    assert read_invitation(path, now=NOW - timedelta(minutes=4))
    with pytest.raises(ConfigError, match=r"does not count yet.*clock says 2026-11-27"):
        read_invitation(path, now=NOW - timedelta(days=1))


def test_another_release_and_another_format_are_named(
    facts: Facts, write: Callable[..., Path]
) -> None:
    with pytest.raises(SoftwareError, match=r"is of release 9\.0\.0 of iodeep, and this is"):
        read_invitation(write({**facts, "software": "9.0.0"}), now=NOW)
    with pytest.raises(ConfigError, match="is in format 2, and this release reads format 1"):
        read_invitation(write({**facts, "format": 2, "new": True}), now=NOW)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 20_000, "is not JSON"),
        (b'{"invitation": {}, "invitation": {}, "signature": ""}', "is not JSON"),
        (b"[]", "expected JSON with 'invitation' and 'signature'"),
        (b'{"request": {}, "signature": ""}', "expected JSON with 'invitation' and 'signature'"),
        (b'{"invitation": 1, "signature": ""}', "is no object"),
        (b'{"invitation": {"format": 1}, "signature": ""}', "was altered"),
        (b" " * (MAX_BYTES + 1), "is larger than 65536 bytes"),
    ],
)
def test_a_file_of_another_kind_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.invitation"
    path.write_bytes(data)
    with pytest.raises(IODeepError, match=message):
        read_invitation(path, now=NOW)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"name": "../../etc"}, "name"),
        ({"address": "a\nb:1"}, "address"),
        ({"ca": "none"}, "certificate in PEM"),
        ({"lines": []}, "lines"),
        ({"policy": {"trust": []}}, "trust is for the site alone to say"),
        ({"policy": {"opt_out": {}}}, "opt_out is for the site alone to say"),
        ({"policy": {"min_studys": 1}}, "min_studys"),
        ({"policy": {"store": {"versions": None}}}, "TOML"),
        ({"expires": "2026-11-28T12:00:00Z"}, "expires before it is issued"),
    ],
)
def test_what_is_signed_and_makes_no_sense_is_refused(
    said: Facts, message: str, facts: Facts, write: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_invitation(write({**facts, **said}), now=NOW)


@pytest.mark.parametrize(
    ("pattern", "region"),
    [
        ("MR/hippocampus/*", "hippocampus"),
        ("*/hippocampus/*", "hippocampus"),
        ("MR/hippocampus/-/unet", "hippocampus"),
        ("MR/*", None),
        ("*", None),
    ],
)
def test_the_region_of_a_pattern(pattern: str, region: str | None) -> None:
    found = region_of(pattern)
    assert (found and found.slug) == region


@pytest.mark.parametrize("pattern", ["MR/hipocampus/*", "MR/5366008/*", "MR", "MR/hippocampus"])
def test_a_pattern_that_no_line_can_match_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError):
        region_of(pattern)


def test_a_request_is_signed_by_both_of_its_keys(tmp_path: Path) -> None:
    node, other = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    key = SigningKey.create(tmp_path / "site.key")
    request = JoinRequest(
        name="hospital-a",
        invitation="0" * 32,
        node_key=node_key_text(node.public_key()),
        key=key.public.pem().decode(),
        software=software(),
        created=NOW,
    )
    path = tmp_path / "hospital-a.request"
    path.write_bytes(request.vouched(node).sign(key))
    assert JoinRequest.read(path).node_key == request.node_key
    for forged in (request, request.vouched(other)):
        path.write_bytes(forged.sign(key))
        with pytest.raises(SignatureError, match="was not signed by the node key"):
            JoinRequest.read(path)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1()])
def test_a_node_key_of_another_curve_is_refused(curve: ec.EllipticCurve) -> None:
    with pytest.raises(ValueError, match="nistp384"):
        JoinRequest.model_validate(
            {"node_key": node_key_text(ec.generate_private_key(curve).public_key())}
        )
