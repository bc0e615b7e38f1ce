"""Releases: signed documents in the archive, in an order that is the same for every reader."""

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pydicom
import pytest

from federation.errors import RegistryError
from federation.iodeep.codec import write_record
from federation.iodeep.header import Stamp
from federation.iodeep.manifest import ReleaseManifest, VersionManifest
from federation.iodeep.signature import SigningKey
from federation.pacs import Archive, ArchiveServer, open_gateway
from federation.registry import Registry
from federation.releases import promote, read_releases, released, roll_back
from federation.trust import Rule, TrustList
from tests.federation.iodeep.records import LINE, tensors, version
from tests.peers import peer


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "release.key")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with (
        Archive(tmp_path / "archive") as archive,
        ArchiveServer(archive, ae_title="PEER") as server,
    ):
        yield server.address


@pytest.fixture
def registry(address: str, key: SigningKey) -> Iterator[Registry]:
    with open_gateway(address) as gateway:
        yield Registry(gateway, trust=TrustList([Rule.of_key(key.public)]), signer=key)


def publish(registry: Registry, *numbers: int) -> list[VersionManifest]:
    published = []
    for number in numbers:
        manifest, parts = version(tensors(number), branch=f"b{number % 2}", round=number)
        registry.publish(manifest, parts)
        published.append(manifest)
    return published


def test_releasing_and_going_back_through_branches(registry: Registry) -> None:
    one, two, three = publish(registry, 1, 2, 3)
    with pytest.raises(RegistryError, match="is released here"):
        released(registry, LINE)
    for each in (one, two, three):
        assert promote(registry, each, "better on validation").of == each.reference
        assert released(registry, LINE) == each
    assert roll_back(registry, LINE).of == two.reference
    assert roll_back(registry, LINE).of == one.reference
    with pytest.raises(RegistryError, match="nothing to go back to"):
        roll_back(registry, LINE)
    promote(registry, three)
    assert roll_back(registry, LINE).of == one.reference
    found = read_releases(registry, LINE)
    assert [d.number for d in found.documents] == list(range(1, 8))
    assert [d.previous for d in found.documents[1:]] == [d.reference for d in found.documents[:-1]]


def test_releasing_what_is_released_writes_nothing(registry: Registry) -> None:
    (one,) = publish(registry, 1)
    assert promote(registry, one) == promote(registry, one, "again")
    assert len(read_releases(registry, LINE).documents) == 1


def test_releases_are_no_versions(registry: Registry) -> None:
    one, three = publish(registry, 1, 3)
    promote(registry, one)
    assert registry.versions(LINE, "b1") == [one, three]
    assert all(outcome.problem is None for outcome in registry.verify(LINE, "b1"))
    assert "RELEASE" in {outcome.kind for outcome in registry.verify(LINE, "b1")}


def test_a_document_that_no_trusted_key_signed_does_not_count(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    one, two = publish(registry, 1, 2)
    promote(registry, one)
    with open_gateway(address) as gateway:
        stranger = Registry(gateway, signer=SigningKey.create(tmp_path / "stranger.key"))
        assert promote(stranger, two).number == 2
        promote(Registry(gateway), one)  # unsigned
    found = read_releases(registry, LINE)
    assert found.current.of == one.reference
    assert len(found.refused) == 2
    assert released(registry, LINE) == one


def test_a_release_of_a_version_that_is_not_whole_says_so(registry: Registry, address: str) -> None:
    one, _ = version(branch="gone", round=4)
    (two,) = publish(registry, 2)
    promote(registry, two)
    forged = ReleaseManifest(
        line=LINE, branch="gone", round=4, of=one.reference, series=one.series_uid,
        number=2, action="promote",
    )  # fmt: skip
    registry.publish(forged)
    with pytest.raises(RegistryError, match="not whole in this archive"):
        released(registry, LINE)


def test_two_promotions_at_once_end_in_one_order(
    registry: Registry, address: str, key: SigningKey
) -> None:
    """One of them may be told that the other counts; every reader sees the same."""
    candidates = publish(registry, 1, 2, 3, 4)
    barrier = Barrier(len(candidates))
    told: list[str] = []

    def work(candidate: VersionManifest) -> None:
        with open_gateway(address) as gateway:
            own = Registry(gateway, signer=key)
            barrier.wait()
            try:
                promote(own, candidate)
            except RegistryError as error:
                told.append(str(error))

    with ThreadPoolExecutor(len(candidates)) as pool:
        list(pool.map(work, candidates))
    orders = set()
    for _ in range(3):
        with open_gateway(address) as gateway:
            found = read_releases(Registry(gateway), LINE)
            orders.add(tuple(document.uid for document in found.documents))
            assert released(Registry(gateway), LINE).reference == found.current.of
    assert len(orders) == 1
    assert len(orders.pop()) == len(candidates)
    assert all("comes after it" in text for text in told)


def test_a_document_is_a_key_object_selection_without_errors(
    registry: Registry, tmp_path: Path
) -> None:
    (one,) = publish(registry, 1)
    release = promote(registry, one, "first")
    (path,) = write_record(tmp_path, release, (), Stamp.now())
    ds = pydicom.dcmread(path)
    assert ds.SOPClassUID == pydicom.uid.KeyObjectSelectionDocumentStorage
    assert (ds.Modality, ds.ConceptNameCodeSequence[0].CodeValue) == ("KO", "113000")
    evidence = ds.CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.StudyInstanceUID == one.study_uid
    series = evidence.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == one.series_uid
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == one.uid
    done = subprocess.run(
        [peer("dciodvfy"), str(path)], capture_output=True, text=True, check=False
    )
    assert "Error" not in done.stdout + done.stderr


def test_any_change_to_a_release_is_found(registry: Registry, tmp_path: Path) -> None:
    one, three = publish(registry, 1, 3)
    promote(registry, one)
    release = read_releases(registry, LINE).current
    changed = release.model_copy(update={"of": three.reference, "series": three.series_uid})
    signed = registry.releases(LINE)[0][1]
    assert signed is not None
    folder = tmp_path / "changed"
    folder.mkdir()
    paths = write_record(folder, changed, (), Stamp.now(), signed)
    archive = tmp_path / "other"
    with Archive(archive), open_gateway(f"folder:{archive}") as gateway:
        gateway.store(paths)
        other = Registry(gateway, trust=registry.trust)
        found = read_releases(other, LINE)
        assert found.documents == ()
        assert "does not fit" in found.refused[0].problem
        (outcome,) = other.verify(LINE, "b1")
        assert outcome.problem is not None
    shutil.rmtree(folder)
