"""Faults of the machine and of the keys, each by its name."""

import shutil
from collections import namedtuple
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from clients.doctor.machine import SOFTWARE
from federation.iodeep.signature import PublicKey, show_fingerprint
from tests.clients.doctor.conftest import Named, SiteFolder, troubles

Spoil = Callable[[SiteFolder], object]


def table(site: SiteFolder) -> dict[str, object]:
    """The only trust table."""
    trust: list[dict[str, object]] = site.document["policy"]["trust"]
    return trust[0]


FAULTS: dict[str, tuple[Spoil, Named]] = {
    "own key can be read by others": (
        lambda site: (site.path / "site.key").chmod(0o644),
        Named(about="keys", check="own key", words=["mode 644", "chmod 600"]),
    ),
    "own key is missing": (
        lambda site: (site.path / "site.key").unlink(),
        Named(about="keys", check="own key", words=["site.key", "No such file", "takes no part"]),
    ),
    "own key is none": (
        lambda site: (site.path / "site.key").write_text("nothing"),
        Named(about="keys", check="own key", words=["no private key in PEM"]),
    ),
    "split key is missing": (
        lambda site: (site.path / "split.key").unlink(),
        Named(about="keys", check="split key", words=["[data.brain]", "does not exist"]),
    ),
    "split key is empty": (
        lambda site: (site.path / "split.key").write_text("\n"),
        Named(about="keys", check="split key", words=["[data.brain]", "is empty"]),
    ),
    "a signer's key is missing": (
        lambda site: (site.path / "aggregator.key.pub").unlink(),
        Named(about="keys", check="trust", words=["*: key", "aggregator.key.pub", "No such file"]),
    ),
    "nobody is trusted": (
        lambda site: site.document["policy"].pop("trust"),
        Named(about="keys", check="trust", words=["names nobody", "no model is believed"]),
    ),
    "a trust table names no signers": (
        lambda site: table(site).pop("signers"),
        Named(about="keys", check="trust", words=["no signers", "no model is believed"]),
    ),
    "unsigned models are accepted": (
        lambda site: table(site).update(unsigned=True),
        Named(about="keys", check="trust", words=["without a signature"], outcome="warn"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_keys_is_named(site: SiteFolder, fault: str) -> None:
    spoil, named = FAULTS[fault]
    spoil(site)
    named.is_all_that_is_wrong(site.examine())


def test_a_site_that_signs_nothing_is_told_so(site: SiteFolder) -> None:
    del site.document["key"]
    table(site).update(unsigned=True)
    own, trust = troubles(site.examine())
    assert (own.check, own.outcome) == ("own key", "warn")
    assert "not signed" in own.seen
    assert trust.check == "trust"


def test_where_all_is_well_it_says_with_what(site: SiteFolder) -> None:
    found = site.examine()
    assert troubles(found) == []
    seen = {one.check: one.seen for one in found if one.about in ("machine", "keys")}
    assert list(seen) == [
        "versions", "device", "disk", "clock", "own key", "split key", "trust"
    ]  # fmt: skip
    assert all(name in seen["versions"] for name in SOFTWARE)
    assert "cores" in seen["device"]
    assert seen["clock"] == "2026-12-01 00:00 UTC"
    signer = PublicKey.read(site.path / "aggregator.key.pub")
    assert show_fingerprint(signer.fingerprint) in seen["trust"]


def test_a_clock_before_the_software_was_made_is_wrong(site: SiteFolder) -> None:
    zone = timezone(timedelta(hours=2))
    found = site.examine(now=datetime(2019, 5, 1, 10, 30, tzinfo=zone))
    Named(
        about="machine", check="clock", words=["2019-05-01 08:30 UTC", "before this software"]
    ).is_all_that_is_wrong(found)


def test_a_work_folder_that_cannot_be_written_into_stops_what_needs_it(site: SiteFolder) -> None:
    (site.path / "work").write_text("a file in its place")
    disk, store = [one for one in site.examine() if one.outcome != "pass"]
    assert (disk.about, disk.check, disk.outcome) == ("machine", "disk", "fail")
    assert f"nothing can be written into {site.path / 'work'}" in disk.seen
    assert (store.about, store.check, store.outcome) == ("models", "store", "fail")
    assert "cannot be written to" in store.seen


@pytest.mark.parametrize(("free", "outcome"), [(0.2e9, "fail"), (5e9, "warn"), (50e9, "pass")])
def test_a_full_disk_is_named(
    site: SiteFolder, monkeypatch: pytest.MonkeyPatch, free: float, outcome: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100e9, 100e9 - free, free))
    (disk,) = [one for one in site.examine() if one.check == "disk"]
    assert disk.outcome == outcome
    assert f"{free / 1e9:.1f} GB free at {site.path / 'work'}" in disk.seen
