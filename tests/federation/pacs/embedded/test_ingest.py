"""What the embedded archive takes, and what an ingest that fails leaves."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, RLELossless

from federation.errors import PacsError, StorageError
from federation.pacs import Archive, Gateway
from federation.pacs.attributes import NotAsAnnounced, NotStorable
from federation.pacs.embedded import archive as archive_module
from federation.pacs.incoming import IncomingFile
from tests.federation.pacs.conftest import Make

SERIES = {"study": "1.2.3.1", "series": "1.2.3.1.1"}


def files(archive: Archive) -> list[Path]:
    return [path for path in archive.folder.glob("in*/**/*") if path.is_file()]


def ingest_many(archive: Archive, make: Make) -> None:
    for _ in range(200):
        archive.ingest(make(StudyDescription="x" * 64))


def test_person_names_are_found_and_returned_whole(gateway: Gateway, make: Make) -> None:
    gateway.store([make(PatientName="Müller^Zoë", SpecificCharacterSet="ISO_IR 100")])
    (study,) = gateway.find("STUDY", {"PatientName": "müller*"})
    assert study.PatientName == "Müller^Zoë"


def test_what_a_study_holds_is_counted_and_matched(gateway: Gateway, make: Make) -> None:
    gateway.store([make(), make(SeriesInstanceUID="1.2.3.1.2", Modality="SEG")])
    keys = {"ModalitiesInStudy": "SEG", "NumberOfStudyRelatedInstances": ""}
    (study,) = gateway.find("STUDY", keys)
    assert list(study.ModalitiesInStudy) == ["MR", "SEG"]
    assert study.NumberOfStudyRelatedInstances == 2
    assert gateway.find("STUDY", {"ModalitiesInStudy": "CT"}) == []


def test_odd_values_are_kept_and_not_repeated_in_a_warning(
    gateway: Gateway, make: Make, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = make()
    ds = dcmread(path)
    for keyword, odd in (("StudyDate", b"born in spring "), ("NumberOfFrames", b"many")):
        tag = Tag(keyword)
        vr = {"StudyDate": "DA", "NumberOfFrames": "IS"}[keyword]
        ds[tag] = RawDataElement(tag, vr, len(odd), odd, 0, False, True)
    ds.save_as(path)
    recwarn.clear()
    gateway.store([path])
    assert len(gateway.find("STUDY", {"PatientID": "P1", "StudyDate": ""})) == 1
    (got,) = gateway.fetch(tmp_path, **SERIES)
    assert not [w for w in recwarn if "spring" in str(w.message) or "many" in str(w.message)]
    assert b"born in spring" in got.read_bytes()


@pytest.mark.parametrize(("cut", "syntax"), [(60, None), (1, None), (20, RLELossless)])
def test_a_data_set_cut_short_is_not_stored(
    gateway: Gateway, make: Make, cut: int, syntax: UID | None
) -> None:
    path = make(syntax=syntax or ExplicitVRLittleEndian)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(StorageError, match=r"cut short|0xC000"):
        gateway.store([path])
    assert gateway.find("STUDY", {}) == []


def test_a_data_set_of_another_class_than_announced_is_not_stored(
    gateway: Gateway, make: Make
) -> None:
    path = make()
    ds = dcmread(path)
    ds.SOPClassUID = CTImageStorage
    ds.save_as(path)
    with pytest.raises(StorageError, match=r"SOPClassUID|0xA900"):
        gateway.store([path])


def test_reasons_differ_by_type(archive: Archive, make: Make, tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("no DICOM at all")
    with pytest.raises(NotStorable):
        archive.ingest(tmp_path / "text.dcm")
    with pytest.raises(StorageError, match="cannot be read"):
        archive.ingest(tmp_path / "absent.dcm")
    path = make()
    ds = dcmread(path)
    ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    ds.save_as(path)
    with pytest.raises(NotAsAnnounced):
        archive.ingest(path)
    assert files(archive) == []


def test_an_index_that_cannot_grow_leaves_nothing_and_recovers(
    archive: Archive, make: Make
) -> None:
    archive.ingest(make())
    database = archive._index._database
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="full"):
        ingest_many(archive, make)
    held = {one.path for one in archive.instances()}
    assert set(files(archive)) == held
    database.execute("PRAGMA max_page_count = 1000000")
    archive.ingest(make())
    assert len(archive.instances()) == len(held) + 1


def test_a_failure_after_the_move_leaves_nothing_and_recovers(
    archive: Archive, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make()

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archive_module, "sync_folder", full)
    with pytest.raises(StorageError, match="disk is full"):
        archive.ingest(path)
    assert archive.instances() == []
    assert files(archive) == []
    monkeypatch.undo()
    archive.ingest(path)
    assert len(archive.instances()) == 1


def test_leftovers_go_and_what_is_being_received_stays(archive: Archive, make: Make) -> None:
    archive.ingest(make())
    (archive.incoming / "left-by-a-kill").write_bytes(b"half")
    (archive.folder / "instances" / "00").mkdir(exist_ok=True)
    (archive.folder / "instances" / "00" / "1.2.3.dcm").write_bytes(b"never committed")
    with IncomingFile(archive.incoming) as receiving:
        assert archive.check().removed == 2
        assert receiving.path.exists()
    assert files(archive) == [archive.instances()[0].path]


def test_nothing_passes_through_the_system_s_temporary_folder(
    gateway: Gateway, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, got = tmp_path / "tmp", tmp_path / "got"
    elsewhere.mkdir()
    got.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    gateway.store([make(), make()])
    paths = gateway.fetch(got, **SERIES)
    assert sorted(got.iterdir()) == sorted(paths)
    assert list(elsewhere.iterdir()) == []


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(PacsError, match="cannot hold an archive"):
        Archive(tmp_path / "file")
