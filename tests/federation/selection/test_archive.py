"""Selecting out of archives, by the command that people type."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from federation.errors import DataError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import VersionManifest
from federation.pacs import Gateway
from federation.registry import Registry
from federation.releases import promote
from federation.samples.importer import write_case
from federation.samples.phantom import phantom_cases
from federation.selection import ReleasedModels, facts_of, read_image, series_in
from tests.federation.iodeep.records import evaluation, tensors, version

IODEEP = Path(sys.executable).with_name("iodeep")
PHANTOM, OTHER = "MR/hippocampus/-/unet", "CT/liver/-/unet"


@pytest.fixture
def address(gateway: Gateway) -> str:
    return gateway.address


def release(gateway: Gateway, name: str, seed: int = 0) -> VersionManifest:
    registry = Registry(gateway)
    manifest, parts = version(tensors(seed), line=Line.parse(name))
    registry.publish(manifest, parts)
    promote(registry, manifest)
    return manifest


def study(gateway: Gateway, folder: Path, change: Callable[[Dataset], None] | None = None) -> str:
    """A phantom's study in the archive: images that are changed, and their SEG."""
    folder.mkdir()
    paths = write_case(phantom_cases("A", 1, 0)[0], folder)
    for path in paths:
        ds = pydicom.dcmread(path)
        if change is not None and ds.Modality != "SEG":
            change(ds)
            ds.save_as(path)
    gateway.store(paths)
    return str(ds.StudyInstanceUID)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [IODEEP, "model", "select", *words], capture_output=True, text=True, check=False
    )


def test_the_command_ranks_what_is_released(gateway: Gateway, address: str, tmp_path: Path) -> None:
    manifest = release(gateway, PHANTOM)
    release(gateway, OTHER)
    uid = study(gateway, tmp_path / "study")

    done = run(uid, address, "--json")

    assert done.returncode == 0, done.stderr
    (series,) = json.loads(done.stdout)
    assert series["chosen"] == manifest.uid
    assert [one["line"] for one in series["suited"]] == [PHANTOM]
    assert series["unsuited"] == []  # networks for CT are not asked about
    assert "chosen" in run(uid, address).stdout
    file = tmp_path / "study" / "0001.dcm"
    assert json.loads(run(str(file), address, "--json").stdout)[0]["chosen"] == manifest.uid


def test_a_study_that_nothing_suits_says_what_was_looked_for(
    gateway: Gateway, address: str, tmp_path: Path
) -> None:
    release(gateway, PHANTOM)

    def turn_into_a_knee(ds: Dataset) -> None:
        ds.BodyPartExamined = "KNEE"
        ds.SeriesDescription = "of SECRET^Name"
        if "AnatomicRegionSequence" in ds:
            del ds.AnatomicRegionSequence

    uid = study(gateway, tmp_path / "study", turn_into_a_knee)
    done = run(uid, address)
    assert done.returncode == 1
    assert "no network suits: looked for MR of Knee" in done.stderr
    assert "SECRET" not in done.stdout + done.stderr


def test_where_no_network_is_for_its_modality_what_there_is_is_said(
    gateway: Gateway, address: str, tmp_path: Path
) -> None:
    release(gateway, OTHER)
    done = run(study(gateway, tmp_path / "study"), address, "--json")
    assert done.returncode == 1
    assert "no network is for MR; there are some for CT" in done.stderr
    (series,) = json.loads(done.stdout)
    assert series["unsuited"] == [{"line": OTHER, "reason": "it is for CT, the image is MR"}]


def test_a_study_that_is_not_there_is_an_error(address: str) -> None:
    done = run("1.2.3", address)
    assert done.returncode == 1
    assert "is not there" in done.stderr
    assert run("nothing", address).returncode != 0


def test_evaluations_of_the_site_are_its_score(gateway: Gateway) -> None:
    manifest = release(gateway, PHANTOM)
    Registry(gateway).publish(evaluation(manifest, dice=0.75))
    mine = ReleasedModels(Registry(gateway), "A").of(manifest.line)
    theirs = ReleasedModels(Registry(gateway), "B").of(manifest.line)
    assert mine is not None
    assert mine.score == 0.75
    assert theirs is not None
    assert theirs.score is None
    assert ReleasedModels(Registry(gateway)).of(Line.parse(OTHER)) is None


def test_only_series_of_images_are_looked_at(gateway: Gateway, tmp_path: Path) -> None:
    uid = study(gateway, tmp_path / "study")
    (series,) = series_in(gateway, uid)
    assert (series.facts.modality, series.facts.is_projection) == ("MR", False)
    assert series.facts.images > 1


def test_a_file_that_is_no_image_is_an_error(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no DICOM")
    with pytest.raises(DataError, match="no DICOM image"):
        read_image(text)
    (tmp_path / "study").mkdir()
    seg = write_case(phantom_cases("A", 1, 0)[0], tmp_path / "study")[-1]
    with pytest.raises(DataError, match="holds no image"):
        read_image(seg)


def test_values_that_make_no_sense_count_as_absent() -> None:
    ds = Dataset()
    ds.Modality = "MR"
    ds.NumberOfFrames = ""
    assert facts_of(ds, 3).images == 3
    assert facts_of(Dataset(), 0).modality == ""
