"""SEG and SR as others see them: validators, readers, and our own labels."""

import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from clients.data import Reason, Unusable
from clients.data.labels import Wanted, read_labels
from clients.data.volumes import read_volume
from clients.inference.results import Results, write_results
from federation.fresh import fresh_version
from federation.iodeep.manifest import VersionManifest
from tests.clients.inference.small import LABELS, PLANES, experiment, write_study
from tests.peers import peer, shared_data


def version(**model: object) -> VersionManifest:
    return fresh_version(experiment(**model), "main")[0]


def written(
    folder: Path, site: str = "A"
) -> tuple[list[Path], list[Path], np.ndarray, dict[int, float]]:
    """Images, results, the labels that they hold, and the volumes."""
    images = write_study(folder / "images", site)
    volume = read_volume(images)
    labels = np.zeros(volume.voxels.shape, np.uint8)
    labels[3:9, 5:12, 4:11] = 1
    labels[9:12, 5:12, 4:20] = 2
    manifest = version()
    results = Results.of(manifest, "1.2.3", volume.instances)
    paths, volumes = write_results(volume, labels, images, manifest, results, folder)
    return images, paths, labels, volumes


@pytest.mark.parametrize("site", PLANES)
def test_the_seg_holds_the_labels_slice_by_slice(site: str, tmp_path: Path) -> None:
    images, (seg, _), labels, _ = written(tmp_path, site)
    read = highdicom.seg.segread(seg)
    uids = read_volume(images).instances
    pixels = read.get_pixels_by_source_instance(uids, ignore_spatial_locations=True)
    assert np.array_equal(pixels.argmax(-1) + pixels.any(-1), labels)


def test_validators_and_other_readers_take_both(tmp_path: Path) -> None:
    _, paths, _, _ = written(tmp_path)
    for path in paths:
        done = subprocess.run([peer("dciodvfy"), path], capture_output=True, text=True, check=False)
        assert "Error" not in done.stderr, done.stderr
        subprocess.run([peer("dcmdump"), path], check=True, capture_output=True)
    printed = subprocess.run(
        [peer("dsrdump"), paths[1]], check=True, capture_output=True, text=True
    ).stdout
    assert "Volume" in printed
    highdicom.sr.srread(paths[1])


def test_volumes_are_those_of_the_voxels(tmp_path: Path) -> None:
    _, (_, sr), labels, volumes = written(tmp_path)
    assert volumes == {1: (labels == 1).sum() / 1000, 2: (labels == 2).sum() / 1000}
    report = highdicom.sr.srread(sr)
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [group.get_measurements()[0].value for group in groups] == list(volumes.values())


def test_a_prediction_is_no_label_until_a_person_accepts_it(tmp_path: Path) -> None:
    images, (seg, _), labels, _ = written(tmp_path)
    volume = read_volume(images)
    wanted = Wanted.of(version().outputs, {})
    with pytest.raises(Unusable) as refused:
        read_labels([seg], volume, wanted)
    assert refused.value.reason is Reason.PREDICTION
    ds = pydicom.dcmread(seg)
    for segment in ds.SegmentSequence:
        segment.SegmentAlgorithmType = "SEMIAUTOMATIC"
    ds.save_as(seg)
    assert np.array_equal(read_labels([seg], volume, wanted), labels)


def test_it_says_who_made_it_and_of_what(tmp_path: Path) -> None:
    images, (path, sr), _, _ = written(tmp_path)
    seg, report, image = (pydicom.dcmread(one) for one in (path, sr, images[0]))
    for one in seg.SegmentSequence:
        made_by = one.SegmentationAlgorithmIdentificationSequence[0]
        assert made_by.AlgorithmName == version().line.patient_id
        assert made_by.AlgorithmVersion == version().uid
    assert [one.SegmentLabel for one in seg.SegmentSequence] == list(LABELS.values())
    assert {seg.PatientID, report.PatientID} == {image.PatientID}
    assert {seg.StudyInstanceUID, report.StudyInstanceUID} == {image.StudyInstanceUID}
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID


def test_the_same_version_on_the_same_series_has_the_same_uids() -> None:
    one, other = version(), version(line="MR/brain/-/other")
    first = Results.of(one, "1.2.3", ["1.1", "1.2"])
    assert first == Results.of(one, "1.2.3", ["1.2", "1.1", "1.1"])
    assert first.uid("seg") != first.uid("sr")
    for changed in (
        Results.of(other, "1.2.3", ["1.1", "1.2"]),
        Results.of(one, "1.2.4", ["1.1", "1.2"]),
        Results.of(one, "1.2.3", ["1.1"]),
    ):
        assert changed.uid("seg") != first.uid("seg")


def test_an_image_without_any_structure_has_results_too(tmp_path: Path) -> None:
    images = write_study(tmp_path / "images")
    volume = read_volume(images)
    manifest = version()
    results = Results.of(manifest, "1.2.3", volume.instances)
    labels = np.zeros(volume.voxels.shape, np.uint8)
    paths, volumes = write_results(volume, labels, images, manifest, results, tmp_path)
    assert volumes == {1: 0, 2: 0}
    assert not pydicom.dcmread(paths[0]).pixel_array.any()
    for path in paths:
        done = subprocess.run([peer("dciodvfy"), path], capture_output=True, text=True, check=False)
        assert "Error" not in done.stderr, done.stderr


def test_a_projection_has_its_seg(tmp_path: Path) -> None:
    image = shared_data("interop/05-mr-ct-plain") / "dx_image.dcm"
    volume = read_volume([image])
    labels = np.zeros(volume.voxels.shape, np.uint8)
    labels[0, 10:20, 30:60] = 1
    labels[0, 40:50, 30:60] = 2
    manifest = version()
    results = Results.of(manifest, "1.2.3", volume.instances)
    (seg,), volumes = write_results(volume, labels, [image], manifest, results, tmp_path)
    assert volumes == {}
    ds = pydicom.dcmread(seg)
    for segment in ds.SegmentSequence:
        segment.SegmentAlgorithmType = "MANUAL"
    ds.save_as(seg)
    wanted = Wanted.of(manifest.outputs, {})
    assert np.array_equal(read_labels([seg], volume, wanted), labels)


def test_an_enhanced_image_has_its_seg(tmp_path: Path) -> None:
    series = [pydicom.dcmread(path) for path in write_study(tmp_path / "images")]
    enhanced = highdicom.legacy.LegacyConvertedEnhancedMRImage(
        legacy_datasets=series,
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
    )
    path = tmp_path / "enhanced.dcm"
    enhanced.save_as(path)
    volume = read_volume([path])
    labels = np.zeros(volume.voxels.shape, np.uint8)
    labels[3:9, 5:12, 4:11] = 1
    labels[9:12, 5:12, 4:20] = 2
    manifest = version()
    results = Results.of(manifest, "1.2.3", volume.instances)
    (seg, _), _ = write_results(volume, labels, [path], manifest, results, tmp_path)
    ds = pydicom.dcmread(seg)
    for segment in ds.SegmentSequence:
        segment.SegmentAlgorithmType = "MANUAL"
    ds.save_as(seg)
    wanted = Wanted.of(manifest.outputs, {})
    assert np.array_equal(read_labels([seg], volume, wanted), labels)
