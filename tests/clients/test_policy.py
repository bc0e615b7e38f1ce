"""A site stores what its policy leaves room for, and trains as it allows."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from flwr.app import RecordDict

from clients.audit import CENSUS, EVALUATION, STATISTICS, TRAINING, Incoming, Journal
from clients.doctor.room import examine_room
from clients.policy import (
    Approvals,
    Deadline,
    Waiting,
    check_epochs,
    check_hours,
    check_line,
    check_rate,
    check_room,
    check_strategy,
    check_threads,
)
from clients.policy.approvals import MAX_WAITING
from federation.config import (
    CensusTable,
    PolicyTable,
    RoundsTable,
    Site,
    StoreTable,
    TrainingTable,
    TrustTable,
)
from federation.errors import ConfigError, PolicyError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import VersionManifest
from federation.iodeep.signature import Signature
from federation.messages import Code, code_of, outline
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
        assert code_of(refused.value) is Code.ROOM
        check_room(little, registry, stored[1])  # it is there: storing again takes nothing


def test_another_branch_or_line_leaves_no_more_room(
    gateway: Gateway, stored: list[VersionManifest]
) -> None:
    registry = Registry(gateway)
    next_one, _ = version(tensors(2), round=2)
    elsewhere = [
        next_one.model_copy(update={"branch": "another"}),
        next_one.model_copy(update={"line": Line.parse("CT/lung/-/unet")}),
    ]
    for other in elsewhere:
        check_room(StoreTable(versions=3), registry, other)
        refused(Code.ROOM, lambda o=other: check_room(StoreTable(versions=2), registry, o))  # type: ignore[misc]


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


# --- rounds -------------------------------------------------------------------------------


def refused(code: Code, check: Callable[[], object]) -> None:
    with pytest.raises(PolicyError) as error:
        check()
    assert code_of(error.value) is code


def test_a_line_that_no_trust_table_covers_is_refused() -> None:
    policy = PolicyTable(trust=(TrustTable(lines=("MR/hippocampus/*",)),))
    check_line(policy, Line.parse("MR/hippocampus/-/unet"))
    refused(Code.LINE, lambda: check_line(policy, Line.parse("CT/lung/-/unet")))
    refused(Code.LINE, lambda: check_line(PolicyTable(), Line.parse("CT/lung/-/unet")))


def test_strategies_are_those_that_are_named_or_any() -> None:
    check_strategy(RoundsTable(), "anything")
    allowed = RoundsTable(strategies=("fedavg", "fedprox"))
    check_strategy(allowed, "fedavg")
    refused(Code.STRATEGY, lambda: check_strategy(allowed, "centralised"))


def test_settings_are_bounded() -> None:
    check_threads(RoundsTable(), TrainingTable(threads=64))
    check_threads(RoundsTable(threads=2), TrainingTable(threads=2))
    refused(Code.SETTINGS, lambda: check_threads(RoundsTable(threads=2), TrainingTable(threads=3)))
    check_epochs(RoundsTable(), 10**6)
    check_epochs(RoundsTable(epochs=2.5), 2.5)
    refused(Code.SETTINGS, lambda: check_epochs(RoundsTable(epochs=2.5), 2.6))


@pytest.mark.parametrize(
    ("hours", "allowed", "not_allowed"),
    [
        ((), ["00:00", "12:00"], []),
        (("08:00-17:30",), ["08:00", "17:29"], ["07:59", "17:30", "00:00"]),
        (("20:00-06:00",), ["20:00", "23:59", "00:00", "05:59"], ["06:00", "12:00", "19:59"]),
        (("20:00-06:00", "12:00-13:00"), ["12:30", "21:00"], ["13:00", "11:59"]),
        (("00:00-00:00",), ["00:00", "12:00", "23:59"], []),
    ],
)
def test_trainings_begin_in_the_hours_of_the_site_s_own_day(
    hours: tuple[str, ...], allowed: list[str], not_allowed: list[str]
) -> None:
    def check(clock: str) -> None:
        now = datetime.fromisoformat(f"2026-12-01T{clock}+03:00")
        check_hours(RoundsTable(hours=hours), now)

    for clock in allowed:
        check(clock)
    for clock in not_allowed:
        refused(Code.HOURS, lambda clock=clock: check(clock))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("work", "most"), [(TRAINING, 3), (STATISTICS, 3), (EVALUATION, 6), (CENSUS, 5)]
)
def test_work_of_a_day_is_counted_where_there_is_a_limit(work: str, most: int) -> None:
    policy = PolicyTable(rounds=RoundsTable(per_day=3), census=CensusTable(per_day=5))
    check_rate(policy, work, {work: most - 1}.__getitem__)
    refused(Code.RATE, lambda: check_rate(policy, work, {work: most}.__getitem__))


def test_without_a_limit_rounds_are_not_counted_and_censuses_are() -> None:
    for work in (TRAINING, STATISTICS, EVALUATION):
        check_rate(PolicyTable(), work, lambda _: pytest.fail("nobody asked"))
    refused(Code.RATE, lambda: check_rate(PolicyTable(), CENSUS, lambda _: 24))


def test_work_stops_at_its_time() -> None:
    clock = iter([100.0, 100.0, 219.9, 220.1])
    deadline = Deadline(RoundsTable(minutes=2), TRAINING, lambda: next(clock))
    deadline(1, 0.5)
    deadline(2, 0.5)
    refused(Code.TIME, lambda: deadline(3, 0.5))
    Deadline(RoundsTable(), STATISTICS, lambda: 0.0)(1)


def test_the_day_of_work_is_the_site_s_own(tmp_path: Path) -> None:
    """Noted in UTC; a day begins at the site's midnight."""
    here = timezone(timedelta(hours=2))
    clock = [datetime(2026, 6, 30, 23, 50, tzinfo=here)]
    journal = journal_of(tmp_path, lambda: clock[0])
    journal.note_begin(TRAINING)
    assert journal.begun_today(TRAINING) == 1
    clock[0] += timedelta(minutes=20)
    assert journal.begun_today(TRAINING) == 0
    for _ in range(2):
        journal.note_in()
        journal.note_begin(TRAINING)
        journal.note_begin(CENSUS)
    journal.note_begin(CENSUS)
    assert (journal.begun_today(TRAINING), journal.begun_today(CENSUS)) == (2, 3)
    clock[0] = datetime(2026, 7, 1, 21, 59, tzinfo=UTC).astimezone(here)
    assert journal.begun_today(TRAINING) == 2
    clock[0] = datetime(2026, 7, 1, 22, 1, tzinfo=UTC).astimezone(here)
    assert journal.begun_today(TRAINING) == 0


def journal_of(folder: Path, now: Callable[[], datetime]) -> Journal:
    site = Site.model_validate(
        {
            "name": "A",
            "archives": {"images": "folder:x"},
            "data": {},
            "audit": folder / "audit.jsonl",
        }
    )
    incoming = Incoming(
        message="m", run=2**63, group="1", type="train", outline=outline(RecordDict()), subject={}
    )
    return Journal(site, incoming, now)


# --- approvals ----------------------------------------------------------------------------

NOW = datetime(2026, 12, 1, tzinfo=UTC)
SIGNATURE = Signature(fingerprint="1f" * 32, value=b"0" * 64)


def asked(
    manifest: VersionManifest, signature: Signature | None = SIGNATURE, now: datetime = NOW
) -> Waiting:
    return Waiting.of(manifest, signature, "fedavg", TrainingTable(epochs=2), now)


def test_a_network_waits_until_it_is_approved_and_later_rounds_do_not(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path / "approvals.json")
    manifest, _ = version(tensors(0), round=0)
    assert approvals.waiting == ()
    for _ in range(2):
        refused(Code.APPROVAL, lambda: approvals.check(asked(manifest)))
    (waiting,) = approvals.waiting
    assert waiting == asked(manifest)
    assert approvals.approve(manifest.line, None, NOW) == waiting
    assert approvals.waiting == ()
    approvals.check(asked(manifest))
    later, _ = version(tensors(1), round=5)
    approvals.check(asked(later.model_copy(update={"branch": "another"})))
    assert approvals.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("field", ["line", "architecture", "preprocessing", "outputs", "signer"])
def test_what_is_another_network_waits_again(tmp_path: Path, field: str) -> None:
    approvals = Approvals(tmp_path / "approvals.json")
    manifest, _ = version(tensors(0), round=0)
    refused(Code.APPROVAL, lambda: approvals.check(asked(manifest)))
    approvals.approve(manifest.line, None, NOW)
    assert manifest.preprocessing is not None
    other: dict[str, object] = {
        "line": Line.parse("CT/lung/-/unet"),
        "architecture": manifest.architecture.model_copy(update={"network": "monai.Other"}),
        "preprocessing": manifest.preprocessing.model_copy(update={"spacing_mm": (9.0, 9.0, 9.0)}),
        "outputs": manifest.outputs[:-1],
    }
    signature = Signature(fingerprint="2e" * 32, value=b"0" * 64) if field == "signer" else None
    if field in other:
        manifest = manifest.model_copy(update={field: other[field]})
    refused(Code.APPROVAL, lambda: approvals.check(asked(manifest, signature or SIGNATURE)))


def test_of_several_that_wait_one_is_named(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path / "approvals.json")
    manifest, _ = version(tensors(0), round=0)
    for signature in (SIGNATURE, None):
        refused(Code.APPROVAL, lambda s=signature: approvals.check(asked(manifest, s)))  # type: ignore[misc]
    first, second = approvals.waiting
    with pytest.raises(ConfigError, match=r"2 networks .* wait"):
        approvals.approve(manifest.line, None, NOW)
    with pytest.raises(ConfigError, match=r"no network .* waits"):
        approvals.approve(manifest.line, "0123456789", NOW)
    with pytest.raises(ConfigError, match=r"no network .* waits"):
        approvals.approve(Line.parse("CT/lung/-/unet"), None, NOW)
    approvals.approve(manifest.line, second.digest[:12], NOW)
    assert approvals.waiting == (first,)
    approvals.check(asked(manifest, None))
    refused(Code.APPROVAL, lambda: approvals.check(asked(manifest)))


def test_no_more_wait_than_somebody_can_look_at(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path / "approvals.json")
    manifest, _ = version(tensors(0), round=0)
    for number in range(MAX_WAITING + 2):
        other = Signature(fingerprint=f"{number:064x}", value=b"0" * 64)
        refused(Code.APPROVAL, lambda o=other: approvals.check(asked(manifest, o)))  # type: ignore[misc]
    assert [one.signer for one in approvals.waiting] == [
        f"{number:064x}" for number in range(2, MAX_WAITING + 2)
    ]


def test_approvals_that_cannot_be_read_approve_nothing(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path / "approvals.json")
    manifest, _ = version(tensors(0), round=0)
    approvals.path.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        approvals.check(asked(manifest))
