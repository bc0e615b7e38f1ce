"""``iodeep model history --graph``."""

import json
from pathlib import Path

import pytest

from federation.errors import RegistryError
from federation.iodeep.manifest import Reference, ReleaseManifest, VersionManifest
from federation.iodeep.signature import SigningKey
from federation.registry import Registry
from federation.releases import promote, roll_back
from tests.federation.commands.conftest import Iodeep
from tests.federation.iodeep.records import LINE, tensors, version

Versions = dict[str, VersionManifest]


@pytest.fixture
def releases(registry: Registry, versions: Versions) -> None:
    for name in ("main:1", "fork:1"):
        promote(registry, versions[name])
    roll_back(registry, LINE)


def lines(iodeep: Iodeep, address: str, *words: str) -> list[str]:
    shown = iodeep("history", str(LINE), address, "--graph", *words)
    assert shown.exit_code == 0, shown.output
    return [line.strip() for line in shown.stdout.splitlines()]


@pytest.mark.usefixtures("releases")
def test_branches_fork_and_releases_are_marked(
    iodeep: Iodeep, address: str, versions: Versions
) -> None:
    title, _, *rows = lines(iodeep, address)
    assert title == str(LINE)
    assert [row.split("  ")[0] for row in rows] == [
        "● main:0", "★ main:1", "├─● fork:1", "● main:2", "● main:3"
    ]  # fmt: skip
    assert rows[1].endswith("0.1000           RELEASED, release 1 (promote), 3 (rollback)")
    assert f"…{versions['fork:1'].uid[-8:]}" in rows[2]
    assert versions["fork:1"].weights.digest[:12] in rows[2]
    assert rows[2].endswith("release 2 (promote), from main:1")
    assert rows[4].endswith("best of its branch")


def test_long_runs_are_one_row_with_the_range_of_their_dice(
    iodeep: Iodeep, address: str, registry: Registry, versions: Versions
) -> None:
    parent = versions["main:3"].reference
    for round in range(4, 10):
        manifest, parts = version(tensors(round), round=round, parent=parent)
        registry.publish(manifest, parts)
        parent = manifest.reference
    rows = lines(iodeep, address)
    (run,) = [row for row in rows if row.startswith("┊")]
    assert run.split() == ["┊", "rounds", "4-8", "5", "versions", "-"]


def test_a_parent_elsewhere_is_said_and_set_apart(
    iodeep: Iodeep, address: str, registry: Registry, versions: Versions
) -> None:
    elsewhere = Reference(uid="2.25.123456789", digest="9" * 64)
    registry.publish(*version(branch="orphan", round=5, parent=elsewhere))
    *_, above, orphan = lines(iodeep, address)
    assert above == ""
    assert "● orphan:5" in orphan
    assert orphan.endswith("its parent …23456789 is not here")
    found = json.loads(iodeep("history", str(LINE), address, "--graph", "--json").stdout)
    (branch,) = [branch for branch in found["branches"] if branch["branch"] == "orphan"]
    parent = branch["versions"][0]["parent"]
    assert (parent["version"], parent["here"], parent["branch"]) == (elsewhere.uid, False, None)


@pytest.mark.usefixtures("releases")
def test_with_a_signer_only_its_releases_count(
    iodeep: Iodeep, address: str, versions: Versions, tmp_path: Path
) -> None:
    assert any(
        "★" in row for row in lines(iodeep, address, "--signer", f"{tmp_path}/release.key.pub")
    )
    SigningKey.create(tmp_path / "other.key")
    other = ("--signer", f"{tmp_path}/other.key.pub")
    *rows, note = lines(iodeep, address, *other)
    assert not any("★" in row or "release" in row for row in rows)
    assert note == "not signed by a key of --signer, so not counted: release 1, 2, 3"
    found = json.loads(iodeep("history", str(LINE), address, "--graph", "--json", *other).stdout)
    assert (found["released"], len(found["refused"])) == (None, 3)


def test_a_release_of_a_version_that_is_not_here_is_said(
    iodeep: Iodeep, address: str, registry: Registry, versions: Versions
) -> None:
    gone, _ = version(branch="gone", round=4)
    forged = ReleaseManifest(
        line=LINE, branch="gone", round=4, of=gone.reference, series=gone.series_uid,
        number=1, action="promote",
    )  # fmt: skip
    registry.publish(forged)
    *_, note = lines(iodeep, address)
    assert note.startswith("release 1 (promote) points to gone:4")
    assert note.endswith("is not whole in this archive and is the released version")


@pytest.mark.usefixtures("releases")
def test_json_has_branches_versions_parents_and_releases(
    iodeep: Iodeep, address: str, versions: Versions
) -> None:
    found = json.loads(iodeep("history", str(LINE), address, "--graph", "--json").stdout)
    assert found["released"] == versions["main:1"].uid
    assert [(b["branch"], b["begun"], len(b["versions"])) for b in found["branches"]] == [
        ("main", "20250101", 4), ("fork", "20250102", 1)
    ]  # fmt: skip
    (fork,) = found["branches"][1]["versions"]
    assert fork["parent"] == {
        "version": versions["main:1"].uid, "digest": versions["main:1"].digest, "here": True,
        "branch": "main", "round": 1,
    }  # fmt: skip
    assert fork["validation_dice_mean"] == 0.1
    assert [(r["number"], r["action"], r["version"]) for r in found["releases"]] == [
        (1, "promote", versions["main:1"].uid), (2, "promote", versions["fork:1"].uid),
        (3, "rollback", versions["main:1"].uid),
    ]  # fmt: skip


def test_options_that_do_not_go_together_are_wrong_usage(
    iodeep: Iodeep, address: str, tmp_path: Path, key: SigningKey
) -> None:
    signer = ("--signer", f"{tmp_path}/release.key.pub")
    for words in (("--graph", "--branch", "main"), signer):
        assert iodeep("history", str(LINE), address, *words).exit_code == 2


def test_an_absent_line_is_said(iodeep: Iodeep, address: str) -> None:
    failure = iodeep("history", str(LINE), address, "--graph").exception
    assert isinstance(failure, RegistryError)
