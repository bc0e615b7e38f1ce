"""How versions come from each other, and how that is drawn."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.errors import RegistryError
from federation.iodeep.header import Stamp
from federation.iodeep.manifest import Measured, Reference, ReleaseManifest, VersionManifest
from federation.iodeep.signature import SigningKey
from federation.lineage import Drawn, Version, draw, read_history
from federation.pacs import Archive, Gateway, open_gateway
from federation.registry import Registry
from federation.releases import promote, roll_back
from federation.trust import Rule, TrustList
from tests.federation.iodeep.records import LINE, evaluation, tensors, version


def reference(name: str) -> Reference:
    return Reference(uid=f"2.25.{int.from_bytes(name.encode())}", digest="0" * 64)


def made(name: str, parent: str | None = None, dice: float | None = None) -> Version:
    branch, _, round = name.partition(":")
    return Version(
        branch=branch,
        round=int(round),
        reference=reference(name),
        parent=reference(parent) if parent else None,
        weights_digest="0" * 64,
        parameters=1,
        sites=2,
        score=dice,
    )


def straight(branch: str, first: int, last: int, parent: str | None = None) -> list[Version]:
    versions = []
    for round in range(first, last + 1):
        versions.append(made(f"{branch}:{round}", parent))
        parent = f"{branch}:{round}"
    return versions


def text(versions: list[Version]) -> list[str]:
    return [spelled(row) for row in draw(versions)]


def spelled(row: Drawn) -> str:
    names = [version.name for version in row.versions]
    shown = names[0] if len(names) == 1 else f"{names[0]}-{row.versions[-1].round}"
    return f"{row.lanes}{row.mark} {shown}{' <' if row.start else ''}"


# --- drawing ------------------------------------------------------------------------------


def test_a_long_run_of_rounds_is_one_row() -> None:
    assert text(straight("main", 0, 100)) == ["● main:0 <", "┊ main:1-99", "● main:100"]


def test_a_short_run_stays_as_it_is() -> None:
    assert len(draw(straight("main", 0, 4))) == 5
    assert len(draw(straight("main", 0, 5))) == 3


def test_released_promoted_and_best_rounds_are_not_hidden() -> None:
    versions = [
        Version(
            **{
                **{name: getattr(v, name) for name in Version.__slots__},
                "score": 0.9 if v.round == 20 else 0.5,
                "released": v.round == 10,
                "releases": (release(1),) if v.round == 10 else (),
            }
        )
        for v in straight("main", 0, 30)
    ]
    rows = draw(versions)
    assert [spelled(row) for row in rows] == [
        "● main:0 <", "┊ main:1-9", "★ main:10", "┊ main:11-19", "● main:20", "┊ main:21-29",
        "● main:30",
    ]  # fmt: skip
    assert [row.best for row in rows].index(True) == 4


def release(number: int) -> ReleaseManifest:
    manifest, _ = version()
    return ReleaseManifest(
        line=LINE, branch="main", round=0, of=manifest.reference, series=manifest.series_uid,
        number=number, action="promote",
    )  # fmt: skip


def test_branches_fork_where_they_start_and_their_lanes_close() -> None:
    versions = [
        *straight("main", 0, 2),
        *straight("a", 1, 2, "main:1"),
        *straight("b", 0, 0, "main:1"),
        *straight("c", 3, 3, "a:1"),
    ]
    assert text(versions) == [
        "● main:0 <",
        "● main:1",
        "├─● a:1",
        "│ ├─● c:3",
        "│ ● a:2",
        "├─● b:0",
        "● main:2",
    ]


def test_runs_started_each_from_the_last_stay_in_one_lane() -> None:
    versions = [v for n in range(50) for v in straight(f"r{n}", 0, 1, f"r{n - 1}:1" if n else None)]
    assert {row.lanes for row in draw(versions)} == {""}


def test_a_parent_that_is_absent_is_a_new_start() -> None:
    versions = [*straight("main", 0, 1), *straight("main", 3, 4, "main:2")]
    assert text(versions) == ["● main:0 <", "● main:1", "● main:3 <", "● main:4"]


def test_a_gap_in_the_rounds_is_not_hidden_in_a_run() -> None:
    versions = [*straight("main", 0, 6), *straight("main", 8, 14, "main:6")]
    assert text(versions) == [
        "● main:0 <", "┊ main:1-5", "● main:6", "● main:8", "┊ main:9-13", "● main:14"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "versions",
    [
        [made("a:0", "a:0")],
        [made("a:0", "a:2"), made("a:1", "a:0"), made("a:2", "a:1")],
        [*straight("main", 0, 9), made("x:0", "y:0"), made("y:0", "x:0"), made("z:0", "y:0")],
    ],
    ids=["itself", "three", "beside others"],
)
def test_a_circle_is_drawn_once(versions: list[Version]) -> None:
    shown = [one.reference for row in draw(versions) for one in row.versions]
    assert sorted(shown, key=str) == sorted((v.reference for v in versions), key=str)


def test_a_parent_with_another_digest_is_another_version() -> None:
    child = made("main:1", "main:0")
    other = Reference(uid=reference("main:0").uid, digest="1" * 64)
    root = Version(**{**{n: getattr(child, n) for n in Version.__slots__}, "reference": other,
                      "round": 0, "parent": None})  # fmt: skip
    assert [row.start for row in draw([root, child])] == [True, True]


def test_thousands_of_forks_into_forks_are_drawn() -> None:
    versions = [made("b0:0")]
    for n in range(1, 3000):  # each is forked from the first version of the one before
        versions += [made(f"b{n}:0", f"b{n - 1}:0"), made(f"b{n - 1}:1", f"b{n - 1}:0")]
    assert len(draw(versions)) == len(versions)


# --- reading ------------------------------------------------------------------------------


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    Archive(tmp_path / "archive").close()
    with open_gateway(f"folder:{tmp_path / 'archive'}") as gateway:
        yield gateway


def publish(
    registry: Registry, branch: str, rounds: range, parent: Reference | None, date: str
) -> list[VersionManifest]:
    stamp = Stamp(study_date=date, study_time="1200", content_date=date, content_time="1200")
    published: list[VersionManifest] = []
    for round in rounds:
        manifest, parts = version(tensors(round), branch=branch, round=round, parent=parent)
        registry.publish(manifest, parts, stamp)
        published.append(manifest)
        parent = manifest.reference
    return published


def test_a_line_is_read_with_its_branches_dice_and_releases(
    gateway: Gateway, tmp_path: Path
) -> None:
    key = SigningKey.create(tmp_path / "key")
    registry = Registry(gateway, signer=key)
    fork = publish(registry, "fork", range(1, 3), None, "20250102")
    main = publish(registry, "main", range(2), None, "20250101")
    late = publish(registry, "late", range(1, 2), main[0].reference, "20250103")
    for by, dice in (("aggregator", 0.7), ("zz", 0.1)):
        measured = Measured(metrics={"validation_dice_mean": dice}, cases={"validation": 2})
        shown = evaluation(main[1]).model_copy(update={"by": by, "measured": measured})
        registry.publish(shown)
    promote(registry, main[1])
    promote(registry, fork[1])
    roll_back(registry, LINE)
    with open_gateway(f"folder:{tmp_path / 'archive'}") as other:
        history = read_history(Registry(other), LINE)
        strange = TrustList([Rule.of_key(SigningKey.create(tmp_path / "stranger").public)])
        asked = read_history(Registry(other, trust=strange), LINE)
    assert [v.name for v in history.versions] == ["main:0", "main:1", "fork:1", "fork:2", "late:1"]
    released = history.find(main[1].reference)
    assert released is not None
    assert (released.score, released.released, released.sites) == (0.7, True, 1)
    assert [(d.number, d.action) for d in released.releases] == [(1, "promote"), (3, "rollback")]
    assert [v.name for v in history.versions if v.released] == ["main:1"]
    assert text(list(history.versions)) == [
        "● main:0 <", "├─● late:1", "★ main:1", "● fork:1 <", "● fork:2"
    ]  # fmt: skip
    assert late[0].lineage.parent == main[0].reference
    assert history.astray == ()
    assert not any(v.releases or v.released for v in asked.versions)
    assert {one.release.number for one in asked.releases.refused} == {1, 2, 3}


def test_a_release_of_what_is_not_here_is_kept_apart(gateway: Gateway) -> None:
    registry = Registry(gateway)
    publish(registry, "main", range(1), None, "20250101")
    gone, _ = version(tensors(77), branch="gone", round=4)
    document = release(1).model_copy(update={"of": gone.reference, "series": gone.series_uid})
    registry.publish(document)
    history = read_history(registry, LINE)
    assert history.astray == (document,)
    assert not any(v.released for v in history.versions)


def test_an_archive_without_the_line_says_so(gateway: Gateway) -> None:
    with pytest.raises(RegistryError, match="no complete version"):
        read_history(Registry(gateway), LINE)
