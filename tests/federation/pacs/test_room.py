"""A quota, and a reserve of the disk: what would pass them is refused, and leaves nothing."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom import dcmread
from pydicom.uid import RawDataStorage

from federation.errors import StorageError
from federation.pacs import Archive, ArchiveServer, open_gateway
from federation.pacs.embedded.index import Held
from federation.pacs.incoming import IncomingFile
from federation.pacs.room import NoRoom, Room
from tests.federation.pacs.conftest import Make


def larger(make: Make, size: int, **attributes: object) -> Path:
    """An instance with about ``size`` bytes of private data."""
    path = make(SOPClassUID=RawDataStorage, **attributes)
    ds = dcmread(path)
    ds.private_block(0x7FDF, "TEST", create=True).add_new(0x10, "OB", b"\1" * size)
    ds.save_as(path, enforce_file_format=True)
    return path


def files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("in*/**/*") if path.is_file()]


def test_a_store_that_would_pass_the_quota_is_refused(make: Make, tmp_path: Path) -> None:
    fits, passes, small = larger(make, 10**6), larger(make, 2 * 10**6), larger(make, 1000)
    with (
        Archive(tmp_path / "archive", quota_bytes=2 * 10**6) as archive,
        ArchiveServer(archive, ae_title="PEER") as server,
        open_gateway(server.address) as gateway,
    ):
        gateway.store([fits])
        with pytest.raises(StorageError, match="0xA700"):
            gateway.store([passes])
        (kept,) = files(archive.folder)
        assert archive.held() == Held(instances=1, bytes=kept.stat().st_size)
        gateway.store([small])
        assert archive.held().instances == 2


def test_a_full_archive_goes_on_answering_and_says_why(make: Make, tmp_path: Path) -> None:
    path = make()
    with Archive(tmp_path / "archive", quota_bytes=path.stat().st_size) as archive:
        archive.ingest(path)
        with pytest.raises(StorageError, match=r"quota of .* is reached"):
            archive.ingest(make())
        assert [one.uid for one in archive.instances()] == [path.stem]
        assert archive.check().held == archive.held()


def test_what_passes_the_quota_stops_being_written(make: Make, tmp_path: Path) -> None:
    room = Room(tmp_path, quota_bytes=1000, reserve_bytes=0)
    with IncomingFile(tmp_path, room) as file:
        file.write(b"x" * 900)
        file.write(b"x" * 101)
        assert file.path.stat().st_size == 0
        file.write(b"x" * 10)
        assert file.path.stat().st_size == 0
        with pytest.raises(NoRoom):
            file.check()
    with IncomingFile(tmp_path, room) as file:
        file.write(b"x" * 1000)
        file.check()


def test_two_that_come_at_once_share_what_is_left(tmp_path: Path) -> None:
    room = Room(tmp_path, quota_bytes=1000, reserve_bytes=0)
    room.held_bytes = 100
    with IncomingFile(tmp_path, room) as one, IncomingFile(tmp_path, room) as other:
        one.write(b"x" * 600)
        other.write(b"x" * 600)
        one.check()
        with pytest.raises(NoRoom):
            other.check()


def test_two_processes_do_not_pass_the_quota_together(make: Make, tmp_path: Path) -> None:
    """Neither knows of the other until it commits."""
    paths = [larger(make, 600_000), larger(make, 600_000)]
    with (
        Archive(tmp_path / "archive", quota_bytes=10**6) as one,
        Archive(tmp_path / "archive", quota_bytes=10**6) as other,
    ):
        one.ingest(paths[0])
        with pytest.raises(StorageError, match="quota"):
            other.ingest(paths[1])
        assert len(files(one.folder)) == 1


def test_a_reserve_of_the_disk_stays_free(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Archive(tmp_path / "archive", reserve_bytes=10**6) as archive:
        archive.ingest(make())

        def nearly_full(_: Path) -> SimpleNamespace:
            return SimpleNamespace(f_bavail=1000, f_frsize=1000)

        monkeypatch.setattr(os, "statvfs", nearly_full)
        with pytest.raises(StorageError, match="disk is full, but for the 1 MB in reserve"):
            archive.ingest(make())
        monkeypatch.undo()
        archive.ingest(make())
        assert archive.held().instances == len(files(archive.folder)) == 2


def test_what_broke_off_is_not_counted(make: Make, tmp_path: Path) -> None:
    path = larger(make, 10**6)
    with Archive(tmp_path / "archive", quota_bytes=path.stat().st_size) as archive:
        for _ in range(3):
            with IncomingFile(archive.incoming, archive.room) as file:
                file.write(b"x" * 10**6)
        archive.ingest(path)
