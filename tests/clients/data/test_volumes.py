import random
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import LPS_TO_RAS, read_volume
from federation.samples.dicom import slices
from federation.samples.phantom import phantom_cases
from tests.clients.data.conftest import WrittenCase, edit, write
from tests.peers import shared_data


@pytest.mark.parametrize("site", list("ABCD"))
def test_voxels_and_geometry_are_those_of_the_phantom(site: str, tmp_path: Path) -> None:
    case = write(phantom_cases(site, 1, 0)[0], tmp_path)
    random.Random(1).shuffle(case.series)

    volume = read_volume(case.series)

    expected = slices(case.image.voxels, case.image.affine, case.case.plane)
    assert volume.voxels.dtype == np.float32
    assert np.array_equal(volume.voxels, expected.pixels)
    assert np.allclose(volume.affine, LPS_TO_RAS @ expected.affine, atol=1e-9)
    assert volume.spacing_mm == pytest.approx((1, 1, 1))


def test_slices_are_ordered_by_geometry_and_not_by_number(written: WrittenCase) -> None:
    for number, path in enumerate(written.series):
        edit(path, lambda ds, n=number: setattr(ds, "InstanceNumber", (n * 7) % 11))

    assert np.array_equal(read_volume(written.series).voxels, written.expected_voxels)


def test_slope_and_intercept_are_each_slices_own(written: WrittenCase) -> None:
    def rescale(dataset: Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = "2.5", "-1024"

    edit(written.series[3], rescale)

    changed = read_volume(written.series).voxels[3]

    stored = pydicom.dcmread(written.series[3]).pixel_array
    assert np.array_equal(changed, stored.astype(np.float32) * np.float32(2.5) - 1024)


def test_lossless_compression_changes_nothing(written: WrittenCase) -> None:
    for path in written.series:
        edit(path, lambda ds: ds.compress(RLELossless, generate_instance_uid=False))

    assert np.array_equal(read_volume(written.series).voxels, written.expected_voxels)


def test_the_repr_says_shape_and_spacing(written: WrittenCase) -> None:
    assert repr(read_volume(written.series)) == "Volume(36 x 32 x 40 voxels of 1 x 1 x 1 mm)"


def move(millimetres: float) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        x, y, z = (float(value) for value in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y + millimetres, z]

    return change


def setting(**attributes: object) -> Callable[[Dataset], None]:
    return lambda dataset: [setattr(dataset, key, value) for key, value in attributes.items()]


def without(*keywords: str) -> Callable[[Dataset], None]:
    return lambda dataset: [delattr(dataset, keyword) for keyword in keywords]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (move(0.4), Reason.SLICES_IRREGULAR),
        (move(1.0), Reason.SLICES_IRREGULAR),
        (setting(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]), Reason.SLICES_IRREGULAR),
        (setting(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), Reason.SLICES_IRREGULAR),
        (setting(PixelSpacing=[1, 1.2]), Reason.SLICES_IRREGULAR),
        (setting(Rows=16, PixelData=bytes(16 * 40 * 2)), Reason.SLICES_IRREGULAR),
        (without("ImagePositionPatient"), Reason.IMAGE_UNSUPPORTED),
        (setting(NumberOfFrames=2), Reason.IMAGE_UNSUPPORTED),
        (setting(SamplesPerPixel=3), Reason.IMAGE_UNSUPPORTED),
        (setting(ModalityLUTSequence=[Dataset()]), Reason.IMAGE_UNSUPPORTED),
        (setting(RescaleSlope="0"), Reason.IMAGE_UNDECODABLE),
        (setting(PixelData=b"\0\0"), Reason.IMAGE_UNDECODABLE),
        (without("PixelData"), Reason.IMAGE_UNDECODABLE),
        (without("BitsAllocated"), Reason.IMAGE_UNDECODABLE),
    ],
    ids=lambda value: getattr(value, "value", ""),
)
def test_a_series_that_is_no_volume_says_why(
    written: WrittenCase, change: Callable[[Dataset], None], reason: Reason
) -> None:
    edit(written.series[5], change)

    with pytest.raises(Unusable) as refused:
        read_volume(written.series)
    assert refused.value.reason is reason


def test_a_missing_slice_is_a_gap(written: WrittenCase) -> None:
    with pytest.raises(Unusable) as refused:
        read_volume(written.series[:7] + written.series[8:])
    assert refused.value.reason is Reason.SLICES_IRREGULAR


def test_a_tilted_gantry_is_refused(written: WrittenCase) -> None:
    def shear(number: int) -> Callable[[Dataset], None]:
        def change(dataset: Dataset) -> None:
            x, y, z = (float(value) for value in dataset.ImagePositionPatient)
            dataset.ImagePositionPatient = [x, y, z + 0.2 * number]

        return change

    for number, path in enumerate(written.series):
        edit(path, shear(number))

    with pytest.raises(Unusable, match="normal") as refused:
        read_volume(written.series)
    assert refused.value.reason is Reason.SLICES_IRREGULAR


def test_one_slice_is_no_volume(written: WrittenCase) -> None:
    with pytest.raises(Unusable) as refused:
        read_volume(written.series[:1])
    assert refused.value.reason is Reason.SLICES_IRREGULAR


@pytest.mark.parametrize("content", [b"", b"no DICOM", b"\0" * 128 + b"DICM\x02\0"])
def test_a_file_that_is_no_dicom_is_undecodable(written: WrittenCase, content: bytes) -> None:
    written.series[2].write_bytes(content)

    with pytest.raises(Unusable) as refused:
        read_volume(written.series)
    assert refused.value.reason is Reason.IMAGE_UNDECODABLE


def test_damaged_compressed_pixels_are_undecodable(written: WrittenCase) -> None:
    edit(written.series[2], lambda ds: ds.compress(RLELossless, generate_instance_uid=False))
    content = bytearray(written.series[2].read_bytes())
    content[-600:-300] = bytes(300)
    written.series[2].write_bytes(content)

    with pytest.raises(Unusable) as refused:
        read_volume(written.series)
    assert refused.value.reason is Reason.IMAGE_UNDECODABLE


def test_a_codec_that_is_not_installed_is_no_crash(written: WrittenCase) -> None:
    def mislabel(dataset: Dataset) -> None:
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless

    edit(written.series[2], mislabel)

    with pytest.raises(Unusable) as refused:
        read_volume(written.series)
    assert refused.value.reason is Reason.IMAGE_UNDECODABLE


@pytest.mark.parametrize("folder", ["01-ct-liver-seg", "02-ct-nonsquare-seg-labelmap"])
def test_other_makers_series_equal_highdicoms_reading(folder: str) -> None:
    paths = _images(shared_data(f"interop/{folder}"))

    volume = read_volume(paths)

    other = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in paths])
    own = highdicom.Volume(volume.voxels, LPS_TO_RAS @ volume.affine, "PATIENT")
    assert np.array_equal(other.match_geometry(own).array, volume.voxels)


def test_slices_that_are_not_equidistant_are_refused() -> None:
    with pytest.raises(Unusable) as refused:
        read_volume(_images(shared_data("interop/03-ct-16x16-seg-overlap")))
    assert refused.value.reason is Reason.SLICES_IRREGULAR


def _images(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.dcm")) if not path.name.startswith("seg")]
