"""A tree of DICOM files through the command line, as it is."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydicom
import pytest
import typer
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage
from typer.testing import CliRunner, Result

from federation.commands.imports import register
from federation.errors import ConfigError
from federation.pacs import Archive, ArchiveServer, Gateway, open_gateway
from federation.samples import phantom_cases
from federation.samples.importer import write_case
from federation.samples.tree import files_below, import_tree
from tests.peers import shared_data
from tests.peers.orthanc import orthanc
from tests.peers.process import free_port


@pytest.fixture
def address(tmp_path: Path) -> str:
    Archive(tmp_path / "pacs").close()
    return f"folder:{tmp_path / 'pacs'}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A study's images in one folder, below another the SEG, and what is no instance."""
    top = tmp_path / "tree"
    images = top / "images" / "series one"
    images.mkdir(parents=True)
    (top / "labels").mkdir()
    *_, seg = write_case(phantom_cases("A", 1, 0)[0], images)
    seg.rename(top / "labels" / "SEG0001")
    (top / "notes.txt").write_text("labelled by hand")
    (top / "DICOMDIR").write_bytes(b"")
    _write_directory(top / "DICOMDIR")
    return top


def test_images_and_labels_are_stored_and_the_rest_is_named(tree: Path, address: str) -> None:
    result = _import(tree, address)

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "stored 41 instances of 1 studies: 40 MR, 1 SEG",
        "passed over 2 files",
        "  DICOMDIR: a DICOMDIR, which lists others",
        "  notes.txt: notes.txt is no DICOM file, so it was not sent",
    ]
    assert _count(address) == 41


def test_json_of_a_tree_is_all_that_stands_on_stdout(tree: Path, address: str) -> None:
    result = _import(tree, address, "--json")

    document = json.loads(result.stdout)
    assert document["instances"] == 41
    assert document["studies"] == 1
    assert document["modalities"] == {"MR": 40, "SEG": 1}
    assert [one["file"] for one in document["passed_over"]] == ["DICOMDIR", "notes.txt"]


def test_importing_a_tree_again_adds_nothing(tree: Path, address: str) -> None:
    first, again = (_import(tree, address) for _ in range(2))

    assert first.stdout == again.stdout
    assert _count(address) == 41


@pytest.mark.parametrize("way", ["folder", "dimse"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_file_is_passed_over_and_not_half_stored(
    tree: Path, tmp_path: Path, address: str, way: str, kept: float
) -> None:
    path = tree / "images" / "series one" / "0007.dcm"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])

    if way == "folder":
        result = _import(tree, address, "--json")
    else:
        with ArchiveServer(Archive(tmp_path / "pacs"), ae_title="PACS") as server:
            result = _import(tree, server.address, "--json")

    document = json.loads(result.stdout)
    assert document["instances"] == 40
    files = {one["file"]: one["problem"] for one in document["passed_over"]}
    assert "cannot be understood" in files["images/series one/0007.dcm"]
    assert _count(address) == 40


def test_links_are_not_followed_and_pipes_not_read(
    tree: Path, tmp_path: Path, address: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    write_case(phantom_cases("B", 1, 0)[0], outside)
    (tree / "another").symlink_to(outside)
    (tree / "one.dcm").symlink_to(outside / "0001.dcm")
    (tree / "gone.dcm").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tree / "pipe")

    result = _import(tree, address, "--json")

    assert json.loads(result.stdout)["instances"] == 41
    assert _count(address) == 41


def test_a_copy_of_a_file_is_no_other_instance(tree: Path, address: str) -> None:
    shutil.copytree(tree / "images", tree / "backup")

    result = _import(tree, address, "--json")

    assert json.loads(result.stdout)["instances"] == 41
    assert json.loads(result.stdout)["modalities"] == {"MR": 40, "SEG": 1}


def test_other_content_under_a_uid_that_is_taken_is_named(tree: Path, address: str) -> None:
    """All others of its batch are stored, before it and behind."""
    other = pydicom.dcmread(tree / "images" / "series one" / "0003.dcm")
    other.SeriesDescription = "changed since"
    other.save_as(tree / "images" / "series one" / "0003 changed.dcm")

    result = _import(tree, address, "--json")

    document = json.loads(result.stdout)
    assert document["instances"] == 41
    problems = [one["problem"] for one in document["passed_over"]]
    assert sum("stored with other content" in problem for problem in problems) == 1
    assert _count(address) == 41


def test_an_instance_without_a_modality_is_passed_over(tree: Path, address: str) -> None:
    path = tree / "labels" / "SEG0001"
    dataset = pydicom.dcmread(path)
    dataset.Modality = ""
    dataset.save_as(path)

    result = _import(tree, address, "--json")

    passed_over = json.loads(result.stdout)["passed_over"]
    assert {"file": "labels/SEG0001", "problem": "an instance without Modality"} in passed_over


def test_a_long_list_of_problems_is_cut_and_counted(tree: Path, address: str) -> None:
    for number in range(30):
        (tree / f"{number:02d}.txt").write_text("no image")

    lines = _import(tree, address).stdout.splitlines()

    assert lines[1] == "passed over 32 files"
    assert len(lines) == 2 + 20


@pytest.mark.parametrize("content", [None, b"no image"], ids=["nothing there", "no DICOM"])
def test_a_tree_of_which_nothing_is_stored_is_a_failure(
    tmp_path: Path, address: str, content: bytes | None
) -> None:
    (tmp_path / "empty" / "below").mkdir(parents=True)
    if content is not None:
        (tmp_path / "empty" / "below" / "file").write_bytes(content)

    result = _import(tmp_path / "empty", address)

    assert result.exit_code == 1
    assert result.stdout.startswith("stored 0 instances of 0 studies: nothing")


def test_what_is_no_folder_is_a_wrong_argument(tree: Path, address: str) -> None:
    for path in (tree / "nowhere", tree / "notes.txt"):
        result = _import(path, address)

        assert isinstance(result.exception, ConfigError)
        assert "is no folder; expected one with DICOM files" in str(result.exception)


def test_a_folder_that_goes_away_is_not_left_out_in_silence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: .*; nothing was stored"):
        files_below(tmp_path / "gone")


def test_an_archive_is_asked_nothing_about_files_that_are_no_instances(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with open_gateway(f"dimse://NOBODY@127.0.0.1:{free_port()}") as gateway:
        (outcome,) = import_tree(files_below(tmp_path), gateway)

    assert "is no DICOM file" in outcome.problem


def test_objects_that_others_wrote_are_stored_as_they_are(tmp_path: Path, address: str) -> None:
    interop = shared_data("interop")
    expected = _instances(interop.rglob("*.dcm"))

    result = _import(interop, address, "--json")

    document = json.loads(result.stdout)
    assert document["instances"] == len(expected) == 22
    assert set(document["modalities"]) >= {"CT", "SEG", "RTSTRUCT", "MR"}
    assert {"README.md", "CHECKSUMS"} <= {one["file"] for one in document["passed_over"]}
    assert not any(one["file"].endswith(".dcm") for one in document["passed_over"])
    with open_gateway(address) as gateway:
        stored = _instances(_fetch_all(gateway, tmp_path))
    assert stored.keys() == expected.keys()
    for uid, dataset in expected.items():
        assert stored[uid] == dataset
        assert stored[uid].file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID


def test_a_data_set_of_an_odd_length_does_not_end_the_import(tree: Path, tmp_path: Path) -> None:
    """DCMTK's storescp and Orthanc end the association over one."""
    whole = next((tree / "images" / "series one").iterdir()).read_bytes()
    head, tag, pixels = whole.partition(b"\xe0\x7f\x10\x00OW\x00\x00")
    length = len(pixels) - 4
    (tree / "odd.dcm").write_bytes(
        head + tag + (length + 1).to_bytes(4, "little") + pixels[4:] + b"\0"
    )
    with orthanc(tmp_path / "orthanc") as archive:
        result = _import(tree, archive.dimse)
        assert result.exit_code == 0
        assert "passed over 3 files" in result.stdout
        assert "bytes, and those of DICOM are even" in result.stdout
        assert _count(archive.dimse) == 41


def _import(folder: Path, address: str, *options: str) -> Result:
    cli = typer.Typer(pretty_exceptions_enable=False)
    register(cli)
    return CliRunner().invoke(cli, ["import", "folder", str(folder), address, *options])


def _count(address: str) -> int:
    with open_gateway(address) as gateway:
        rows = gateway.find("STUDY", {"NumberOfStudyRelatedInstances": ""})
    return sum(int(row.NumberOfStudyRelatedInstances) for row in rows)


def _instances(paths: Any) -> Mapping[str, Dataset]:
    datasets = [pydicom.dcmread(path) for path in paths]
    return {str(dataset.SOPInstanceUID): dataset for dataset in datasets}


def _fetch_all(gateway: Gateway, scratch: Path) -> list[Path]:
    paths = []
    for study in gateway.find("STUDY", {"StudyInstanceUID": ""}):
        keys = {"StudyInstanceUID": study.StudyInstanceUID, "SeriesInstanceUID": ""}
        for series in gateway.find("SERIES", keys):
            folder = scratch / series.SeriesInstanceUID
            folder.mkdir()
            paths += gateway.fetch(
                folder, study=study.StudyInstanceUID, series=series.SeriesInstanceUID
            )
    return paths


def _write_directory(path: Path) -> None:
    """A DICOMDIR as far as its file meta goes (PS3.3 Annex F)."""
    directory = Dataset()
    directory.FileSetID = "DISC"
    directory.DirectoryRecordSequence = []
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.save_as(path, enforce_file_format=True)
