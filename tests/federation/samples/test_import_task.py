"""Task folders of the Decathlon through the command line, and out of the archive again."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import typer
from typer.testing import CliRunner, Result

from clients.data import find_labelled_series
from clients.data.labels import Wanted, read_labels
from clients.data.volumes import read_volume
from federation.commands.imports import register
from federation.config import DataTable, LabelSource, Split
from federation.errors import ConfigError
from federation.pacs import Archive, open_gateway
from federation.samples import read_cases
from federation.samples.importer import write_case
from tests.federation.samples.conftest import (
    TaskFolder,
    affine_of,
    ct_voxels,
    label_voxels,
    mr_voxels,
    rotation,
)
from tests.peers import peer

LABELS = {"liver": 1, "cancer": 2, "grey thing": 3}


@pytest.fixture
def address(tmp_path: Path) -> str:
    Archive(tmp_path / "pacs").close()
    return f"folder:{tmp_path / 'pacs'}"


AFFINES = {
    "anisotropic": affine_of((0.75, 0.8, 2.5)),
    "to left and back": affine_of((-0.75, -0.8, 2.5)),
    "left-handed": affine_of((-0.75, 0.8, 2.5)),
    "from head to feet": affine_of((0.75, 0.8, -5.0)),
    "sagittal": affine_of((1.0, 1.2, 3.0), np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])),
    "oblique": affine_of((0.7, 0.9, 3.3), rotation(0.4, -0.3)),
    "very oblique": affine_of((-0.7, 0.9, 3.3), rotation(0.75, 0.7)),
}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_ct_comes_back_voxel_for_voxel_and_label_for_label(
    task: TaskFolder, address: str, tmp_path: Path, affine: np.ndarray
) -> None:
    task.add("liver_1", ct_voxels(), label_voxels(1, 2, 3), affine)
    task.add("liver_2", ct_voxels(6), label_voxels(1, 3), affine)

    result = _import(task.folder, address, "--json")

    assert result.exit_code == 0
    assert [one["case"] for one in json.loads(result.stdout)["stored"]] == ["liver_1", "liver_2"]
    for name in ("liver_1", "liver_2"):
        found = _fetched(address, tmp_path, name, LABELS)
        _check_equal(task, name, *found)


@pytest.mark.parametrize(
    "voxels",
    [
        ct_voxels().astype(np.float32),
        ct_voxels().astype(np.float64),
        ct_voxels().astype(np.float32) * np.float32(0.1),
        (ct_voxels() // 16).astype(np.int8),
        np.abs(ct_voxels()).astype(np.uint16),
        ct_voxels().astype(np.int32),
        np.where(ct_voxels() > 0, np.int16(32767), np.int16(-32768)),
    ],
    ids=["float32", "float64", "tenths", "int8", "uint16", "int32", "extremes"],
)
def test_a_ct_of_any_type_that_fits_is_stored_without_loss(
    task: TaskFolder, address: str, tmp_path: Path, voxels: np.ndarray
) -> None:
    task.add("liver_1", voxels, label_voxels(1, 2, 3))

    assert _import(task.folder, address).exit_code == 0

    _check_equal(task, "liver_1", *_fetched(address, tmp_path, "liver_1", LABELS))


def test_whole_hounsfield_units_scaled_in_the_nifti_header_are_stored(
    task: TaskFolder, address: str, tmp_path: Path
) -> None:
    task.add("liver_1", ct_voxels(), label_voxels(1, 2, 3))
    path = task.folder / "imagesTr" / "liver_1.nii.gz"
    image = nibabel.Nifti1Image(ct_voxels() + np.int16(1024), nibabel.load(path).affine)
    image.header.set_slope_inter(1, -1024)
    nibabel.save(image, path)

    assert _import(task.folder, address).exit_code == 0

    _check_equal(task, "liver_1", *_fetched(address, tmp_path, "liver_1", LABELS))


def test_a_mr_image_comes_back_voxel_for_voxel(
    task: TaskFolder, address: str, tmp_path: Path
) -> None:
    task.write(modality={"0": "MRI"})
    task.add("la_003", mr_voxels(), label_voxels(1, 2, 3), AFFINES["oblique"])

    assert _import(task.folder, address).exit_code == 0

    _check_equal(task, "la_003", *_fetched(address, tmp_path, "la_003", LABELS))


def test_of_two_channels_the_first_is_stored_and_another_on_demand(
    task: TaskFolder, address: str, tmp_path: Path
) -> None:
    task.write(name="BRATS", modality={"0": "FLAIR", "1": "T1w"})
    task.add("BRATS_001", mr_voxels(shape=(8, 7, 6, 2)), label_voxels(1, 2, 3))

    assert _import(task.folder, address).exit_code == 0
    _check_equal(task, "BRATS_001", *_fetched(address, tmp_path, "BRATS_001 FLAIR", LABELS))
    assert len(_labelled(address)) == 1

    assert _import(task.folder, address, "--channel", "T1w").exit_code == 0
    found = _fetched(address, tmp_path, "BRATS_001 T1w", LABELS)
    _check_equal(task, "BRATS_001", *found, channel=1)
    both = _labelled(address)
    assert len(both) == 2
    assert len({one.study for one in both}) == 1


def test_a_label_that_marks_nothing_is_a_segment_all_the_same(
    task: TaskFolder, address: str, tmp_path: Path
) -> None:
    task.add("liver_1", ct_voxels(), label_voxels(1, 3))
    _import(task.folder, address)

    _, labels, _ = _fetched(address, tmp_path, "liver_1", LABELS)

    assert np.unique(labels).tolist() == [0, 1, 3]


def test_one_bad_case_does_not_keep_the_others_out(task: TaskFolder, address: str) -> None:
    sheared = affine_of((0.75, 0.8, 2.5))
    sheared[0, 1] = 0.2
    task.add("good", ct_voxels(), label_voxels(1, 2, 3))
    task.add("foreign", ct_voxels(), label_voxels(1, 7))
    task.add("unlabelled", ct_voxels(), label_voxels())
    task.add("between", ct_voxels() + np.float32(np.pi), label_voxels(1))
    task.add("beyond", ct_voxels() + np.int32(32000), label_voxels(1))
    task.add("infinite", np.full((8, 7, 6), np.inf, np.float32), label_voxels(1))
    task.add("sheared", ct_voxels(), label_voxels(1), sheared)
    task.add("lost", ct_voxels(), label_voxels(1))
    (task.folder / "labelsTr" / "lost.nii.gz").unlink()

    result = _import(task.folder, address)

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "stored 1 cases, 7 instances",
        "quarantined 7 cases",
        "  foreign: label-unexpected: the label image holds the values 7",
        "  unlabelled: label-missing: the label image marks no voxel",
        "  between: not-lossless: voxels are not one constant times integers of 16 bits",
        "  beyond: not-lossless: CT voxels outside -32768..32767 HU",
        "  infinite: not-lossless: voxels that are not finite",
        "  sheared: grid-unusable: the image's axes are not at right angles",
        "  lost: file-missing: the label file lost.nii.gz is absent",
    ]
    assert len(_labelled(address)) == 1


def test_importing_a_task_again_adds_nothing(task: TaskFolder, address: str) -> None:
    task.add("liver_1", ct_voxels(), label_voxels(1, 2, 3))

    for _ in range(2):
        assert _import(task.folder, address).exit_code == 0

    with open_gateway(address) as gateway:
        rows = gateway.find("STUDY", {"NumberOfStudyRelatedInstances": ""})
    assert [int(row.NumberOfStudyRelatedInstances) for row in rows] == [7]


def test_a_site_cannot_be_chosen_where_none_is_named(task: TaskFolder, address: str) -> None:
    task.add("liver_1", ct_voxels(), label_voxels(1))

    result = _import(task.folder, address, "--site", "A")

    assert isinstance(result.exception, ConfigError)
    assert "--site A: a dataset.json names no sites; leave --site out" in str(result.exception)
    assert _labelled(address) == []


@pytest.mark.parametrize("modality", ["CT", "T2w"])
@pytest.mark.parametrize("name", ["Liver", "Lung", "Kidney", "Aorta", "of nothing known"])
def test_a_validator_finds_no_error_in_a_task(
    task: TaskFolder, tmp_path: Path, modality: str, name: str
) -> None:
    validator = peer("dciodvfy")
    task.write(name=name, modality={"0": modality}, labels={"1": "grey thing", "2": "cancer"})
    task.add("liver_1", np.abs(ct_voxels()), label_voxels(1), AFFINES["oblique"])
    (tmp_path / "written").mkdir()

    first, *_, seg = write_case(read_cases(task.folder)[0], tmp_path / "written")

    for path in (first, seg):
        result = subprocess.run([validator, "-new", path], capture_output=True, text=True)
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
        assert errors == []


def test_a_ct_is_signed_and_in_hounsfield_units(task: TaskFolder, tmp_path: Path) -> None:
    task.add("liver_1", ct_voxels(), label_voxels(1))

    first, *_ = write_case(read_cases(task.folder)[0], tmp_path)

    image = pydicom.dcmread(first)
    assert image.file_meta.MediaStorageSOPClassUID == pydicom.uid.CTImageStorage
    assert (image.RescaleIntercept, image.RescaleSlope, image.RescaleType) == (0, 1, "HU")
    assert (image.BitsAllocated, image.BitsStored, image.PixelRepresentation) == (16, 16, 1)
    assert [float(value) for value in image.PixelSpacing] == pytest.approx([0.8, 0.75])
    assert float(image.SliceThickness) == 2.5


Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def _import(folder: Path, address: str, *options: str) -> Result:
    cli = typer.Typer(pretty_exceptions_enable=False)
    register(cli)
    return CliRunner().invoke(cli, ["import", "msd", str(folder), address, *options])


def _labelled(address: str, **query: str) -> list:
    table = DataTable(
        query=query,
        labels=LabelSource(map=LABELS),
        split=Split(validation=0.25, test=0.25, key=Path("unused")),
    )
    with open_gateway(address) as gateway:
        return list(find_labelled_series(gateway, table, Wanted.of(names=LABELS)).labelled)


def _fetched(address: str, scratch: Path, description: str, names: Mapping[str, int]) -> Found:
    """Voxels (D, H, W), labels, and the affine to RAS, of the series so described."""
    (series,) = _labelled(address, SeriesDescription=description)
    wanted = Wanted.of(names=names)
    with open_gateway(address) as gateway:
        paths = {}
        for uid in (series.image_series, series.labels[0].series):
            (scratch / uid).mkdir()
            paths[uid] = gateway.fetch(scratch / uid, study=series.study, series=uid)
    volume = read_volume(paths[series.image_series])
    return volume.voxels, read_labels(paths[series.labels[0].series], volume, wanted), volume.affine


def _check_equal(
    task: TaskFolder,
    name: str,
    voxels: np.ndarray,
    labels: np.ndarray,
    affine: np.ndarray,
    channel: int = 0,
) -> None:
    """Each voxel of the series against that of the NIfTI at the same place in the patient."""
    image = nibabel.load(task.folder / "imagesTr" / f"{name}.nii.gz")
    expected = np.asanyarray(image.dataobj)
    expected = expected[..., channel] if expected.ndim == 4 else expected
    expected_labels = np.asanyarray(
        nibabel.load(task.folder / "labelsTr" / f"{name}.nii.gz").dataobj
    )
    to_nifti = np.linalg.inv(image.affine) @ affine
    index = np.indices(voxels.shape).reshape(3, -1)
    place = (to_nifti @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    assert np.abs(place - np.rint(place)).max() < 1e-5
    there = tuple(np.rint(place).astype(int))
    assert len(set(zip(*there, strict=True))) == expected.size == voxels.size
    assert np.array_equal(voxels.ravel(), expected[there].astype(np.float32))
    assert np.array_equal(labels.ravel(), expected_labels[there])
