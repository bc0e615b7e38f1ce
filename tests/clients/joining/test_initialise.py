"""A hospital's folder out of an invitation: whole, valid, and its secrets its own."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from clients.data.split import read_split_key
from clients.joining.document import PLACEHOLDER
from clients.joining.initialise import initialise
from federation.config import read_site
from federation.errors import ConfigError
from federation.invitation import Invitation
from federation.iodeep.signature import PublicKey, SigningKey, show_fingerprint
from federation.joining import JoinRequest
from federation.software import software
from federation.trust import Rule
from tests.peers.certificates import Certificates

IODEEP = str(Path(sys.executable).with_name("iodeep"))
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "aggregator.key")


def invitation(
    key: SigningKey, certificates: Certificates, *patterns: str, expires: str = "2099-01-01"
) -> Invitation:
    pem = key.public.pem().decode()
    return Invitation.model_validate(
        {
            "key": pem,
            "software": software(),
            "id": "0" * 32,
            "name": "hospital-a",
            "aggregator": "example",
            "address": "federation.example.org:443",
            "ca": certificates.ca.read_text(encoding="ascii"),
            "lines": [{"pattern": one, "signers": [pem]} for one in patterns or ("MR/brain/*",)],
            "policy": {"min_studies": 12, "rounds": {"approval": True}},
            "issued": NOW,
            "expires": f"{expires}T00:00:00Z",
        }
    )


def test_the_document_is_read_and_says_what_was_offered(
    key: SigningKey, certificates: Certificates, tmp_path: Path
) -> None:
    invited = invitation(key, certificates, "MR/hippocampus/*", "CT/lung/*")
    initialise(invited, tmp_path / "a", now=NOW)
    site = read_site(tmp_path / "a" / "site.toml")
    assert (site.name, site.archives.images) == ("hospital-a", PLACEHOLDER)
    assert site.aggregator is not None
    assert site.aggregator.address == "federation.example.org:443"
    x509.load_pem_x509_certificate(site.aggregator.ca.read_bytes())
    assert list(site.data) == ["hippocampus"]
    assert site.data["hippocampus"].query == {"Modality": "MR"}
    assert len(read_split_key(site.data["hippocampus"].split.key)) == 64
    assert site.policy.min_studies == 12
    assert site.policy.rounds.approval
    rules = [Rule.of(table) for table in site.policy.trust]
    assert [rule.lines for rule in rules] == [("MR/hippocampus/*",), ("CT/lung/*",)]
    trusted = {signer.fingerprint for rule in rules for signer in rule.signers}
    assert trusted == {key.public.fingerprint}
    assert site.key is not None
    assert SigningKey.read(site.key)


def test_the_commented_table_of_another_region_is_valid_too(
    key: SigningKey, certificates: Certificates, tmp_path: Path
) -> None:
    initialise(invitation(key, certificates, "MR/brain/*", "CT/lung/*"), tmp_path / "a", now=NOW)
    document = tmp_path / "a" / "site.toml"
    text = document.read_text()
    begin = text.index("# [data.lung]")
    end = text.index("# What the site allows")
    table = text[begin:end]
    document.write_text(
        text.replace(table, "".join(f"{line[2:]}\n" for line in table.splitlines()))
    )
    assert list(read_site(document).data) == ["brain", "lung"]


@pytest.mark.parametrize(
    ("patterns", "query"),
    [
        (("MR/brain/*", "CT/brain/*"), {}),
        (("*/brain/*",), {}),
        (("MR/brain/-/unet",), {"Modality": "MR"}),
    ],
)
def test_the_query_has_the_modality_that_all_lines_have(
    patterns: tuple[str, ...],
    query: dict[str, str],
    key: SigningKey,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    initialise(invitation(key, certificates, *patterns), tmp_path / "a", now=NOW)
    assert read_site(tmp_path / "a" / "site.toml").data["brain"].query == query


def test_lines_of_any_region_give_no_table(
    key: SigningKey, certificates: Certificates, tmp_path: Path
) -> None:
    initialise(invitation(key, certificates, "*"), tmp_path / "a", now=NOW)
    assert read_site(tmp_path / "a" / "site.toml").data == {}


def test_every_signer_of_a_line_is_a_file(
    key: SigningKey, certificates: Certificates, tmp_path: Path
) -> None:
    other = SigningKey.create(tmp_path / "other.key").public
    facts = invitation(key, certificates).model_dump()
    facts["lines"] = [{"pattern": "*", "signers": [key.public.pem(), other.pem()]}]
    initialise(Invitation.model_validate(facts), tmp_path / "a", now=NOW)
    (table,) = read_site(tmp_path / "a" / "site.toml").policy.trust
    assert [PublicKey.read(path).fingerprint for path in table.signers] == [
        key.public.fingerprint,
        other.fingerprint,
    ]


def test_the_archive_that_is_given_is_the_one(
    key: SigningKey, certificates: Certificates, tmp_path: Path
) -> None:
    images = "dimse://ORTHANC@127.0.0.1:4242?calling=IODEEP_A"
    initialise(invitation(key, certificates), tmp_path / "a", images=images, now=NOW)
    assert read_site(tmp_path / "a" / "site.toml").archives.images == images
    with pytest.raises(ConfigError):
        initialise(invitation(key, certificates), tmp_path / "b", images="nowhere", now=NOW)
    assert not (tmp_path / "b").exists()


def test_secrets_are_their_owners_alone_and_in_no_document(
    key: SigningKey, certificates: Certificates, tmp_path: Path
) -> None:
    invited = invitation(key, certificates)
    initialise(invited, tmp_path / "a", now=NOW)
    secret = sorted((tmp_path / "a").rglob("*.key"))
    assert [path.name for path in secret] == ["node.key", "site.key", "split.key"]
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "keys").stat().st_mode & 0o777 == 0o700
    travels = invited.sign(key) + (tmp_path / "a" / "hospital-a.request").read_bytes()
    assert b"PRIVATE" not in travels
    for path in (*secret, tmp_path / "aggregator.key"):
        words = [word for word in path.read_bytes().splitlines() if b"-----" not in word]
        assert words
        assert not any(word in travels for word in words)


def test_the_request_is_of_the_keys_that_were_made(
    key: SigningKey, certificates: Certificates, tmp_path: Path
) -> None:
    made = initialise(invitation(key, certificates), tmp_path / "a", now=NOW)
    request = JoinRequest.read(tmp_path / "a" / "hospital-a.request")
    assert request == made
    assert (request.name, request.invitation) == ("hospital-a", "0" * 32)
    public = (tmp_path / "a" / "keys" / "node.key.pub").read_text()
    assert public == f"{request.node_key}\n"
    assert request.key == PublicKey.read(tmp_path / "a" / "keys" / "site.key.pub").pem().decode()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_openssh_reads_the_node_key(
    key: SigningKey, certificates: Certificates, tmp_path: Path
) -> None:
    request = initialise(invitation(key, certificates), tmp_path / "a", now=NOW)
    node = tmp_path / "a" / "keys" / "node.key"
    shown = subprocess.run(
        ["ssh-keygen", "-y", "-f", node], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == request.node_key


def test_flower_reads_the_node_key(
    key: SigningKey, certificates: Certificates, tmp_path: Path
) -> None:
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, uses_nist_ec_curve
    from flwr.supernode.cli.flower_supernode import (
        _parse_args_run_supernode,
        _try_setup_client_authentication,
    )

    initialise(invitation(key, certificates), tmp_path / "a", now=NOW)
    node = tmp_path / "a" / "keys" / "node.key"
    args = _parse_args_run_supernode().parse_args(
        ["--superlink", "localhost:1", "--auth-supernode-private-key", str(node)]
    )
    keys = _try_setup_client_authentication(args)
    assert keys is not None
    private = load_ssh_private_key(node.read_bytes(), None)
    assert public_key_to_bytes(keys[1]) == public_key_to_bytes(private.public_key())  # type: ignore[arg-type]
    assert uses_nist_ec_curve(keys[1])


def test_nothing_is_overwritten(
    key: SigningKey, certificates: Certificates, tmp_path: Path
) -> None:
    initialise(invitation(key, certificates), tmp_path / "a", now=NOW)
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="holds a site already; nothing was changed"):
        initialise(invitation(key, certificates), tmp_path / "a", now=NOW)
    after = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert after == before


def test_the_fingerprint_is_asked_for_on_a_terminal_and_not_shown(
    key: SigningKey, certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "hospital-a.invitation").write_bytes(invitation(key, certificates).sign(key))
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [IODEEP, "site", "init", "hospital-a.invitation"],
        cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as asking:  # fmt: skip
        said = show_fingerprint(key.public.fingerprint)
        os.write(ours, f"{said}\n".encode())
        out, asked = asking.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert asking.returncode == 0, asked
    assert "as read out by telephone" in asked
    assert said not in out + asked
    assert (tmp_path / "hospital-a" / "site.toml").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("0000-" * 7 + "0000", "was read out"),
        ("hello", "is no fingerprint"),
        (None, "nobody is here to type the fingerprint of example's invitation"),
    ],
)
def test_a_wrong_fingerprint_leaves_nothing(
    said: str | None, message: str, key: SigningKey, certificates: Certificates, tmp_path: Path
) -> None:
    file = tmp_path / "hospital-a.invitation"
    file.write_bytes(invitation(key, certificates).sign(key))
    options = [] if said is None else ["--fingerprint", said]
    done = subprocess.run(
        [IODEEP, "site", "init", file, *options],
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "hospital-a").exists()
