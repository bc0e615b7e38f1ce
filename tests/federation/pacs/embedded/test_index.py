"""The index's versions, and what it adds up."""

import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from federation.errors import PacsError
from federation.pacs import Archive, open_gateway
from federation.pacs.attributes import INDEXED, read_attributes
from federation.pacs.embedded.index import DamagedIndex, Held
from tests.federation.pacs.conftest import Make


def archive_of_version_1(folder: Path, paths: list[Path]) -> None:
    """As the first release made it, with a table and no sizes."""
    columns = ", ".join(f"{keyword} TEXT NOT NULL" for keyword in INDEXED)
    (folder / "incoming").mkdir(parents=True)
    database = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(
        f"CREATE TABLE IF NOT EXISTS instance ({columns}, transfer_syntax TEXT NOT NULL, "
        "UNIQUE (SOPInstanceUID))"
    )
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        database.execute(f"CREATE INDEX IF NOT EXISTS by_{keyword} ON instance ({keyword})")
    database.execute("PRAGMA user_version = 1")
    for path in paths:
        row = read_attributes(path)
        uid = row["SOPInstanceUID"]
        target = folder / "instances" / f"{sum(uid.encode()) % 256:02x}" / f"{uid}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        marks = ", ".join("?" for _ in row)
        database.execute(
            f"INSERT INTO instance ({', '.join(row)}) VALUES ({marks})", list(row.values())
        )
    database.close()


def test_an_archive_of_version_1_goes_on(make: Make, tmp_path: Path) -> None:
    old, new = [make(InstanceNumber=1), make(InstanceNumber=2)], make(InstanceNumber=3)
    archive_of_version_1(tmp_path / "old", old)
    with Archive(tmp_path / "old") as archive:
        size = sum(path.stat().st_size for path in old)
        assert archive.held() == Held(instances=2, bytes=size)
        archive.ingest(new)
    with Archive(tmp_path / "old") as archive:  # a second time there is nothing to do
        assert archive.check().lost == ()
        assert archive.held() == Held(instances=3, bytes=size + new.stat().st_size)
        got = [one.path.read_bytes() for one in archive.instances()]
    assert got == [path.read_bytes() for path in (*old, new)]


def test_a_file_that_is_gone_when_sizes_are_added_is_named(make: Make, tmp_path: Path) -> None:
    paths = [make(), make()]
    archive_of_version_1(tmp_path / "old", paths)
    uid = paths[0].stem
    next((tmp_path / "old" / "instances").glob(f"*/{uid}.dcm")).unlink()
    with Archive(tmp_path / "old") as archive:
        assert archive.check().lost == (uid,)
        assert archive.held() == Held(instances=1, bytes=paths[1].stat().st_size)


def test_an_index_of_a_later_release_is_left_alone(archive: Archive) -> None:
    archive.close()
    database = sqlite3.connect(archive.folder / "index.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(PacsError, match="later release"):
        Archive(archive.folder)


def test_what_is_no_index_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(DamagedIndex, match="--rebuild"):
        open_gateway(f"folder:{tmp_path}")


def test_a_damaged_page_is_found_at_the_start(archive: Archive, make: Make) -> None:
    for _ in range(50):
        archive.ingest(make(StudyDescription="x" * 60))
    archive.close()
    index = archive.folder / "index.sqlite"
    damaged = bytearray(index.read_bytes())
    damaged[4096 * 5 : 4096 * 6] = b"\xff" * 4096
    index.write_bytes(damaged)
    with Archive(archive.folder) as again, pytest.raises(DamagedIndex, match="--rebuild"):
        again.check()


def test_a_transaction_that_fails_adds_nothing_up(archive: Archive, make: Make) -> None:
    archive.ingest(make())
    before = archive.held()
    row = {**read_attributes(make()), "size": 1}
    with suppress(RuntimeError), archive._index.transaction():
        archive._index.insert(row)
        assert archive.held() != before
        raise RuntimeError
    assert archive.held() == before
