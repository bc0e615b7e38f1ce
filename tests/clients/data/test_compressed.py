"""Compressed images: files that come with pydicom, and what DCMTK and OpenJPH make of them."""

import subprocess
from base64 import b64decode
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from clients.data.pixels import read_pixels
from clients.data.planes import read_planes
from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import read_volume
from federation.pacs import Gateway
from tests.clients.data.conftest import WrittenCase
from tests.peers import peer

WAVES = ((np.add.outer(np.arange(16) ** 2, 3 * np.arange(16)) % 401) - 100).astype(np.int16)
OPENJPH = b64decode(
    "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABjwEB/1AACAACAAAACv9SAAwAAgABAAUE"
    "BEAB/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAIwAAf+TwAAl"
    "4wCHdAAAwAASwAASgPYAB3QAtgEHdADAABLAABUAqgDCdAAf34fvAIa0AMAAE8AAFogk+aCnQnUA/38/6IM+6IP+"
    "QAAADHoxuADAACpgABdCAADn6enp4ncA/3//f/9/DzjggAMOOOCAA/4AAACCAAAMcAaAGipUrbAB/9k="
)
"""These as OpenJPH 0.26.3 compresses them, reversibly."""


def file(name: str) -> Path:
    return Path(str(get_testdata_file(f"{name}.dcm")))


def compressed(name: str, program: str, options: str, folder: Path) -> Path:
    """A file of pydicom's as a program of DCMTK's leaves it."""
    path = folder / f"{name}-{program}.dcm"
    subprocess.run([peer(program), *options.split(), file(name), path], check=True)
    return path


@pytest.mark.parametrize(
    "variant",
    ["RLE", "jpeg_ls_lossless", "jp2klossless", "bigendian", "expb", "implicit", "padded"],
)
def test_an_encoding_without_loss_changes_no_voxel(variant: str) -> None:
    (plane,) = read_planes(file(f"MR_small_{variant}"))
    (original,) = read_planes(file("MR_small"))

    assert np.array_equal(plane.read(), original.read())


@pytest.mark.parametrize("name", ["MR_small", "CT_small"])
@pytest.mark.parametrize(
    ("program", "options", "syntax"),
    [
        ("dcmcjpeg", "+e1", JPEGLosslessSV1),
        ("dcmcjpeg", "+el +sv 6", JPEGLossless),
        ("dcmcjpls", "+el", JPEGLSLossless),
        ("dcmcrle", "", RLELossless),
    ],
)
def test_what_dcmtk_compresses_without_loss_comes_back(
    name: str, program: str, options: str, syntax: UID, tmp_path: Path
) -> None:
    path = compressed(name, program, options, tmp_path)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax

    (plane,) = read_planes(path)

    (original,) = read_planes(file(name))
    assert np.array_equal(plane.read(), original.read())


def test_a_compressed_series_comes_out_of_an_archive(
    gateway: Gateway, written: WrittenCase, tmp_path: Path
) -> None:
    for path in written.series:
        subprocess.run([peer("dcmcjpeg"), "+e1", path, path], check=True)
    gateway.store(written.series)
    first = pydicom.dcmread(written.series[0])

    paths = gateway.fetch(
        tmp_path, study=str(first.StudyInstanceUID), series=str(first.SeriesInstanceUID)
    )

    assert pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    assert np.array_equal(read_volume(paths).voxels, written.expected_voxels)


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K])
def test_high_throughput_jpeg_2000_changes_no_voxel(syntax: UID, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(file("MR_small"))
    dataset.Rows, dataset.Columns = WAVES.shape
    dataset.PixelData = encapsulate([OPENJPH])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(tmp_path / "high-throughput.dcm")

    (plane,) = read_planes(tmp_path / "high-throughput.dcm")

    assert np.array_equal(plane.read(), WAVES)


@pytest.mark.parametrize(
    ("program", "options", "syntax"),
    [
        ("dcmcjpeg", "+eb", JPEGBaseline8Bit),
        ("dcmcjpeg", "+ee", JPEGExtended12Bit),
        ("dcmcjpls", "+en +md 2", JPEGLSNearLossless),
    ],
)
def test_lossy_images_of_8_bits_are_what_dcmtk_sees_in_them(
    program: str, options: str, syntax: UID, tmp_path: Path
) -> None:
    eight = tmp_path / "8-bit.dcm"
    baseline = compressed("CT_small", "dcmcjpeg", "+eb", tmp_path)
    subprocess.run([peer("dcmdjpeg"), baseline, eight], check=True)
    path, plain = tmp_path / "lossy.dcm", tmp_path / "plain.dcm"
    subprocess.run([peer(program), *options.split(), eight, path], check=True)
    opposite = program.replace("dcmc", "dcmd")
    subprocess.run([peer(opposite), path, plain], check=True)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax

    (plane,), (seen,) = read_planes(path), read_planes(plain)

    assert np.array_equal(plane.read(), seen.read())


@pytest.mark.parametrize(
    ("name", "row", "columns", "values"),
    [
        ("693_J2KI", 290, slice(135, 139), [-212, -130, 155, 441]),
        ("JPEG2000", 423, slice(141, 145), [240, 243, 245, 244]),
    ],
)
def test_lossy_jpeg_2000_is_decoded(name: str, row: int, columns: slice, values: list[int]) -> None:
    (plane,) = read_planes(file(name))

    assert plane.read()[row, columns].tolist() == values


@pytest.mark.parametrize("bits", ["08", "16"])
def test_jpeg_ls_uses_the_whole_range_of_its_bits(bits: str) -> None:
    dataset = pydicom.dcmread(file(f"JPEGLSNearLossless_{bits}"))

    values = read_pixels(dataset, 0, dataset, is_projection=False)

    assert (values.min(), values.max()) == (0, 2 ** int(bits) - 1)


def test_values_are_signed_where_the_data_set_says_so() -> None:
    """Its JPEG 2000 stream says that they are not; the values are those of pydicom's own tests."""
    (plane,) = read_planes(file("J2K_pixelrep_mismatch"))

    values = plane.read()

    assert values[0, 0] == -2000
    assert values[47:57, 279].tolist() == [
        621, 412, 138, -193, -520, -767, -907, -966, -988, -995,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("SC_rgb_rle", Reason.IMAGE_UNSUPPORTED),
        ("SC_rgb_jpeg_gdcm", Reason.IMAGE_UNSUPPORTED),
        ("SC_rgb_jls_lossy_line", Reason.IMAGE_UNSUPPORTED),
        ("SC_ybr_full_422_uncompressed", Reason.IMAGE_UNSUPPORTED),
        ("examples_ybr_color", Reason.IMAGE_UNSUPPORTED),
        ("GDCMJ2K_TextGBR", Reason.IMAGE_UNSUPPORTED),
        ("examples_palette", Reason.IMAGE_UNSUPPORTED),
        ("rtdose", Reason.IMAGE_UNSUPPORTED),  # frames that lie nowhere
        ("MR_truncated", Reason.IMAGE_UNDECODABLE),
        ("JPGExtended", Reason.IMAGE_UNDECODABLE),  # 12 bits: no decoder under a free licence
        ("JPEG-lossy", Reason.IMAGE_UNDECODABLE),
        ("JPEG2000-embedded-sequence-delimiter", Reason.IMAGE_UNDECODABLE),
        ("no_meta", Reason.IMAGE_UNDECODABLE),
        ("test-SR", Reason.IMAGE_UNDECODABLE),
        ("rtplan_truncated", Reason.IMAGE_UNDECODABLE),
    ],
)
def test_what_is_no_image_of_numbers_says_why(name: str, reason: Reason) -> None:
    with pytest.raises(Unusable) as refused:
        [plane.read() for plane in read_planes(file(name))]
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("program", "options", "damage"),
    [
        ("dcmcjpeg", "+e1", b"\xff\xc3"),  # its frame header: GDCM aborts
        ("dcmcjpls", "+el", b"\xff\xf7"),
    ],
)
def test_a_decoder_that_ends_takes_nothing_with_it(
    tmp_path: Path, program: str, options: str, damage: bytes
) -> None:
    path = compressed("MR_small", program, options, tmp_path)
    content = bytearray(path.read_bytes())
    start = content.index(damage, content.index(b"\xe0\x7f\x10\x00"))
    content[start + 5 : start + 9] = b"\xff\xff\xff\xff"  # rows and columns
    path.write_bytes(content)

    for _ in range(2):
        with pytest.raises(Unusable) as refused:
            read_planes(path)[0].read()
        assert refused.value.reason is Reason.IMAGE_UNDECODABLE
    (good,) = read_planes(file("MR_small_jpeg_ls_lossless"))
    assert good.read().any()


def test_a_decoder_that_somebody_ended_is_started_again() -> None:
    name = "MR_small_jpeg_ls_lossless"
    (before,) = read_planes(file(name))
    values = before.read()
    ours = [one for one in psutil.Process().children() if "decoding.py" in one.cmdline()[-1]]
    assert len(ours) == 1
    ours[0].kill()

    (plane,) = read_planes(file(name))

    assert np.array_equal(plane.read(), values)


def test_what_a_header_asks_for_is_not_allocated(tmp_path: Path) -> None:
    """An image of 16 million rows and columns, which OpenJPEG would make room for."""
    content = bytearray(file("MR_small_jp2klossless").read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")  # SOC, SIZ
    sizes = start + 8
    content[sizes : sizes + 8] = b"\x00\xff\xff\xff" * 2  # of the image
    content[sizes + 16 : sizes + 24] = b"\x00\xff\xff\xff" * 2  # of its one tile
    path = tmp_path / "huge.dcm"
    path.write_bytes(content)

    with pytest.raises(Unusable) as refused:
        read_planes(path)[0].read()
    assert refused.value.reason is Reason.IMAGE_UNDECODABLE


def test_every_file_of_pydicoms_is_an_image_or_says_why_not() -> None:
    paths = sorted(file("MR_small").parent.glob("*.dcm"))
    decoded: list[NDArray[np.float32]] = []
    reasons = set()
    for path in paths:
        try:
            decoded += [plane.read() for plane in read_planes(path)]
        except Unusable as why:
            reasons.add(why.reason)
    assert len(paths) > 70
    assert len(decoded) > 15
    assert reasons == {Reason.IMAGE_UNSUPPORTED, Reason.IMAGE_UNDECODABLE}
