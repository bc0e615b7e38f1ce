"""Whoever has the archive's disk but no trusted key changes a signed lineage: it is found where.

Three ways: the manifest is edited where it lies; the whole record is written anew with digests and
UIDs that fit, under the signature it had, none, or the attacker's own; bytes of weights change.
What is deleted and not replaced cannot be noticed, unless something stands on it.
"""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from pydicom import dcmread

from federation.errors import IODeepError, RegistryError, SignatureError
from federation.iodeep.codec import Record, describe_weights, read_record, write_record
from federation.iodeep.header import CREATOR, ELEMENT_MANIFEST, ELEMENT_SIGNATURE, GROUP
from federation.iodeep.labels import find_concept
from federation.iodeep.manifest import (
    AnyManifest,
    EvaluationManifest,
    ReleaseManifest,
    VersionManifest,
    parse_manifest,
)
from federation.iodeep.signature import Signature, SigningKey
from federation.pacs import Archive, open_gateway
from federation.registry import Checked, Registry
from federation.releases import promote, read_releases, released, roll_back
from federation.trust import Rule, TrustList
from tests.federation.iodeep.records import LINE, evaluation, tensors, version

PART_BYTES = 5000
ATTACKED = 4  # the version with a child, an evaluation and a release of its own


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Ten rounds with an evaluation each; version 2 was released, then 4, then 2 again."""

    folder: Path
    key: SigningKey
    versions: list[VersionManifest]
    evaluations: list[EvaluationManifest]
    releases: list[ReleaseManifest]

    def attacked(self, kind: str) -> AnyManifest:
        if kind == "RELEASE":
            return self.releases[-1]
        return (self.versions if kind == "VERSION" else self.evaluations)[ATTACKED]

    def on_top_of(self, kind: str) -> set[str]:
        """The UIDs of what stands on the attacked record."""
        if kind != "VERSION":
            return set()
        child, measured = self.versions[ATTACKED + 1], self.evaluations[ATTACKED]
        return {child.uid, measured.uid, self.releases[1].uid}


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    folder = tmp_path_factory.mktemp("lineage")
    key = SigningKey.create(folder / "ours.key")
    with Archive(folder / "archive"):
        pass
    versions: list[VersionManifest] = []
    evaluations = []
    with open_gateway(f"folder:{folder}/archive") as gateway:
        registry = Registry(gateway, trust=TrustList([Rule.of_key(key.public)]), signer=key)
        for number in range(10):
            parent = versions[-1].reference if versions else None
            manifest, parts = version(
                tensors(number), round=number, parent=parent, part_bytes=PART_BYTES
            )
            registry.publish(manifest, parts)
            versions.append(manifest)
            evaluations.append(evaluation(manifest, dice=number / 10))
            registry.publish(evaluations[-1])
        releases = [
            promote(registry, versions[2], "first"),
            promote(registry, versions[ATTACKED], "better"),
            roll_back(registry, LINE, "worse after all"),
        ]
        assert [one for one in check(registry) if one.problem] == []
    return Lineage(
        folder=folder / "archive", key=key, versions=versions, evaluations=evaluations,
        releases=releases,
    )  # fmt: skip


@pytest.fixture
def archive(lineage: Lineage, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(lineage.folder, tmp_path / "archive"))


@contextmanager
def opened(archive: Path, lineage: Lineage) -> Iterator[Registry]:
    with open_gateway(f"folder:{archive}") as gateway:
        yield Registry(gateway, trust=TrustList([Rule.of_key(lineage.key.public)]))


def check(registry: Registry) -> list[Checked]:
    """Every record of every branch, wherever it was moved to."""
    return [
        outcome
        for branch in registry.branches()
        for outcome in registry.verify(branch.line, branch.name)
    ]


def file_of(archive: Path, uid: str) -> Path:
    with Archive(archive) as opened_archive:
        (stored,) = opened_archive.instances(instance=uid)
        return stored.path


# --- what is changed ----------------------------------------------------------------------

BRAIN = find_concept("brain", anatomy=True).model_dump()
TUMOUR = find_concept("Neoplasm", anatomy=False).model_dump()
COMMON = [
    ("line.modality", "CT"), ("line.region", BRAIN), ("line.region.meaning", "Hippocampi"),
    ("line.disease", TUMOUR), ("line.slug", "other"), ("branch", "other"), ("round", 77),
]  # fmt: skip
FIELDS: list[tuple[str, str, Any]] = [
    *(("VERSION", *change) for change in [
        *COMMON,
        ("architecture.network", "monai.DynUNet"), ("architecture.arguments.channels.0", 5),
        ("preprocessing.spacing_mm.0", 2), ("preprocessing.intensity", "none"),
        ("preprocessing.orientation", "LAS"), ("preprocessing.size.2", 8),
        ("outputs.0.name", "posterior hippocampus"), ("outputs.0.number", 2),
        ("outputs.0.modifier", None), ("outputs", []),
        ("lineage.parent", None), ("lineage.parent.uid", "2.25.1"),
        ("lineage.parent.digest", "f" * 64), ("lineage.config_digest", "f" * 64),
        ("lineage.strategy", "fedadam"), ("lineage.receipts", []),
        ("lineage.receipts.0.site", "B"), ("lineage.receipts.0.examples", 4),
        ("lineage.receipts.0.update_digest", "f" * 64), ("lineage.receipts.0.metrics.loss", 0.4),
        ("weights.parameters", 1),
    ]),
    *(("EVALUATION", *change) for change in [
        *COMMON,
        ("of.uid", "2.25.1"), ("of.digest", "f" * 64), ("by", "B"),
        ("measured.metrics.test_dice_mean", 0.99), ("measured.cases.test", 200),
        ("measured.quarantined", {"no label": 1}), ("sites", {"B": {"metrics": {}, "cases": {},
                                                                   "quarantined": {}}}),
        ("missing", {"B": "late"}),
    ]),
    *(("RELEASE", *change) for change in [
        *COMMON,
        ("of.uid", "2.25.1"), ("of.digest", "f" * 64), ("series", "2.25.1"), ("number", 9),
        ("action", "promote"), ("previous", None), ("previous.digest", "f" * 64),
        ("reason", "the board said so"),
    ]),
]  # fmt: skip
UNFIT = [
    ("VERSION", "weights.digest", "f" * 64), ("VERSION", "weights.parts.0.sha256", "f" * 64),
    ("VERSION", "weights.parts.1.bytes", 9),
    ("VERSION", "kind", "STATE"), ("RELEASE", "kind", "VERSION"),
]  # fmt: skip
"""What does not fit the weights or the kind, so that no record can be written with it."""

FEW = ("line.slug", "line.region.meaning", "branch", "round", "lineage.parent.digest",
       "weights.parameters", "by", "action", "of.digest")  # fmt: skip


def shown(case: object) -> str:
    return case if isinstance(case, str) else ""


def changed(manifest: AnyManifest, field: str, value: Any) -> bytes:
    """The canonical JSON with another value in one place."""
    document = json.loads(manifest.canonical)
    *path, last = field.split(".")
    where = document
    for key in path:
        where = where[int(key)] if isinstance(where, list) else where[key]
    key = int(last) if isinstance(where, list) else last
    assert where[key] != value
    where[key] = value
    return rfc8785.dumps(document)


def edit(path: Path, text: bytes) -> None:
    """The manifest in a stored file, nothing else touched."""
    ds = dcmread(path)
    ds.private_block(GROUP, CREATOR)[ELEMENT_MANIFEST].value = text.decode()
    ds.save_as(path)


@dataclass(frozen=True)
class Forged:
    """How the attacker signs what is written anew, and what is said of it."""

    name: str
    refused: str

    def signature(self, record: Record, manifest: AnyManifest, folder: Path) -> Signature | None:
        if self.name == "none":
            return None
        if self.name == "kept":
            return record.signature
        own = SigningKey.create(folder / "attacker.key")
        signed = own.sign(manifest.canonical)
        if self.name == "own":
            return signed
        assert record.signature is not None
        return Signature(fingerprint=record.signature.fingerprint, value=signed.value)


FORGED = [
    Forged("kept", "does not fit"), Forged("none", "not signed"),
    Forged("own", "not trusted"), Forged("own under our name", "does not fit"),
]  # fmt: skip


def replace(
    archive: Path, old: AnyManifest, forged: Forged, text: bytes | None = None, *, parts: Any = None
) -> AnyManifest:
    """Write a record anew, all its digests and UIDs right, and put it in the place of another."""
    folder = archive.parent / "forged"
    folder.mkdir()
    with Archive(archive) as store:
        paths = [one.path for one in store.instances(series=old.series_uid)]
        record = read_record(paths)
        manifest = parse_manifest(text or old.canonical)
        if parts is None:
            parts = [part.chunks() for part in record.parts]
        else:
            assert isinstance(manifest, VersionManifest)
            weights, parts = describe_weights(parts, PART_BYTES)
            manifest = manifest.model_copy(update={"weights": weights})
        signature = forged.signature(record, manifest, folder)
        written = write_record(folder, manifest, parts, record.stamp, signature)
        for path in paths:
            path.unlink()
        database = sqlite3.connect(archive / "index.sqlite")
        with database:
            database.execute("DELETE FROM instance WHERE SeriesInstanceUID = ?", [old.series_uid])
        database.close()
        for path in written:
            store.ingest(path)
    return manifest


# --- what is found ------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "field", "value"), [*FIELDS, *UNFIT], ids=shown)
def test_an_edited_manifest_is_found_where_it_lies(
    lineage: Lineage, archive: Path, kind: str, field: str, value: Any
) -> None:
    original = lineage.attacked(kind)
    edit(file_of(archive, original.uid), changed(original, field, value))
    with opened(archive, lineage) as registry:
        (problem,) = [one for one in check(registry) if one.problem]
        assert (problem.uid, problem.branch) == (original.uid, "main")
        assert problem.round == number_of(original)
        refuses(registry, lineage, original, original)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [pytest.param(*case, marks=[] if case[1] in FEW else [pytest.mark.soak]) for case in FIELDS],
    ids=shown,
)
def test_a_record_written_anew_is_found_with_what_stands_on_it(
    lineage: Lineage, archive: Path, kind: str, field: str, value: Any
) -> None:
    """Its signature is the only thing that does not fit."""
    original = lineage.attacked(kind)
    forged = replace(archive, original, FORGED[0], changed(original, field, value))
    with opened(archive, lineage) as registry:
        finds(registry, lineage, original, forged, "does not fit")


@pytest.mark.parametrize("forged", FORGED[1:], ids=lambda forged: forged.name)
@pytest.mark.parametrize("kind", ["VERSION", "EVALUATION", "RELEASE"])
def test_nor_does_the_attacker_s_own_signature_or_none_help(
    lineage: Lineage, archive: Path, kind: str, forged: Forged
) -> None:
    original = lineage.attacked(kind)
    field, value = {
        "VERSION": ("lineage.strategy", "fedadam"),
        "EVALUATION": ("measured.metrics.test_dice_mean", 0.99),
        "RELEASE": ("action", "promote"),
    }[kind]
    manifest = replace(archive, original, forged, changed(original, field, value))
    with opened(archive, lineage) as registry:
        finds(registry, lineage, original, manifest, forged.refused)


def test_other_weights_under_right_digests_are_found(lineage: Lineage, archive: Path) -> None:
    original = lineage.attacked("VERSION")
    forged = replace(archive, original, FORGED[0], parts=tensors(99))
    with opened(archive, lineage) as registry:
        finds(registry, lineage, original, forged, "does not fit")


@pytest.mark.parametrize("forged", FORGED[1:], ids=lambda forged: forged.name)
@pytest.mark.parametrize("kind", ["VERSION", "EVALUATION", "RELEASE"])
def test_another_signature_of_the_same_content_is_found(
    lineage: Lineage, archive: Path, kind: str, forged: Forged
) -> None:
    original = lineage.attacked(kind)
    replace(archive, original, forged)
    with opened(archive, lineage) as registry:
        (problem,) = [one for one in check(registry) if one.problem]
        assert (problem.uid, problem.kind, problem.branch) == (original.uid, kind, "main")
        assert forged.refused in str(problem.problem)
        refuses(registry, lineage, original, original)


@pytest.mark.parametrize("kind", ["VERSION", "EVALUATION", "RELEASE"])
@pytest.mark.parametrize("byte", [0, 31, 32, 95])
def test_a_changed_signature_is_found(
    lineage: Lineage, archive: Path, byte: int, kind: str
) -> None:
    original = lineage.attacked(kind)
    path = file_of(archive, original.uid)
    ds = dcmread(path)
    element = ds.private_block(GROUP, CREATOR)[ELEMENT_SIGNATURE]
    value = bytearray(element.value)
    value[byte] ^= 1
    element.value = bytes(value)
    ds.save_as(path)
    with opened(archive, lineage) as registry:
        (problem,) = [one for one in check(registry) if one.problem]
        assert (problem.uid, problem.kind, problem.branch) == (original.uid, kind, "main")
        refuses(registry, lineage, original, original)


@pytest.mark.parametrize("number", [0, 4, 9])
def test_a_changed_byte_of_weights_is_found_in_every_part(
    lineage: Lineage, archive: Path, number: int
) -> None:
    """In the header that says which tensors there are, in the first of them, in the last."""
    attacked = lineage.versions[number]
    assert len(attacked.weights.parts) == 3
    for part, described in enumerate(attacked.weights.parts, start=1):
        path = file_of(archive, attacked.part_uid(part))
        whole = path.read_bytes()
        start = len(whole) - described.bytes - described.bytes % 2
        header = int.from_bytes(whole[start : start + 8], "little")
        content = bytearray(whole)
        content[(start + 10, start + 8 + header, start + described.bytes - 1)[part - 1]] ^= 4
        path.write_bytes(content)
        with opened(archive, lineage) as registry:
            (problem,) = [one for one in check(registry) if one.problem]
            where = (problem.uid, problem.kind, problem.branch, problem.round)
            assert where == (attacked.uid, "VERSION", "main", number)
            assert f"weight part {part} " in str(problem.problem)
            refuses(registry, lineage, attacked, attacked)
        path.write_bytes(whole)
    with opened(archive, lineage) as registry:
        assert not any(one.problem for one in check(registry))


def finds(
    registry: Registry, lineage: Lineage, original: AnyManifest, forged: AnyManifest, why: str
) -> None:
    """The forged record is named, and whatever refers to the one that was there."""
    problems = {one.uid: one for one in check(registry) if one.problem}
    assert problems.keys() == {forged.uid} | lineage.on_top_of(original.kind)
    found = problems.pop(forged.uid)
    assert (found.kind, found.branch) == (forged.kind, forged.branch)
    assert found.round == number_of(forged)
    assert why in str(found.problem)
    assert all(original.uid in str(one.problem) for one in problems.values())
    refuses(registry, lineage, original, forged)
    if isinstance(forged, VersionManifest):
        with pytest.raises(SignatureError, match=why), registry.pull(forged):
            pass
        place = (forged.line, forged.branch, forged.round, forged.reference)
        with pytest.raises(SignatureError, match=why), registry.open(*place):
            pass


def refuses(
    registry: Registry, lineage: Lineage, original: AnyManifest, stored: AnyManifest
) -> None:
    """What was changed is not pulled, opened or released; nothing is released or measured by it."""
    if isinstance(original, VersionManifest):
        with pytest.raises(IODeepError), registry.pull(original):
            pass
        place = (original.line, original.branch, original.round, original.reference)
        with pytest.raises(IODeepError), registry.open(*place):
            pass
        with pytest.raises(IODeepError):
            promote(registry, original)
    found = read_releases(registry, LINE)
    believed = [one for one in lineage.releases if one.uid != original.uid]
    assert list(found.documents) == believed
    moved = stored.line.patient_id != LINE.patient_id
    elsewhere = read_releases(registry, stored.line).documents if moved else ()
    assert elsewhere == ()
    if isinstance(original, EvaluationManifest):
        branches = {(LINE, "main"), (stored.line, stored.branch)}
        measured = [one for branch in branches for one in registry.evaluations(*branch)]
        assert original not in measured
        assert all(one in lineage.evaluations for one in measured)
    if isinstance(original, ReleaseManifest):  # the rollback: without it, what was before counts
        assert found.current == lineage.releases[1]
        assert released(registry, LINE) == lineage.versions[ATTACKED]


def number_of(manifest: AnyManifest) -> int:
    """Series Number."""
    return manifest.number if isinstance(manifest, ReleaseManifest) else manifest.round


def test_what_is_deleted_is_noticed_only_by_what_stands_on_it(
    lineage: Lineage, archive: Path
) -> None:
    with Archive(archive) as store:
        for one in store.instances(series=lineage.versions[ATTACKED].series_uid):
            one.path.unlink()
    database = sqlite3.connect(archive / "index.sqlite")
    with database:
        database.execute(
            "DELETE FROM instance WHERE SeriesInstanceUID = ?",
            [lineage.versions[ATTACKED].series_uid],
        )
    database.close()
    with opened(archive, lineage) as registry:
        problems = {one.uid for one in check(registry) if one.problem}
        assert problems == lineage.on_top_of("VERSION")
        with (
            pytest.raises(RegistryError),
            registry.open(LINE, "main", ATTACKED, lineage.versions[ATTACKED].reference),
        ):
            pass
