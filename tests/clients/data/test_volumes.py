import random
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import MPEG2MPML, JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import LPS_TO_RAS, read_volume
from federation.samples.dicom import slices
from federation.samples.phantom import phantom_cases
from tests.classified import write_series
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
        (setting(FrameOfReferenceUID="1.2.3.4"), Reason.SLICES_IRREGULAR),
        (setting(PixelSpacing=[0, 1]), Reason.IMAGE_UNSUPPORTED),
        (setting(PixelSpacing=[1, -1]), Reason.IMAGE_UNSUPPORTED),
        (without("ImagePositionPatient"), Reason.IMAGE_UNSUPPORTED),
        (setting(NumberOfFrames=2), Reason.IMAGE_UNSUPPORTED),
        (setting(SamplesPerPixel=3), Reason.IMAGE_UNSUPPORTED),
        (setting(ModalityLUTSequence=[Dataset()]), Reason.IMAGE_UNDECODABLE),
        (setting(PhotometricInterpretation="PALETTE COLOR"), Reason.IMAGE_UNSUPPORTED),
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


@pytest.mark.parametrize(("left_out", "said"), [([7], "1 slices"), ([7, 8, 20], "3 slices")])
def test_a_missing_slice_is_a_gap(written: WrittenCase, left_out: list[int], said: str) -> None:
    order = np.argsort([_height(path) for path in written.series])
    kept = [written.series[index] for place, index in enumerate(order) if place not in left_out]
    with pytest.raises(Unusable, match=said) as refused:
        read_volume(kept)
    assert refused.value.reason is Reason.SLICE_MISSING


def _height(path: Path) -> float:
    dataset = pydicom.dcmread(path)
    orientation = np.array(dataset.ImageOrientationPatient, float)
    normal = np.cross(orientation[:3], orientation[3:])
    return float(np.array(dataset.ImagePositionPatient, float) @ normal)


def test_two_series_in_one_are_refused(written: WrittenCase) -> None:
    again = []
    for path in written.series:
        copy = path.with_name(f"again-{path.name}")
        copy.write_bytes(path.read_bytes())
        edit(copy, lambda ds: setattr(ds, "SOPInstanceUID", f"{ds.SOPInstanceUID}.1"))
        again.append(copy)
    with pytest.raises(Unusable, match="36 of 72 slices") as refused:
        read_volume([*written.series, *again])
    assert refused.value.reason is Reason.SLICES_REPEATED


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]},
         "Image Type"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]},
         {"ImageType": ["ORIGINAL", "PRIMARY", "M", "FFE"]}, "Image Type"),
        ({"EchoTime": "10"}, {"EchoTime": "30"}, "Echo Time"),
        ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}, "temporal position"),
    ],
)  # fmt: skip
def test_interleaved_acquisitions_are_refused(
    written: WrittenCase, first: dict[str, object], second: dict[str, object], said: str
) -> None:
    """Each has places of its own, so they would look like one series of thinner slices."""
    for number, path in enumerate(sorted(written.series, key=_height)):
        edit(path, setting(**(second if number % 2 else first)))

    with pytest.raises(Unusable, match=said) as refused:
        read_volume(written.series)
    assert refused.value.reason is Reason.SLICES_REPEATED


def test_slices_of_one_acquisition_may_say_it_in_other_words(written: WrittenCase) -> None:
    """An echo time that was rounded; an image that was derived; one that does not say."""
    for number, path in enumerate(written.series):
        kind = "DERIVED" if number % 2 else "ORIGINAL"
        echo = "10" if number % 2 else "10.04"
        edit(path, setting(ImageType=[kind, "PRIMARY", "M", "ND"], EchoTime=echo))
    edit(written.series[3], setting(ImageType=None, EchoTime=None))
    edit(written.series[4], setting(ImageType="ORIGINAL"))
    edit(written.series[5], setting(ImageType=["ORIGINAL", "PRIMARY", "M"]))

    assert np.array_equal(read_volume(written.series).voxels, written.expected_voxels)


def test_echoes_that_an_enhanced_object_interleaves_are_refused(
    written: WrittenCase, tmp_path: Path
) -> None:
    path = tmp_path / "enhanced.dcm"
    highdicom.legacy.LegacyConvertedEnhancedMRImage(
        [pydicom.dcmread(path) for path in written.series],
        series_instance_uid=pydicom.uid.generate_uid(),
        series_number=2,
        sop_instance_uid=pydicom.uid.generate_uid(),
        instance_number=1,
    ).save_as(path)

    def two_echoes(dataset: Dataset) -> None:
        for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            item = Dataset()
            item.EffectiveEchoTime = 10.0 + 20 * (number % 2)
            group.MREchoSequence = [item]

    edit(path, two_echoes)
    with pytest.raises(Unusable, match="Echo Time") as refused:
        read_volume([path])
    assert refused.value.reason is Reason.SLICES_REPEATED


def test_no_memory_is_taken_for_what_a_small_file_says_it_is(written: WrittenCase) -> None:
    for path in written.series:
        edit(path, setting(Rows=65535, Columns=65535))

    with pytest.raises(Unusable, match="36 x 65535 x 65535 voxels") as refused:
        read_volume(written.series)
    assert refused.value.reason is Reason.IMAGE_UNSUPPORTED


@pytest.mark.parametrize("spacing", [["0", "0"], ["-1", "1"]])
def test_a_projection_has_a_size(tmp_path: Path, spacing: list[str]) -> None:
    (path,) = write_series(tmp_path, "one", has_blob=True, seed=1, slices=1, modality="CR")
    edit(path, setting(ImagerPixelSpacing=spacing))

    with pytest.raises(Unusable, match="ImagerPixelSpacing") as refused:
        read_volume([path])
    assert refused.value.reason is Reason.IMAGE_UNSUPPORTED


def test_an_enhanced_object_is_the_same_volume(written: WrittenCase, tmp_path: Path) -> None:
    """Another maker's: highdicom turns the series into one multi-frame instance."""
    for number, path in enumerate(written.series):
        edit(path, lambda ds, n=number: ds.update({"RescaleSlope": str(1 + n / 8)}))
    before = read_volume(written.series)
    enhanced = highdicom.legacy.LegacyConvertedEnhancedMRImage(
        [pydicom.dcmread(path) for path in random.Random(1).sample(written.series, 36)],
        series_instance_uid=pydicom.uid.generate_uid(),
        series_number=2,
        sop_instance_uid=pydicom.uid.generate_uid(),
        instance_number=1,
    )
    enhanced.save_as(tmp_path / "enhanced.dcm")

    volume = read_volume([tmp_path / "enhanced.dcm"])

    assert np.array_equal(volume.voxels, before.voxels)
    assert np.allclose(volume.affine, before.affine, atol=1e-9)
    assert volume.frame_of_reference == before.frame_of_reference


@pytest.mark.parametrize(("slope", "signed"), [("1", 0), ("2.5", 0), ("1", 1)])
def test_white_for_nothing_is_turned_over(tmp_path: Path, slope: str, signed: int) -> None:
    path = tmp_path / "dx.dcm"
    dataset = pydicom.dcmread(shared_data("interop/05-mr-ct-plain") / "dx_image.dcm")
    dataset.PhotometricInterpretation, dataset.RescaleSlope = "MONOCHROME1", slope
    dataset.PixelRepresentation = signed
    dataset.save_as(path)

    (changed,) = read_volume([path]).voxels

    stored = dataset.pixel_array.astype(np.int64)
    turned = -1 - stored if signed else 2**dataset.BitsStored - 1 - stored
    intercept = np.float32(dataset.get("RescaleIntercept", 0))
    assert np.array_equal(changed, turned.astype(np.float32) * np.float32(slope) + intercept)


def test_how_slices_are_shown_does_not_change_what_they_measure(written: WrittenCase) -> None:
    before = read_volume(written.series).voxels
    for path in written.series:
        edit(path, setting(PhotometricInterpretation="MONOCHROME1"))

    assert np.array_equal(read_volume(written.series).voxels, before)


def test_a_modality_lut_gives_the_values(written: WrittenCase) -> None:
    item = Dataset()
    item.LUTDescriptor = [4, 100, 16]
    item.add_new("LUTData", "US", [7, 70, 700, 7000])
    item.ModalityLUTType = "US"
    pixels = pydicom.dcmread(written.series[3]).pixel_array

    edit(written.series[3], without("RescaleSlope", "RescaleIntercept"))
    edit(written.series[3], setting(ModalityLUTSequence=[item]))

    changed = read_volume(written.series).voxels[3]
    assert np.array_equal(changed, np.array([7, 70, 700, 7000])[np.clip(pixels, 100, 103) - 100])


def test_a_projection_is_one_slice() -> None:
    path = shared_data("interop/05-mr-ct-plain") / "dx_image.dcm"
    dataset = pydicom.dcmread(path)

    volume = read_volume([path])

    assert volume.is_projection
    assert volume.voxels.shape == (1, dataset.Rows, dataset.Columns)
    assert volume.spacing_mm[1:] == pytest.approx(tuple(map(float, dataset.ImagerPixelSpacing)))
    with pytest.raises(Unusable, match="several projections") as refused:
        read_volume([path, path])
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


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLosslessSV1, MPEG2MPML])
def test_a_compression_that_nothing_here_decodes_is_no_crash(
    written: WrittenCase, syntax: pydicom.uid.UID
) -> None:
    def mislabel(dataset: Dataset) -> None:
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = syntax

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
