"""The registry over the embedded archive: publishing, looking, pulling, checking."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.errors import DigestError, RegistryError, StorageError
from federation.iodeep.codec import write_record
from federation.iodeep.header import Stamp
from federation.iodeep.manifest import Reference, VersionManifest
from federation.iodeep.weights import weights_digest
from federation.pacs import Archive, ArchiveServer, Gateway, open_gateway
from federation.registry import UNFINISHED, Registry
from tests.federation.iodeep.records import LINE, evaluation, tensors, version


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive") as archive:
        yield archive


@pytest.fixture
def gateway(archive: Archive) -> Iterator[Gateway]:
    with (
        ArchiveServer(archive, ae_title="PEER") as server,
        open_gateway(server.address) as gateway,
    ):
        yield gateway


@pytest.fixture
def registry(gateway: Gateway, tmp_path: Path) -> Registry:
    return Registry(gateway, scratch=tmp_path / "scratch")


def publish_rounds(registry: Registry, count: int) -> list[VersionManifest]:
    """Rounds 0, 1 … of branch main, each with an evaluation."""
    versions: list[VersionManifest] = []
    for number in range(count):
        parent = versions[-1].reference if versions else None
        manifest, parts = version(tensors(number), round=number, parent=parent, part_bytes=8000)
        registry.publish(manifest, parts)
        registry.publish(evaluation(manifest, dice=number / 10))
        versions.append(manifest)
    return versions


def test_what_is_published_is_there_for_whoever_looks(registry: Registry, gateway: Gateway) -> None:
    versions = publish_rounds(registry, 3)
    other = Registry(gateway)
    assert other.versions(LINE, "main") == versions
    assert other.latest(LINE, "main") == versions[-1]
    measured = [evaluation.measured for evaluation in other.evaluations(LINE, "main")]
    assert [m.metrics["test_dice_mean"] for m in measured] == [0, 0.1, 0.2]
    (branch,) = other.branches()
    assert (branch.line, branch.name) == (LINE, "main")


def test_rounds_are_ordered_as_numbers(registry: Registry) -> None:
    for number in (10, 9, 2):
        registry.publish(*version(tensors(number), round=number))
    assert [v.round for v in registry.versions(LINE, "main")] == [2, 9, 10]


def test_a_pulled_version_is_bit_for_bit_what_was_published(registry: Registry) -> None:
    manifest, parts = version(part_bytes=8000)
    registry.publish(manifest, parts)
    with registry.pull(manifest) as record:
        assert {n: bytes(t.data) for n, t in record.tensors().items()} == {
            n: bytes(t.data) for n, t in tensors().items()
        }


def test_publishing_again_stores_nothing_and_other_content_is_refused(registry: Registry) -> None:
    assert registry.publish(*version()).stored == 2
    assert registry.publish(*version()).stored == 0
    with pytest.raises(RegistryError, match="never change"):
        registry.publish(*version(tensors(1)))
    assert registry.publish(*version(tensors(1), branch="other")).stored == 2


def test_a_branch_keeps_the_study_date_of_its_first_record(registry: Registry) -> None:
    first, parts = version()
    old = Stamp(study_date="20010203", study_time="040506", content_date="20010203",
                content_time="040506")  # fmt: skip
    registry.publish(first, parts, old)
    registry.publish(*version(tensors(1), round=1))
    assert {entry.stamp.study_date for entry in registry.entries(LINE, "main")} == {"20010203"}


def test_an_interrupted_publish_is_invisible_and_can_be_finished(
    registry: Registry, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, parts = version(part_bytes=8000)
    store = gateway.store

    def store_one(paths: list[Path]) -> None:
        store(paths[:1])
        raise StorageError("the network went away")

    monkeypatch.setattr(gateway, "store", store_one)
    with pytest.raises(StorageError):
        registry.publish(manifest, parts)
    monkeypatch.undo()
    assert registry.versions(LINE, "main") == []
    assert registry.entries(LINE, "main") == []
    with pytest.raises(RegistryError):
        registry.latest(LINE, "main")
    assert registry.publish(*version(part_bytes=8000)).stored == 2
    assert registry.versions(LINE, "main") == [manifest]


def test_an_archive_that_says_yes_and_keeps_nothing_is_found_out(
    registry: Registry, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "store", lambda paths: None)
    with pytest.raises(Exception, match="is not in"):
        registry.publish(*version())


def test_a_whole_line_verifies(registry: Registry) -> None:
    publish_rounds(registry, 3)
    outcomes = list(registry.verify(LINE, "main"))
    assert [(o.kind, o.round, o.problem) for o in outcomes] == [
        ("VERSION", 0, None), ("VERSION", 1, None), ("VERSION", 2, None),
        ("EVALUATION", 0, None), ("EVALUATION", 1, None), ("EVALUATION", 2, None),
    ]  # fmt: skip


@pytest.mark.parametrize("instance", ["manifest", "part"])
def test_one_changed_byte_at_rest_is_found_and_the_version_named(
    registry: Registry, archive: Archive, instance: str
) -> None:
    versions = publish_rounds(registry, 3)
    damaged = versions[1]
    uid = damaged.uid if instance == "manifest" else damaged.part_uid(2)
    (stored,) = archive.instances(instance=uid)
    content = bytearray(stored.path.read_bytes())
    position = content.index(b'"round":1') + 8 if instance == "manifest" else len(content) - 50
    content[position] ^= 1
    stored.path.write_bytes(content)
    problems = [outcome for outcome in registry.verify(LINE, "main") if outcome.problem]
    kind = "record" if instance == "manifest" else "VERSION"  # which only the manifest says
    assert [(p.uid, p.round, p.kind) for p in problems] == [(damaged.uid, 1, kind)]


def test_a_version_whose_parent_is_elsewhere_is_named(registry: Registry) -> None:
    publish_rounds(registry, 1)
    orphan, parts = version(tensors(5), round=5, parent=Reference(uid="2.25.9", digest="9" * 64))
    registry.publish(orphan, parts)
    (problem,) = [o for o in registry.verify(LINE, "main") if o.problem]
    assert problem.uid == orphan.uid
    assert "2.25.9" in str(problem.problem)


def test_a_missing_part_is_named(registry: Registry, archive: Archive) -> None:
    manifest, parts = version(part_bytes=8000)
    registry.publish(manifest, parts)
    (stored,) = archive.instances(instance=manifest.part_uid(1))
    stored.path.unlink()
    (problem,) = [o for o in registry.verify(LINE, "main") if o.problem]
    assert problem.uid == manifest.uid


def test_what_a_cut_off_publishing_leaves_is_no_damage_and_no_record(
    registry: Registry, tmp_path: Path
) -> None:
    first, parts = version()
    registry.publish(first, parts)
    cut, parts = version(round=1, parent=first.reference)
    written = tmp_path / "written"
    written.mkdir()
    *stored, _ = write_record(written, cut, parts, Stamp.now())
    registry._gateway.store(stored)
    again = Registry(registry._gateway)
    assert again.versions(LINE, "main") == [first]
    assert [(one.kind, one.problem) for one in again.verify(LINE, "main")] == [
        ("VERSION", None), (UNFINISHED, None)
    ]  # fmt: skip
    last, parts = version(round=2, parent=cut.reference)
    again.publish(last, parts)
    (problem,) = [one for one in again.verify(LINE, "main") if one.problem]
    assert problem.uid == last.uid


def test_opening_needs_the_exact_reference(registry: Registry) -> None:
    manifest, parts = version()
    registry.publish(manifest, parts)
    registry.publish(evaluation(manifest))
    with registry.open(LINE, "main", 0, manifest.reference) as record:
        assert record.version == manifest
        assert weights_digest(record.tensors()) == manifest.weights.digest
    other = Reference(uid=manifest.uid, digest="f" * 64)
    with pytest.raises(DigestError, match=manifest.uid), registry.open(LINE, "main", 0, other):
        pass
    absent = Reference(uid="2.25.1", digest=manifest.digest)
    with pytest.raises(RegistryError, match="is not in"), registry.open(LINE, "main", 0, absent):
        pass
