"""Images of other modalities and geometry, with what labels them: as other makers write them."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import (
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

from clients.data.labels import Wanted, read_labels
from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import LPS_TO_RAS, read_volume
from tests.clients.data.conftest import WANTED, WrittenCase, edit, segmentation
from tests.peers import peer, shared_data


def images(folder: str) -> list[Path]:
    paths = sorted(shared_data(f"interop/{folder}").glob("*.dcm"))
    return [path for path in paths if not path.name.startswith(("seg", "rt"))]


def as_pet(paths: Sequence[Path]) -> None:
    """As a PET scanner scales them: each slice by what it holds at most."""
    for number, path in enumerate(paths, start=1):
        edit(
            path,
            lambda ds, n=number: ds.update(
                {
                    "SOPClassUID": PositronEmissionTomographyImageStorage,
                    "Modality": "PT",
                    "Units": "BQML",
                    "RescaleSlope": f"{0.25 * n}",
                    "RescaleIntercept": "0",
                }
            ),
        )


def enhanced(paths: Sequence[Path], kind: type[Dataset], path: Path) -> Path:
    """One multi-frame object of a series, as highdicom makes it."""
    kind(
        [pydicom.dcmread(one) for one in reversed(paths)],
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
    ).save_as(path)
    return path


def test_pet_is_scaled_slice_by_slice(written: WrittenCase, tmp_path: Path) -> None:
    as_pet(written.series)

    volume = read_volume(written.series)

    stored = [pydicom.dcmread(path).pixel_array for path in written.series]
    for number, (slice_, pixels) in enumerate(zip(volume.voxels, stored, strict=True), start=1):
        assert np.array_equal(slice_, pixels.astype(np.float32) * np.float32(0.25 * number))
    whole = enhanced(
        written.series, highdicom.legacy.LegacyConvertedEnhancedPETImage, tmp_path / "pt.dcm"
    )
    assert np.array_equal(read_volume([whole]).voxels, volume.voxels)


@pytest.mark.parametrize("compress", ["", "dcmcrle", "dcmcjpeg +e1", "dcmcjpls +el"])
def test_an_enhanced_ct_is_what_its_slices_are(tmp_path: Path, compress: str) -> None:
    paths = images("01-ct-liver-seg")
    before = read_volume(paths)
    path = enhanced(paths, highdicom.legacy.LegacyConvertedEnhancedCTImage, tmp_path / "ct.dcm")
    if compress:
        program, *options = compress.split()
        subprocess.run([peer(program), *options, path, path], check=True)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_encapsulated

    volume = read_volume([path])

    assert np.array_equal(volume.voxels, before.voxels)
    assert np.allclose(volume.affine, before.affine, atol=1e-9)


def test_a_multi_frame_secondary_capture_has_its_rescale_at_the_top(tmp_path: Path) -> None:
    """Multi-frame Grayscale Word SC, with planes for each frame (PS3.3 Section C.8.6.3)."""
    paths = images("01-ct-liver-seg")
    path = enhanced(paths, highdicom.legacy.LegacyConvertedEnhancedCTImage, tmp_path / "sc.dcm")

    def to_the_top(dataset: Dataset) -> None:
        dataset.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "2", "-1024", "HU"
        groups = dataset.PerFrameFunctionalGroupsSequence
        for one in (*groups, dataset.SharedFunctionalGroupsSequence[0]):
            one.pop("PixelValueTransformationSequence", None)

    edit(path, to_the_top)

    volume = read_volume([path])

    stored = pydicom.dcmread(path).pixel_array
    assert sorted(volume.voxels.sum(axis=(1, 2))) == pytest.approx(
        sorted((stored.astype(np.float32) * 2 - 1024).sum(axis=(1, 2)))
    )


@pytest.mark.parametrize(
    ("folder", "kind"), [("04-ct-phantom-rtstruct", "<i2"), ("02-ct-nonsquare-seg-labelmap", "<u2")]
)
def test_ct_is_in_hounsfield_units_signed_or_not(folder: str, kind: str) -> None:
    volume = read_volume(images(folder))

    datasets = {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, images(folder))}
    for voxels, instance in zip(volume.voxels, volume.instances, strict=True):
        dataset = datasets[instance]
        assert dataset.PixelRepresentation == (kind == "<i2")
        stored = np.frombuffer(dataset.PixelData, kind).reshape(voxels.shape)
        assert np.array_equal(voxels, stored + np.float32(dataset.RescaleIntercept))


# --- geometry -----------------------------------------------------------------------------


def turned(degrees: float, axis: Sequence[float]) -> NDArray[np.float64]:
    """A rotation about an axis (Rodrigues)."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def turning(rotation: NDArray[np.float64]) -> Callable[[Dataset], None]:
    """The patient lies turned in the scanner; values are rounded as a Decimal String is."""

    def change(dataset: Dataset) -> None:
        rows = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
        position = np.array(dataset.ImagePositionPatient, float)
        dataset.ImageOrientationPatient = [f"{v:.8f}" for v in (rows @ rotation.T).ravel()]
        dataset.ImagePositionPatient = [f"{v:.6f}" for v in rotation @ position]

    return change


@pytest.mark.parametrize("degrees", [3, 20, 45, 70])
def test_oblique_slices_and_their_labels_stay_on_one_grid(
    written: WrittenCase, tmp_path: Path, degrees: float
) -> None:
    straight = read_volume(written.series)
    rotation = turned(degrees, (1, 2, 3))
    for path in written.series:
        edit(path, turning(rotation))
    seg = segmentation(
        [pydicom.dcmread(path) for path in written.series],
        np.asarray(written.expected_labels),
        "BINARY",
    )
    seg.save_as(tmp_path / "seg.dcm")

    volume = read_volume(written.series)

    whole = np.eye(4)
    whole[:3, :3] = rotation
    assert np.array_equal(volume.voxels, straight.voxels)
    assert np.allclose(LPS_TO_RAS @ volume.affine, whole @ LPS_TO_RAS @ straight.affine, atol=1e-5)
    labels = read_labels([tmp_path / "seg.dcm"], volume, WANTED)
    assert np.array_equal(labels, written.expected_labels)


@pytest.mark.parametrize("thickness", ["0.5", "1", "7", ""])
def test_slices_are_as_far_apart_as_their_positions_say(
    written: WrittenCase, tmp_path: Path, thickness: str
) -> None:
    """Thinner than that is a gap, thicker an overlap; neither changes where the slices are."""
    kept, labels = written.series[1::3], np.asarray(written.expected_labels)[1::3]
    for path in kept:
        edit(path, lambda ds: ds.update({"SliceThickness": thickness, "SpacingBetweenSlices": "9"}))
    seg = segmentation([pydicom.dcmread(path) for path in kept], labels, "BINARY")
    seg.save_as(tmp_path / "seg.dcm")

    volume = read_volume(kept)

    assert volume.spacing_mm == pytest.approx((3, 1, 1))
    assert np.array_equal(read_labels([tmp_path / "seg.dcm"], volume, WANTED), labels)


def test_pixels_need_not_be_square(written: WrittenCase, tmp_path: Path) -> None:
    for path in written.series:
        edit(path, lambda ds: setattr(ds, "PixelSpacing", ["0.7", "1.3"]))
    seg = segmentation(
        [pydicom.dcmread(path) for path in written.series],
        np.asarray(written.expected_labels),
        "LABELMAP",
    )
    seg.save_as(tmp_path / "seg.dcm")

    volume = read_volume(written.series)

    assert volume.spacing_mm == pytest.approx((1, 0.7, 1.3))
    first = pydicom.dcmread(written.series[0])
    along_row = np.array(first.ImageOrientationPatient[:3], float)
    step = LPS_TO_RAS @ volume.affine @ [0, 0, 1, 1] - LPS_TO_RAS @ volume.affine @ [0, 0, 0, 1]
    assert np.allclose(step[:3], 1.3 * along_row)
    assert np.array_equal(
        read_labels([tmp_path / "seg.dcm"], volume, WANTED), written.expected_labels
    )


# --- labels -------------------------------------------------------------------------------


def test_highdicoms_own_segs_land_where_highdicom_sees_them() -> None:
    """Three of the four slices are equidistant; one SEG marks these, the other all four."""
    home = shared_data("interop/03-ct-16x16-seg-overlap")
    volume = read_volume([home / f"{number}.dcm" for number in (17136, 17166, 17196)])

    labels = read_labels([home / "seg_binary.dcm"], volume, Wanted.of(names={"first segment": 1}))

    seen = highdicom.seg.segread(home / "seg_binary.dcm").get_volume(combine_segments=True)
    own = highdicom.Volume(labels, LPS_TO_RAS @ volume.affine, "PATIENT")
    assert labels.any()
    assert np.array_equal(seen.match_geometry(own).array, labels)
    with pytest.raises(Unusable) as refused:
        read_labels([home / "seg_overlap.dcm"], volume, Wanted.of(names={"second segment": 1}))
    assert refused.value.reason is Reason.LABELS_OFF_GRID


def test_a_projection_is_labelled_pixel_by_pixel(written: WrittenCase, tmp_path: Path) -> None:
    """It has no place, so a SEG of its size is taken as it lies, and contours mean nothing."""
    path = shared_data("interop/05-mr-ct-plain") / "dx_image.dcm"
    volume = read_volume([path])
    pixels = np.zeros(volume.voxels.shape, np.uint8)
    pixels[0, 10:20, 30:60] = 1
    pixels[0, 40:50, 30:60] = 2
    frames = [(number, pixels[0] == number, "") for number in (1, 2)]
    projection_seg(written.seg, frames, [pydicom.dcmread(path)]).save_as(tmp_path / "seg.dcm")

    assert np.array_equal(read_labels([tmp_path / "seg.dcm"], volume, WANTED), pixels)
    with pytest.raises(Unusable) as refused:
        read_labels([shared_data("interop/04-ct-phantom-rtstruct") / "rt.dcm"], volume, WANTED)
    assert refused.value.reason is Reason.LABELS_OFF_GRID


def test_a_frame_is_drawn_on_the_projection_that_it_names(
    written: WrittenCase, tmp_path: Path
) -> None:
    """One SEG of two views of the same size, as PA and lateral."""
    views = [
        pydicom.dcmread(shared_data("interop/05-mr-ct-plain") / "dx_image.dcm") for _ in range(2)
    ]
    for number, view in enumerate(views):
        view.SOPInstanceUID, view.SeriesInstanceUID = generate_uid(), generate_uid()
        view.file_meta.MediaStorageSOPInstanceUID = view.SOPInstanceUID
        view.save_as(tmp_path / f"{number}.dcm")
    drawn = np.zeros((3, views[0].Rows, views[0].Columns), bool)
    drawn[0, 10:20], drawn[1, 40:50], drawn[2, 60:70] = True, True, True
    named = [str(views[number].SOPInstanceUID) for number in (0, 0, 1)]
    path = tmp_path / "seg.dcm"

    frames = list(zip((1, 2, 1), drawn, named, strict=True))
    projection_seg(written.seg, frames, views).save_as(path)
    volumes = [read_volume([tmp_path / f"{number}.dcm"]) for number in (0, 1)]
    labels = [read_labels([path], volume, WANTED)[0] for volume in volumes]

    assert np.array_equal(labels[0], drawn[0] + 2 * drawn[1].astype(np.uint8))
    assert np.array_equal(labels[1], drawn[2])
    projection_seg(written.seg, [(1, drawn[0], "")], views).save_as(path)
    with pytest.raises(Unusable, match="which projection") as refused:
        read_labels([path], volumes[0], WANTED)
    assert refused.value.reason is Reason.LABELS_OFF_GRID


def projection_seg(
    like: Path, frames: Sequence[tuple[int, NDArray[np.bool_], str]], views: Sequence[Dataset]
) -> Dataset:
    """A SEG that refers to projections: of each frame its segment, pixels, and what it names."""
    seg = pydicom.dcmread(like)
    seg.PerFrameFunctionalGroupsSequence = [_group(number, named) for number, _, named in frames]
    pixels = np.stack([pixels for _, pixels, _ in frames])
    seg.NumberOfFrames, seg.Rows, seg.Columns = pixels.shape
    del seg.FrameOfReferenceUID
    seg.ReferencedSeriesSequence = []
    for view in views:
        series, instance = Dataset(), Dataset()
        instance.ReferencedSOPInstanceUID = view.SOPInstanceUID
        series.SeriesInstanceUID = view.SeriesInstanceUID
        series.ReferencedInstanceSequence = [instance]
        seg.ReferencedSeriesSequence.append(series)
    seg.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes()
    return seg


def _group(number: int, named: str) -> Dataset:
    item, identified = Dataset(), Dataset()
    identified.ReferencedSegmentNumber = number
    item.SegmentIdentificationSequence = [identified]
    if named:
        derived, source = Dataset(), Dataset()
        source.ReferencedSOPInstanceUID = named
        derived.SourceImageSequence = [source]
        item.DerivationImageSequence = [derived]
    return item
