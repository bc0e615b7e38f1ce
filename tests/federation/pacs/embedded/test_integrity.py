"""Index and files of the embedded archive: what disagrees is named, and an index made anew."""

import shutil
import time
from pathlib import Path

import pytest
from pydicom import dcmread

from federation.errors import PacsError, StorageError
from federation.pacs import Archive, ArchiveServer, open_gateway
from federation.pacs.attributes import read_attributes
from federation.pacs.embedded.files import all_files
from federation.pacs.embedded.index import DamagedIndex, Held
from federation.pacs.embedded.integrity import Rebuilt, rebuild
from federation.pacs.incoming import IncomingFile
from tests.federation.pacs.conftest import Make

SERIES = {"study": "1.2.3.1", "series": "1.2.3.1.1"}
KEYS = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.1.1"}


def path_in(archive: Archive, uid: str) -> Path:
    (found,) = archive.folder.glob(f"instances/*/{uid}.dcm")
    return found


def stored(archive: Archive, make: Make, count: int) -> list[str]:
    """Store a few instances; their UIDs."""
    paths = [make(InstanceNumber=number) for number in range(count)]
    for path in paths:
        archive.ingest(path)
    return [path.stem for path in paths]


def test_a_whole_archive_has_nothing_to_say(archive: Archive, make: Make) -> None:
    stored(archive, make, 3)
    found = archive.check()
    assert (found.held, found.lost, found.removed) == (archive.held(), (), 0)


def test_what_lost_its_file_is_named_and_not_served(archive: Archive, make: Make) -> None:
    gone, short, kept = stored(archive, make, 3)
    path_in(archive, gone).unlink()
    with path_in(archive, short).open("ab") as file:
        file.write(b"\0\0")
    size = path_in(archive, kept).stat().st_size
    with ArchiveServer(archive) as server, open_gateway(server.address) as gateway:
        assert server.condition.lost == tuple(sorted((gone, short)))
        assert server.condition.held == Held(instances=1, bytes=size)
        (found,) = gateway.find("IMAGE", KEYS)
        assert found.SOPInstanceUID == kept
        (study,) = gateway.find("STUDY", {"NumberOfStudyRelatedInstances": ""})
        assert study.NumberOfStudyRelatedInstances == 1


def test_what_comes_back_is_served_again(archive: Archive, make: Make, tmp_path: Path) -> None:
    (uid,) = stored(archive, make, 1)
    path = path_in(archive, uid)
    shutil.move(path, tmp_path / "backup.dcm")
    assert archive.check().lost == (uid,)
    assert archive.check().lost == (uid,)
    shutil.move(tmp_path / "backup.dcm", path)
    assert archive.check().lost == ()
    assert archive.held().instances == len(archive.instances()) == 1


def test_what_is_lost_can_be_stored_again(archive: Archive, make: Make) -> None:
    path = make()
    archive.ingest(path)
    path_in(archive, path.stem).write_bytes(b"damaged")
    assert archive.check().lost == (path.stem,)
    archive.ingest(path)
    assert archive.check().lost == ()
    assert archive.held() == Held(instances=1, bytes=path.stat().st_size)


def test_what_is_lost_while_serving_can_be_stored_again(archive: Archive, make: Make) -> None:
    path = make()
    archive.ingest(path)
    path_in(archive, path.stem).unlink()
    archive.ingest(path)
    assert path_in(archive, path.stem).read_bytes() == path.read_bytes()
    assert archive.held() == Held(instances=1, bytes=path.stat().st_size)


def test_leftovers_go_and_what_is_being_received_stays(archive: Archive, make: Make) -> None:
    (uid,) = stored(archive, make, 1)
    (archive.incoming / "left-by-a-kill").write_bytes(b"half")
    (archive.folder / "instances" / "00").mkdir(exist_ok=True)
    (archive.folder / "instances" / "00" / "1.2.3.dcm").write_bytes(b"never committed")
    with IncomingFile(archive.incoming) as receiving:
        assert archive.check().removed == 2
        assert receiving.path.exists()
    assert [one for one, _, _ in all_files(archive.folder / "instances")] == [uid]


def test_another_archive_s_index_deletes_nothing(
    archive: Archive, make: Make, tmp_path: Path
) -> None:
    with Archive(tmp_path / "other") as other:
        stored(other, make, 1)
    folder = archive.folder / "instances" / "00"
    folder.mkdir()
    for number in range(200):
        (folder / f"1.2.{number}.dcm").write_bytes(b"of another index")
    with pytest.raises(PacsError, match="--rebuild"):
        archive.check()
    assert len(list(folder.iterdir())) == 200


def test_an_index_that_is_gone_deletes_nothing(archive: Archive, make: Make) -> None:
    (uid,) = stored(archive, make, 1)
    archive.close()
    for path in archive.folder.glob("index.sqlite*"):
        path.unlink()
    with pytest.raises(PacsError, match="--rebuild"):
        Archive(archive.folder)
    assert path_in(archive, uid).exists()


def test_an_index_is_made_anew_from_the_files(archive: Archive, make: Make, tmp_path: Path) -> None:
    uids = stored(archive, make, 5)
    before, held = archive.find("IMAGE", KEYS | {"InstanceNumber": ""}), archive.held()
    archive.close()
    (archive.folder / "index.sqlite").write_bytes(b"\xff" * 20_000)
    with pytest.raises(DamagedIndex):
        Archive(archive.folder)
    assert rebuild(archive.folder) == Rebuilt(instances=5, unreadable=0)
    with Archive(archive.folder) as again, ArchiveServer(again) as server:
        assert server.condition.lost == ()
        assert again.held() == held
        assert [one.uid for one in again.instances()] == uids
        assert again.find("IMAGE", KEYS | {"InstanceNumber": ""}) == before
        with open_gateway(server.address) as gateway:
            got = gateway.fetch(tmp_path, **SERIES)
        assert {dcmread(path).SOPInstanceUID for path in got} == set(uids)
    assert (archive.folder / "index.sqlite.old").read_bytes() == b"\xff" * 20_000


def test_what_cannot_be_read_is_set_aside(archive: Archive, make: Make) -> None:
    damaged, misnamed, kept = stored(archive, make, 3)
    archive.close()
    path_in(archive, damaged).write_bytes(b"damaged")
    path_in(archive, misnamed).write_bytes(path_in(archive, kept).read_bytes())
    assert rebuild(archive.folder) == Rebuilt(instances=1, unreadable=2)
    with Archive(archive.folder) as again:
        assert (again.check().removed, [one.uid for one in again.instances()]) == (0, [kept])
    aside = {path.name for path in (archive.folder / "unreadable").iterdir()}
    assert aside == {f"{damaged}.dcm", f"{misnamed}.dcm"}


def test_an_archive_that_is_open_is_not_rebuilt(archive: Archive, make: Make) -> None:
    stored(archive, make, 1)
    with pytest.raises(PacsError, match="open in another process"):
        rebuild(archive.folder)
    assert archive.check().lost == ()


def test_what_is_no_archive_is_not_rebuilt(tmp_path: Path) -> None:
    with pytest.raises(PacsError, match="no archive"):
        rebuild(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_rebuild_that_fails_leaves_the_index(
    archive: Archive, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(archive, make, 2)
    archive.close()
    index = (archive.folder / "index.sqlite").read_bytes()
    (archive.folder / "index.sqlite.new").mkdir()
    with pytest.raises(StorageError):
        rebuild(archive.folder)
    assert (archive.folder / "index.sqlite").read_bytes() == index


def test_a_rebuild_that_was_killed_can_be_done_again(archive: Archive, make: Make) -> None:
    """Between the old index being put away and the new one in its place."""
    uids = stored(archive, make, 2)
    archive.close()
    (archive.folder / "index.sqlite").rename(archive.folder / "index.sqlite.old")
    (archive.folder / "index.sqlite.new").write_bytes(b"half")
    with pytest.raises(PacsError, match="--rebuild"):
        Archive(archive.folder)
    assert rebuild(archive.folder) == Rebuilt(instances=2, unreadable=0)
    with Archive(archive.folder) as again:
        assert [one.uid for one in again.instances()] == uids


@pytest.mark.soak
def test_ten_thousand_instances_are_checked_within_a_second(archive: Archive, make: Make) -> None:
    row = read_attributes(make())
    with archive._index.transaction():
        for number in range(10_000):
            file = archive._path(f"1.2.9.{number}")
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"x" * 100)
            archive._index.insert({**row, "SOPInstanceUID": file.stem, "size": 100})
    begin = time.perf_counter()
    found = archive.check()
    assert time.perf_counter() - begin < 1
    assert (found.held, found.lost) == (Held(instances=10_000, bytes=1_000_000), ())
