"""A site stores what its policy leaves room for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.doctor.room import examine_room
from clients.policy import check_room
from federation.config import StoreTable
from federation.errors import PolicyError
from federation.iodeep.manifest import VersionManifest
from federation.messages import Code, code_of
from federation.pacs import Archive, Gateway, open_gateway
from federation.registry import Registry
from tests.federation.iodeep.records import tensors, version


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Archive(tmp_path / "a"), open_gateway(f"folder:{tmp_path / 'a'}") as gateway:
        yield gateway


@pytest.fixture
def stored(gateway: Gateway) -> list[VersionManifest]:
    """Rounds 0 and 1 of a branch."""
    rounds = [version(tensors(number), round=number) for number in range(2)]
    for manifest, parts in rounds:
        Registry(gateway).publish(manifest, parts)
    return [manifest for manifest, _ in rounds]


def size(manifest: VersionManifest) -> int:
    return sum(part.bytes for part in manifest.weights.parts)


def test_what_models_take_is_known_from_their_manifests(
    gateway: Gateway, stored: list[VersionManifest]
) -> None:
    assert Registry(gateway).stored_bytes() == sum(map(size, stored))


def test_a_version_that_the_policy_has_no_room_for_is_refused(
    gateway: Gateway, stored: list[VersionManifest]
) -> None:
    registry = Registry(gateway)
    next_one, _ = version(tensors(2), round=2)
    room = sum(map(size, [*stored, next_one]))
    for enough in (StoreTable(), StoreTable(versions=3), StoreTable(bytes=room)):
        check_room(enough, registry, next_one)
    for little in (StoreTable(versions=2), StoreTable(bytes=room - 1)):
        with pytest.raises(PolicyError, match="policy allows") as refused:
            check_room(little, registry, next_one)
        assert code_of(refused.value) is Code.POLICY
        check_room(little, registry, stored[1])  # it is there: storing again takes nothing


def test_bytes_are_written_as_people_do() -> None:
    assert StoreTable.model_validate({"bytes": "20 GB"}).bytes == 20 * 10**9
    with pytest.raises(ValueError, match="no number of bytes"):
        StoreTable.model_validate({"bytes": "much"})


def test_the_doctor_says_how_much_room_is_left(
    gateway: Gateway, stored: list[VersionManifest]
) -> None:
    taken = sum(map(size, stored))
    for allowed, outcome in {
        None: "pass", taken: "fail", round(taken / 0.95): "warn", 10 * taken: "pass",
    }.items():  # fmt: skip
        assert examine_room(StoreTable(bytes=allowed), gateway).outcome == outcome
