"""The records of sites: who is let in, with which keys, and what never comes back."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from federation.errors import ConfigError
from federation.invitation import Invitation
from federation.iodeep.signature import SigningKey, show_fingerprint
from federation.joining import JoinRequest, node_key_text
from federation.software import software
from server.aggregator import sites
from server.aggregator.home import Home
from server.aggregator.invite import invite
from server.aggregator.provision import create_home
from server.aggregator.sites import (
    Seen,
    SiteRecord,
    approve,
    read_site_record,
    revoke,
    site_facts,
    site_records,
)

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(
        tmp_path / "aggregator", name="example", address="localhost:8443", lines=["*"], now=NOW
    )


class Hospital:
    """One that was invited, and its keys."""

    def __init__(
        self,
        home: Home,
        folder: Path,
        name: str,
        keys: "Hospital | None" = None,
        now: datetime = NOW,
    ) -> None:
        number = len(list(folder.iterdir()))
        out = folder / f"{name}-{number}.invitation"
        self.invitation: Invitation = invite(home, name, out, days=14, now=now)
        self.node = keys.node if keys else ec.generate_private_key(ec.SECP384R1())
        self.key = keys.key if keys else SigningKey.create(folder / f"{name}-{number}.key")

    def request(self) -> JoinRequest:
        return JoinRequest(
            name=self.invitation.name,
            invitation=self.invitation.id,
            node_key=node_key_text(self.node.public_key()),
            key=self.key.public.pem().decode(),
            software=software(),
            created=NOW,
        ).vouched(self.node)


def test_who_was_invited_is_approved_and_revoked(home: Home, tmp_path: Path) -> None:
    hospital = Hospital(home, tmp_path, "a")
    assert read_site_record(home, "a").state == "invited"
    request = hospital.request()
    approve(home, request, now=NOW)
    record = read_site_record(home, "a")
    assert (record.state, record.approved) == ("approved", NOW)
    assert (record.node_key, record.key) == (request.node_key, request.key)
    assert record.software == software()
    revoke(home, "a", reason="left", now=NOW)
    record = read_site_record(home, "a")
    assert (record.state, record.reason, record.node_key) == ("revoked", "left", request.node_key)


def test_records_are_for_their_owner_and_listed_by_name(home: Home, tmp_path: Path) -> None:
    for name in ("b", "a"):
        Hospital(home, tmp_path, name)
    (home.sites / ".a.json.part").write_text("of an interrupted write")
    assert [record.name for record in site_records(home)] == ["a", "b"]
    assert {path.stat().st_mode & 0o777 for path in home.sites.glob("?.json")} == {0o600}


def test_a_copied_folder_is_refused(home: Home, tmp_path: Path) -> None:
    first = Hospital(home, tmp_path, "a")
    approve(home, first.request(), now=NOW)
    copied = Hospital(home, tmp_path, "b", keys=first)
    with pytest.raises(ConfigError, match="a key of b is a's: its folder was copied"):
        approve(home, copied.request(), now=NOW)
    assert read_site_record(home, "b").state == "invited"


def test_a_site_that_is_approved_is_neither_invited_nor_approved_again(
    home: Home, tmp_path: Path
) -> None:
    hospital = Hospital(home, tmp_path, "a")
    approve(home, hospital.request(), now=NOW)
    with pytest.raises(ConfigError, match="a is approved already"):
        Hospital(home, tmp_path, "a")
    with pytest.raises(ConfigError, match="a is approved already"):
        approve(home, hospital.request(), now=NOW)


def test_an_unknown_invitation_is_refused(home: Home, tmp_path: Path) -> None:
    hospital = Hospital(home, tmp_path, "a")
    unknown = hospital.request().model_copy(update={"invitation": "f" * 32})
    with pytest.raises(ConfigError, match="an invitation that is unknown here"):
        approve(home, unknown, now=NOW)
    with pytest.raises(ConfigError, match="no site called c was invited here; known: a"):
        approve(home, hospital.request().model_copy(update={"name": "c"}), now=NOW)


def test_a_newer_invitation_takes_the_place_of_the_older(home: Home, tmp_path: Path) -> None:
    older, newer = Hospital(home, tmp_path, "a"), Hospital(home, tmp_path, "a")
    with pytest.raises(ConfigError, match="replaced by a newer one"):
        approve(home, older.request(), now=NOW)
    approve(home, newer.request(), now=NOW)


def test_an_expired_invitation_is_refused(home: Home, tmp_path: Path) -> None:
    hospital = Hospital(home, tmp_path, "a")
    with pytest.raises(ConfigError, match=r"counted until 2026-12-12 12:00 UTC"):
        approve(home, hospital.request(), now=NOW + timedelta(days=14))


def test_two_commands_at_once_do_not_let_a_copied_folder_in(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was checked still holds when it is written."""
    first = Hospital(home, tmp_path, "a")
    copied = Hospital(home, tmp_path, "b", keys=first)

    def read_slowly(home: Home, name: str) -> SiteRecord:
        record = read_site_record(home, name)
        time.sleep(0.1)
        return record

    monkeypatch.setattr(sites, "read_site_record", read_slowly)
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(approve, home, one.request(), now=NOW) for one in (first, copied)]
    assert sorted(one.exception() is None for one in done) == [False, True]
    assert sorted(record.state for record in site_records(home)) == ["approved", "invited"]


def test_a_revoked_name_comes_back_with_new_keys_only(home: Home, tmp_path: Path) -> None:
    first = Hospital(home, tmp_path, "a")
    approve(home, first.request(), now=NOW)
    revoke(home, "a", now=NOW)
    with pytest.raises(ConfigError, match="a was revoked at 2026-11-28; invite a again"):
        approve(home, first.request(), now=NOW)
    again = Hospital(home, tmp_path, "a", keys=first)
    with pytest.raises(ConfigError, match="was revoked, as a's"):
        approve(home, again.request(), now=NOW)
    elsewhere = Hospital(home, tmp_path, "b", keys=first)
    with pytest.raises(ConfigError, match="was revoked, as a's"):
        approve(home, elsewhere.request(), now=NOW)
    anew = Hospital(home, tmp_path, "a")
    record = approve(home, anew.request(), now=NOW)
    assert set(first.request().model_dump().values()) >= set(record.retired) != set()
    revoke(home, "a", now=NOW)
    third = Hospital(home, tmp_path, "a", keys=first)
    with pytest.raises(ConfigError, match="was revoked, as a's"):
        approve(home, third.request(), now=NOW)


def test_an_invitation_can_be_withdrawn(home: Home, tmp_path: Path) -> None:
    hospital = Hospital(home, tmp_path, "a")
    revoke(home, "a", now=NOW)
    with pytest.raises(ConfigError, match="was revoked"):
        approve(home, hospital.request(), now=NOW)
    with pytest.raises(ConfigError, match="revoked already"):
        revoke(home, "a", now=NOW)


@pytest.mark.parametrize("name", ["../a", "", "a b", "x" * 33])
def test_a_name_that_is_none_reaches_no_file(home: Home, name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be a site's name"):
        revoke(home, name, now=NOW)
    with pytest.raises(ConfigError, match="cannot be a site's name"):
        Hospital(home, tmp_path, name)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"name": "a", "surprise": 1}'])
def test_a_damaged_record_is_named(home: Home, text: str) -> None:
    (home.sites / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.json is no record of a site"):
        site_records(home)


def test_an_aggregator_without_lines_invites_nobody(tmp_path: Path) -> None:
    home = create_home(tmp_path / "x", name="example", address="localhost:8443", now=NOW)
    with pytest.raises(ConfigError, match="trains no lines"):
        invite(home, "a", tmp_path / "a.invitation", days=14, now=NOW)
    assert site_records(home) == ()


def test_an_invitation_is_never_written_over_a_file(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "a.invitation"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        invite(home, "a", out, days=14, now=NOW)
    assert out.read_text() == "mine"
    assert site_records(home) == ()


def test_facts_say_when_a_site_was_seen_where_somebody_looked(home: Home, tmp_path: Path) -> None:
    request = Hospital(home, tmp_path, "a").request()
    record = approve(home, request, now=NOW)
    facts = site_facts(record)
    assert facts["node_key"] == show_fingerprint(request.fingerprint)
    assert (facts["last_seen"], facts["online"]) == (None, None)
    facts = site_facts(record, {"a": Seen(last=NOW, online=True)})
    assert (facts["last_seen"], facts["online"]) == ("2026-11-28T12:00:00Z", True)
