"""An audit log: what was written is there, and what was done to it is found, and where."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.audit import MAX_ENTRY_BYTES, AuditLog, Head, Verified, verify
from federation.audit.entry import START, head_path, read_entry, write_entry
from federation.errors import AuditError, ConfigError
from federation.iodeep.signature import SigningKey

ENTRIES = 7
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)

APPENDING = """
import sys
from pathlib import Path
from federation.audit import AuditLog
log = AuditLog(Path(sys.argv[1]), None)
for number in range(int(sys.argv[2])):
    log.append("made", by=sys.argv[3], number=number, text="x" * 3000)
"""


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey.create(tmp_path_factory.mktemp("key") / "site.key")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, key: SigningKey) -> Path:
    """A log that nobody touched; copy it to change it."""
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    log = AuditLog(path, key, now=lambda: NOON)
    for number in range(ENTRIES):
        log.append("made", number=number, words=["ä", None, 0.5])
    return path


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def changed(written: Path, folder: Path, data: bytes) -> Path:
    """A copy of the log with other bytes, and the head that was beside it."""
    path = folder / written.name
    path.write_bytes(data)
    head_path(path).write_bytes(head_path(written).read_bytes())
    return path


def kinds(found: Verified) -> list[tuple[str, int | None, int | None]]:
    return [(one.kind, one.line, one.entry) for one in found.problems]


# --- what is written ----------------------------------------------------------------------


def test_entries_come_back_in_order_and_from_the_end(written: Path, key: SigningKey) -> None:
    found = verify(written, key.public)
    assert (found.entries, found.problems, found.torn, found.ahead) == (ENTRIES, (), 0, False)
    entries = list(AuditLog(written, None).newest())
    assert [entry.number for entry in entries] == list(range(ENTRIES, 0, -1))
    assert entries[0].head == found.head
    assert entries[0].facts == {"number": ENTRIES - 1, "words": ["ä", None, 0.5]}
    assert (entries[0].event, entries[0].time) == ("made", "2026-12-01T12:00:00.000+00:00")
    assert [e.previous for e in entries] == [*(e.digest for e in entries[1:]), "0" * 64]
    assert Head.parse(str(found.head)) == found.head


def test_the_log_and_its_head_are_the_owner_s_alone(written: Path, tmp_path: Path) -> None:
    AuditLog(tmp_path / "of" / "site" / "audit.jsonl", None).append("made")
    for path in (written, head_path(written), tmp_path / "of", tmp_path / "of" / "site"):
        assert path.stat().st_mode & 0o077 == 0


def test_reading_from_the_end_crosses_blocks_and_stops_where_it_shall(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "a", None)
    for number in range(60):
        log.append("made", number=str(number), text="x" * 4000)
    assert [entry.number for entry in log.newest()] == list(range(60, 0, -1))
    assert [entry.number for entry in log.newest(most_bytes=10_000)] == [60, 59]
    assert log.has("made", number="7", most_bytes=10**6)
    assert not log.has("made", number="7", most_bytes=10_000)
    assert not log.has("other", number="7", most_bytes=10**6)
    assert not log.has("made", number="60", most_bytes=10**6)


@pytest.mark.parametrize(
    "facts", [{"text": "x" * MAX_ENTRY_BYTES}, {"number": 2**60}, {"number": float("nan")}]
)
def test_what_is_no_entry_is_not_written(tmp_path: Path, facts: dict[str, object]) -> None:
    log = AuditLog(tmp_path / "a", None)
    log.append("made")
    with pytest.raises(AuditError, match="an entry 'made'"):
        log.append("made", **facts)
    assert log.append("made").number == 2


def test_a_head_that_is_none_is_refused() -> None:
    for text in ("", "1", "1:abc", "x:" + "0" * 64, "-1:" + "0" * 64):
        with pytest.raises(ConfigError, match="NUMBER:DIGEST"):
            Head.parse(text)


def test_a_log_that_is_not_there_has_no_entries(tmp_path: Path) -> None:
    found = verify(tmp_path / "a", None)
    assert (found.entries, found.head, found.problems) == (0, None, ())


# --- what was done to it ------------------------------------------------------------------

SOME = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SOME
@given(data=st.data())
def test_a_changed_byte_is_found_where_it_is(
    written: Path, tmp_path: Path, key: SigningKey, data: st.DataObject
) -> None:
    whole = written.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda one: one != whole[at]))
    path = changed(written, tmp_path, whole[:at] + bytes([byte]) + whole[at + 1 :])
    found = verify(path, key.public)
    line = whole[:at].count(b"\n") + 1
    places = {one.line or one.entry for one in found.problems}
    assert places & {line, line + 1}
    assert {one.kind for one in found.problems} <= {"changed", "removed", "truncated"}


@SOME
@given(data=st.data())
def test_an_entry_that_was_written_anew_is_found_by_the_next_one(
    written: Path, tmp_path: Path, key: SigningKey, data: st.DataObject
) -> None:
    """With a digest that fits it."""
    number = data.draw(st.integers(1, ENTRIES))
    each = lines(written)
    entry = read_entry(each[number - 1][:-1])
    after = Head(number - 1, entry.previous)
    each[number - 1] = write_entry(after, NOON, "made", {"number": "another"})
    found = verify(changed(written, tmp_path, b"".join(each)), key.public)
    where = [("changed", None, ENTRIES)]
    if number < ENTRIES:
        where = [("changed", number + 1, number + 1)]
    assert kinds(found) == where


@SOME
@given(data=st.data())
def test_entries_that_were_removed_are_named(
    written: Path, tmp_path: Path, key: SigningKey, data: st.DataObject
) -> None:
    first = data.draw(st.integers(1, ENTRIES - 1))
    last = data.draw(st.integers(first, ENTRIES - 1))
    each = lines(written)
    path = changed(written, tmp_path, b"".join(each[: first - 1] + each[last:]))
    assert kinds(verify(path, key.public)) == [("removed", first, first)]


@SOME
@given(data=st.data())
def test_a_log_that_was_cut_is_named(
    written: Path, tmp_path: Path, key: SigningKey, data: st.DataObject
) -> None:
    whole = written.read_bytes()
    path = changed(written, tmp_path, whole[: data.draw(st.integers(0, len(whole) - 1))])
    left = len(path.read_bytes().split(b"\n")) - 1
    assert kinds(verify(path, key.public)) == [("truncated", None, left + 1)]
    with pytest.raises(AuditError, match="nothing is appended"):
        AuditLog(path, key).append("made")


@SOME
@given(data=st.data())
def test_entries_that_changed_places_are_named(
    written: Path, tmp_path: Path, key: SigningKey, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(ENTRIES)).filter(lambda o: o != sorted(o)))
    each = lines(written)
    path = changed(written, tmp_path, b"".join(each[n] for n in order))
    found = verify(path, key.public)
    highest = [max(order[: n + 1]) for n in range(ENTRIES)]
    behind = [(n + 1, order[n] + 1) for n in range(ENTRIES) if order[n] < highest[n]]
    named = [(line, entry) for kind, line, entry in kinds(found) if kind == "reordered"]
    assert named == behind


@SOME
@given(data=st.data())
def test_an_entry_that_was_put_in_is_named(
    written: Path, tmp_path: Path, key: SigningKey, data: st.DataObject
) -> None:
    place = data.draw(st.integers(1, ENTRIES))  # before it stand so many
    which = data.draw(st.integers(0, place - 1))
    each = lines(written)
    path = changed(written, tmp_path, b"".join([*each[:place], each[which], *each[place:]]))
    assert kinds(verify(path, key.public)) == [("inserted", place + 1, which + 1)]


def test_lines_of_something_else_are_named(written: Path, tmp_path: Path, key: SigningKey) -> None:
    each = lines(written)
    for strange in (b"\n", b"{}\n", b"\xff\xfe\n", b"[" * 10_000 + b"\n", b"x" * 200_000 + b"\n"):
        path = changed(written, tmp_path, b"".join([*each[:3], strange, *each[3:]]))
        assert kinds(verify(path, key.public)) == [("changed", 4, 4)]
        path = changed(written, tmp_path, b"".join([*each, strange]))
        assert ("changed", 8, 8) in kinds(verify(path, key.public))
        with pytest.raises(AuditError, match="nothing is appended"):
            AuditLog(path, key).append("made")


def test_a_log_written_anew_as_a_whole_is_not_the_one_that_somebody_knows(
    written: Path, tmp_path: Path, key: SigningKey
) -> None:
    """Also by who has the key: that is why answers carry the head."""
    known = verify(written, key.public).head
    log = AuditLog(tmp_path / "anew.jsonl", key)
    for number in range(ENTRIES - 1):
        log.append("made", number=number, words=["another"])
    assert verify(log.path, key.public).is_whole
    assert kinds(verify(log.path, key.public, known)) == [("truncated", None, ENTRIES)]
    log.append("made")
    log.append("made")
    assert kinds(verify(log.path, key.public, known)) == [("changed", None, ENTRIES)]


def test_a_head_is_believed_from_the_site_s_key_alone(
    written: Path, tmp_path: Path, key: SigningKey
) -> None:
    each = lines(written)
    path = changed(written, tmp_path, b"".join(each[:-1]))
    head = read_entry(each[-2][:-1]).head
    for forged in (head.encode(None), head.encode(SigningKey.create(tmp_path / "other.key"))):
        head_path(path).write_bytes(forged)
        assert kinds(verify(path, key.public)) == [("head", None, ENTRIES - 1)]
        assert verify(path, None).is_whole
    for broken in (b"", b"{}", b"[]", b'{"number":1}', b"\xff"):
        head_path(path).write_bytes(broken)
        assert kinds(verify(path, key.public)) == [("head", None, None)]
    head_path(path).unlink()
    assert kinds(verify(path, key.public)) == [("head", None, None)]


def test_nothing_is_appended_behind_a_head_that_the_site_s_key_did_not_sign(
    written: Path, tmp_path: Path, key: SigningKey
) -> None:
    """Without the key an end can be cut off; the next entry must not sign what is left."""
    each = lines(written)
    path = changed(written, tmp_path, b"".join(each[:4]))
    head = read_entry(each[3][:-1]).head
    for forged in (head.encode(None), head.encode(SigningKey.create(tmp_path / "other.key"))):
        head_path(path).write_bytes(forged)
        with pytest.raises(AuditError, match="the head beside it does not count"):
            AuditLog(path, key).append("made")
        assert (path.read_bytes(), head_path(path).read_bytes()) == (b"".join(each[:4]), forged)
        assert kinds(verify(path, key.public)) == [("head", None, 4)]
    head_path(path).write_bytes(head.encode(key))
    assert AuditLog(path, key).append("made").number == 5


def test_a_site_that_gets_a_key_is_told_to_begin_a_new_log(tmp_path: Path, key: SigningKey) -> None:
    path = tmp_path / "audit.jsonl"
    AuditLog(path, None).append("made")
    with pytest.raises(AuditError, match=r"had no key until now.* a new one begins"):
        AuditLog(path, key).append("made")
    for one in (path, head_path(path)):
        one.rename(one.with_name(f"old-{one.name}"))
    assert AuditLog(path, key).append("made").number == 1
    assert verify(path, key.public).is_whole


@pytest.mark.parametrize("entries", [1, ENTRIES])
def test_a_log_without_a_head_is_none_that_a_kill_left(
    written: Path, tmp_path: Path, key: SigningKey, entries: int
) -> None:
    path = changed(written, tmp_path, b"".join(lines(written)[:entries]))
    head_path(path).unlink()
    assert kinds(verify(path, key.public)) == [("head", None, None)]
    with pytest.raises(AuditError, match="has no head beside it"):
        AuditLog(path, key).append("made")


@pytest.mark.parametrize("entries", [0, 1, ENTRIES - 1])
def test_after_a_kill_between_an_entry_and_its_head_it_goes_on(
    written: Path, tmp_path: Path, key: SigningKey, entries: int
) -> None:
    """Also with the first entry, before which the head is that of none."""
    path = changed(written, tmp_path, b"".join(lines(written)[: entries + 1]))
    before = entries and read_entry(lines(written)[entries - 1][:-1]).head
    head_path(path).write_bytes((before or START).encode(key))
    found = verify(path, key.public)
    assert (found.is_whole, found.ahead) == (True, True)
    assert AuditLog(path, key).append("made").number == entries + 2
    assert verify(path, key.public).is_whole


def test_a_head_of_no_entries_is_there_before_the_first_entry(
    tmp_path: Path, key: SigningKey
) -> None:
    path = tmp_path / "audit.jsonl"
    with pytest.raises(AuditError, match="an entry 'made' has"):
        AuditLog(path, key).append("made", text="x" * MAX_ENTRY_BYTES)
    assert (path.read_bytes(), head_path(path).read_bytes()) == (b"", START.encode(key))
    assert verify(path, key.public).is_whole


def test_a_first_entry_that_is_torn_has_a_head_before_it(tmp_path: Path, key: SigningKey) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"digest":"12')
    assert AuditLog(path, key).append("made").number == 2
    assert verify(path, key.public).is_whole


def test_entries_behind_the_head_are_named(written: Path, tmp_path: Path, key: SigningKey) -> None:
    """One is what a kill leaves; more were added by somebody without the key."""
    path = changed(written, tmp_path, written.read_bytes())
    head = verify(written, key.public).head
    assert head is not None
    with path.open("ab") as file:
        file.write(write_entry(head, NOON, "made", {}))
    found = verify(path, key.public)
    assert (found.is_whole, found.ahead, found.entries) == (True, True, ENTRIES + 1)
    second = write_entry(read_entry(lines(path)[-1][:-1]).head, NOON, "made", {})
    with path.open("ab") as file:
        file.write(second)
    assert kinds(verify(path, key.public)) == [("inserted", None, ENTRIES + 2)]
    with pytest.raises(AuditError, match="nothing is appended"):
        AuditLog(path, key).append("made")


@pytest.mark.parametrize("spoil", [lambda line: line.replace(b"made", b"maze"), lambda _: b"{}\n"])
def test_nothing_is_appended_to_a_log_whose_last_entry_was_changed(
    written: Path, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    each = lines(written)
    path = changed(written, tmp_path, b"".join([*each[:-1], spoil(each[-1])]))
    before = path.read_bytes()
    with pytest.raises(AuditError, match="nothing is appended"):
        AuditLog(path, None).append("made")
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(AuditError, match="cannot be written"):
        AuditLog(tmp_path / "a", None).append("made")


# --- kills, and several at a time ---------------------------------------------------------


def test_what_a_kill_left_of_an_entry_is_kept_and_noted(written: Path, tmp_path: Path) -> None:
    path = changed(written, tmp_path, written.read_bytes() + b'{"digest":"12')
    found = verify(path, None)
    assert (found.is_whole, found.torn, found.entries) == (True, 13, ENTRIES)
    log = AuditLog(path, None)
    assert log.append("made").number == ENTRIES + 2
    _, torn, *_ = log.newest()
    assert (torn.event, torn.facts["bytes"]) == ("torn", 13)
    assert (tmp_path / torn.facts["file"]).read_bytes() == b'{"digest":"12'
    assert verify(path, None).is_whole
    assert log.append("made").number == ENTRIES + 3


def test_a_kill_between_keeping_and_noting_is_noted_later(written: Path, tmp_path: Path) -> None:
    path = changed(written, tmp_path, written.read_bytes())
    path.with_name(f"{path.name}.torn.{ENTRIES + 1}").write_bytes(b"half")
    log = AuditLog(path, None)
    assert log.append("made").number == ENTRIES + 2
    assert [entry.event for entry in log.newest()][:3] == ["made", "torn", "made"]


def test_killed_again_and_again_it_goes_on_and_stays_whole(tmp_path: Path) -> None:
    """By SIGKILL, at moments of chance, while it is appended to without a pause."""
    path = tmp_path / "audit.jsonl"
    chance = random.Random(1)
    last = 0
    for turn in range(8):
        process = subprocess.Popen([sys.executable, "-c", APPENDING, path, "100000", str(turn)])
        deadline = time.monotonic() + 60
        while path.exists() is False or path.stat().st_size <= last:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = verify(path, None)
        assert found.is_whole, found.problems
        last = path.stat().st_size
    log = AuditLog(path, None)
    log.append("made")
    assert verify(path, None).is_whole
    assert len({entry.facts.get("by") for entry in log.newest()}) > 4


def test_several_processes_append_to_one_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    processes = [
        subprocess.Popen([sys.executable, "-c", APPENDING, path, "25", name]) for name in "ABC"
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    found = verify(path, None)
    assert (found.entries, found.problems) == (75, ())
    numbers: dict[str, list[int]] = {}
    for entry in AuditLog(path, None).newest():
        numbers.setdefault(entry.facts["by"], []).append(entry.facts["number"])
    assert numbers == {name: list(range(24, -1, -1)) for name in "ABC"}


def test_time_is_that_of_the_clock_it_is_given_in_utc(tmp_path: Path) -> None:
    here = timezone(timedelta(hours=2))
    AuditLog(tmp_path / "a", None, now=lambda: datetime(2026, 7, 1, 1, 30, tzinfo=here)).append("x")
    assert json.loads((tmp_path / "a").read_bytes())["time"] == "2026-06-30T23:30:00.000+00:00"
