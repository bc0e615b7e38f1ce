import gzip
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from clients.data.labels import Segment, Wanted, read_header, read_labels
from clients.data.quarantine import Reason, Unusable
from clients.data.volumes import read_volume
from federation.iodeep.manifest import OutputLabel
from federation.samples.phantom import phantom_cases
from tests.clients.data.conftest import SEGMENTS, WANTED, WrittenCase, edit, segmentation, write
from tests.peers import shared_data


def named(names: dict[str, int]) -> Wanted:
    return Wanted.of(names=names)


@pytest.mark.parametrize("site", list("ABCD"))
def test_labels_are_those_of_the_phantom(site: str, tmp_path: Path) -> None:
    case = write(phantom_cases(site, 1, 0)[0], tmp_path)

    labels = read_labels([case.seg], read_volume(case.series), WANTED)

    assert labels.dtype == np.uint8
    assert np.array_equal(labels, case.expected_labels)


@pytest.mark.parametrize(
    ("folder", "seg", "expected"),
    [
        ("01-ct-liver-seg", "seg_liver.dcm", "expected_liver.nrrd"),
        ("02-ct-nonsquare-seg-labelmap", "seg_binary.dcm", "expected_binary.nrrd"),
        ("02-ct-nonsquare-seg-labelmap", "seg_labelmap.dcm", "expected_labelmap.nrrd"),
    ],
)
def test_other_makers_labels_equal_theirs_voxel_for_voxel(
    folder: str, seg: str, expected: str
) -> None:
    home = shared_data(f"interop/{folder}")
    volume = read_volume([p for p in home.glob("*.dcm") if not p.name.startswith("seg")])

    labels = read_labels([home / seg], volume, named({"liver": 1}))

    # Both sets of files run along x, y and z in the same directions, slices upwards.
    assert np.array_equal(labels, _read_nrrd(home / expected))
    assert labels.any()


def test_one_bit_rle_fails_cleanly() -> None:
    home = shared_data("interop/01-ct-liver-seg")
    volume = read_volume(sorted(home.glob("0*.dcm")))

    with pytest.raises(Unusable) as refused:
        read_labels([home / "seg_liver_rle.dcm"], volume, named({"liver": 1}))
    assert refused.value.reason is Reason.LABELS_UNDECODABLE


def test_the_order_of_frames_does_not_matter(written: WrittenCase) -> None:
    def reverse(dataset: Dataset) -> None:
        frames = dataset.pixel_array[::-1]
        dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
        groups = list(dataset.PerFrameFunctionalGroupsSequence)
        dataset.PerFrameFunctionalGroupsSequence = groups[::-1]

    edit(written.seg, reverse)

    labels = read_labels([written.seg], read_volume(written.series), WANTED)
    assert np.array_equal(labels, written.expected_labels)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 1, 2)])
def test_a_seg_cut_in_another_plane_lands_on_the_same_voxels(
    written: WrittenCase, tmp_path: Path, kind: str, order: tuple[int, int, int]
) -> None:
    """A SEG need not be cut as its images are; written by highdicom, flipped and permuted."""
    images = [pydicom.dcmread(path) for path in written.series]
    volume = highdicom.get_volume_from_series(images).with_array(
        np.flip(written.expected_labels, 0)
        if _runs_against(images)
        else np.asarray(written.expected_labels)
    )
    turned = volume.permute_spatial_axes(order).flip_spatial(1)
    path = tmp_path / "turned.dcm"
    segmentation(images, turned, kind).save_as(path)

    labels = read_labels([path], read_volume(written.series), WANTED)

    assert np.array_equal(labels, written.expected_labels)


def test_overlapping_segments_are_refused_unless_they_mean_the_same(
    written: WrittenCase, tmp_path: Path
) -> None:
    images = [pydicom.dcmread(path) for path in written.series]
    inner = np.asarray(written.expected_labels) == 1
    path = tmp_path / "overlap.dcm"
    segmentation(images, np.stack([inner, inner], axis=-1), "BINARY").save_as(path)
    volume = read_volume(written.series)

    with pytest.raises(Unusable) as refused:
        read_labels([path], volume, WANTED)
    merged = read_labels([path], volume, named({"inner structure": 1, "outer structure": 1}))

    assert refused.value.reason is Reason.SEGMENTS_OVERLAP
    assert np.array_equal(merged, inner)


def test_half_of_a_fraction_counts(written: WrittenCase, tmp_path: Path) -> None:
    """Written by highdicom: 0.49 and 0.51 of two structures."""
    images = [pydicom.dcmread(path) for path in written.series]
    labels = np.asarray(written.expected_labels)
    parts = np.stack([np.where(labels == 1, 0.51, 0.49), (labels == 2) * 1.0], axis=-1)
    path = tmp_path / "fractional.dcm"
    segmentation(images, parts.astype(np.float32), "FRACTIONAL").save_as(path)

    assert np.array_equal(read_labels([path], read_volume(written.series), WANTED), labels)


def test_several_objects_draw_on_one_grid(written: WrittenCase, tmp_path: Path) -> None:
    paths = []
    for name in SEGMENTS:
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(written.seg.read_bytes())

        def rename_others(dataset: Dataset, own: str = name) -> None:
            for segment in dataset.SegmentSequence:
                if segment.SegmentLabel != own:
                    segment.SegmentLabel = "something else"

        edit(path, rename_others)
        paths.append(path)
    volume = read_volume(written.series)

    assert np.array_equal(read_labels(paths, volume, WANTED), written.expected_labels)
    with pytest.raises(Unusable) as refused:
        read_labels(paths[:1], volume, WANTED)
    assert refused.value.reason is Reason.SEGMENT_MISSING


def test_labels_that_mark_nothing_are_refused(written: WrittenCase) -> None:
    edit(written.seg, lambda ds: setattr(ds, "PixelData", bytes(len(ds.PixelData))))

    with pytest.raises(Unusable) as refused:
        read_labels([written.seg], read_volume(written.series), WANTED)
    assert refused.value.reason is Reason.LABELS_EMPTY


def test_only_wanted_segments_are_drawn(written: WrittenCase) -> None:
    labels = read_labels([written.seg], read_volume(written.series), named({"outer structure": 1}))

    assert np.array_equal(labels, np.asarray(written.expected_labels) == 2)


def shift(millimetres: float) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for group in dataset.PerFrameFunctionalGroupsSequence:
            position = group.PlanePositionSequence[0]
            x, y, z = (float(value) for value in position.ImagePositionPatient)
            position.ImagePositionPatient = [x + millimetres, y, z]

    return change


def respace(dataset: Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.5, 0.5]


def truncate(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2 // 2 * 2]


def drop_a_group(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (shift(0.5), Reason.LABELS_OFF_GRID),
        (shift(100.0), Reason.LABELS_OFF_GRID),
        (respace, Reason.LABELS_OFF_GRID),
        (lambda ds: setattr(ds, "FrameOfReferenceUID", "1.2.3"), Reason.LABELS_OFF_GRID),
        (truncate, Reason.LABELS_UNDECODABLE),
        (drop_a_group, Reason.LABELS_UNDECODABLE),
        (lambda ds: delattr(ds, "PixelData"), Reason.LABELS_UNDECODABLE),
        (lambda ds: setattr(ds, "SegmentationType", "CURVED"), Reason.LABELS_UNDECODABLE),
        (
            lambda ds: setattr(ds.SegmentSequence[0], "SegmentLabel", "something"),
            Reason.SEGMENT_MISSING,
        ),
    ],
)
def test_a_seg_that_does_not_label_the_images_says_why(
    written: WrittenCase, change: Callable[[Dataset], None], reason: Reason
) -> None:
    edit(written.seg, change)

    with pytest.raises(Unusable) as refused:
        read_labels([written.seg], read_volume(written.series), WANTED)
    assert refused.value.reason is reason


@pytest.mark.parametrize("says", ["spacing", "thickness", "one frame"])
def test_a_seg_of_thicker_slices_is_refused(
    written: WrittenCase, tmp_path: Path, says: str
) -> None:
    """Its frames lie on slices of the image, on every other: the rest would be background."""
    kept = sorted_images(written)[::2]
    for dataset in kept:
        dataset.SliceThickness = dataset.SpacingBetweenSlices = "2"
    path = tmp_path / "seg.dcm"
    labels = np.ascontiguousarray(np.asarray(written.expected_labels)[::2])
    if says == "one frame":
        labels[np.arange(len(labels)) != len(labels) // 2] = 0
    segmentation(kept, labels, "BINARY").save_as(path)
    if says == "thickness":
        edit(path, lambda ds: measures(ds).pop("SpacingBetweenSlices"))

    with pytest.raises(Unusable, match="farther apart") as refused:
        read_labels([path], read_volume(written.series), WANTED)
    assert refused.value.reason is Reason.LABELS_OFF_GRID


@pytest.mark.parametrize("says", ["1", "0.9", "1.009", None])
def test_a_seg_with_few_frames_is_taken(
    written: WrittenCase, tmp_path: Path, says: str | None
) -> None:
    """Empty frames are left out, so that those there are far apart."""
    labels = np.asarray(written.expected_labels).copy()
    labels[[number for number in range(len(labels)) if number % 5]] = 0
    path = tmp_path / "seg.dcm"
    segmentation(sorted_images(written), labels, "BINARY").save_as(path)
    assert len(pydicom.dcmread(path).PerFrameFunctionalGroupsSequence) < 12
    edit(path, lambda ds: setattr(measures(ds), "SpacingBetweenSlices", says))

    assert np.array_equal(read_labels([path], read_volume(written.series), WANTED), labels)


def sorted_images(case: WrittenCase) -> list[Dataset]:
    order = read_volume(case.series).instances
    return sorted(
        map(pydicom.dcmread, case.series), key=lambda ds: order.index(str(ds.SOPInstanceUID))
    )


def measures(seg: Dataset) -> Dataset:
    item: Dataset = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return item


def test_labels_a_hair_off_the_grid_are_taken(written: WrittenCase) -> None:
    """Toolkits round positions to a Decimal String's 16 characters, or to float32."""
    edit(written.seg, shift(0.01))

    labels = read_labels([written.seg], read_volume(written.series), WANTED)
    assert np.array_equal(labels, written.expected_labels)


def test_a_file_that_is_no_seg_is_undecodable(written: WrittenCase) -> None:
    volume = read_volume(written.series)

    for read in (
        lambda: read_labels([written.series[0]], volume, WANTED),
        lambda: read_header(written.series[0]),
    ):
        with pytest.raises(Unusable) as refused:
            read()
        assert refused.value.reason is Reason.LABELS_UNDECODABLE


def test_the_header_names_segments_and_series(written: WrittenCase) -> None:
    header = read_header(written.seg)

    assert header.series == (str(pydicom.dcmread(written.series[0]).SeriesInstanceUID),)
    assert [segment.label for segment in header.segments] == list(SEGMENTS)


HEAD = Segment(number=1, label="anterior hippocampus", meaning="anterior hippocampus")
CODED = Segment(number=2, label="roi 2", meaning="posterior hippocampus")
OTHER = Segment(number=7, label="ventricle", meaning="lateral ventricle")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"anterior hippocampus": 1, "posterior hippocampus": 2}, {1: 1, 2: 2}),
        ({"Anterior  HIPPOCAMPUS": 2, "Posterior hippocampus": 1}, {1: 2, 2: 1}),
        ({"ROI 2": 1}, {2: 1}),
        ({"anterior hippocampus": 1, "posterior hippocampus": 1}, {1: 1, 2: 1}),
        ({"anterior hippocampus": 1, "hippocampal head": 1}, {1: 1}),
    ],
)
def test_segments_are_found_by_label_or_coded_meaning(
    wanted: dict[str, int], found: dict[int, int]
) -> None:
    assert named(wanted).match((HEAD, CODED, OTHER)) == found


KIDNEY, LEFT = ("64033007", "SCT"), ("7771000", "SCT")


@pytest.mark.parametrize(
    ("kind", "modifiers", "label"),
    [
        (KIDNEY, (LEFT,), 1),
        (KIDNEY, (), 2),
        (KIDNEY, (("24028007", "SCT"),), 2),  # the right one
        (("T-71000", "SRT"), (("G-A101", "SRT"),), 1),  # the codes of old
        (("T-62000", "SRT"), (), 3),
        (("LIV", "99HOSPITAL"), (), 3),
        (("80891009", "SCT"), (), None),
        (None, (), None),
    ],
)
def test_codes_find_segments_whatever_they_are_called(
    kind: tuple[str, str] | None, modifiers: tuple[tuple[str, str], ...], label: int | None
) -> None:
    outputs = [
        OutputLabel.named(number, name)
        for number, name in enumerate(("left kidney", "kidney", "liver"), start=1)
    ]
    wanted = Wanted.of(outputs, {"99hospital:LIV": 3})

    assert wanted.label_of(Segment(number=7, label="x", kind=kind, modifiers=modifiers)) == label


def test_names_of_labels_that_the_network_does_not_have_ask_for_nothing() -> None:
    """A site's map serves every network of a region."""
    wanted = Wanted.of([OutputLabel.named(1, "liver")], {"LIV": 1, "KID": 2})
    liver = Segment(number=4, label="liv")
    assert wanted.label_of(Segment(number=5, label="kid")) is None
    assert wanted.match([liver]) == {4: 1}
    assert wanted.is_met_by([liver])


def test_a_code_counts_before_a_name() -> None:
    wanted = Wanted.of([OutputLabel.named(1, "liver"), OutputLabel.named(2, "kidney")])
    named_otherwise = Segment(number=1, label="liver", kind=KIDNEY)
    assert wanted.label_of(named_otherwise) == 2
    assert wanted.label_of(Segment(number=1, label="liver")) == 1


@pytest.mark.parametrize("wanted", [{"hippocampus": 1}, {"anterior hippocampus": 1, "tail": 2}])
def test_an_output_label_without_a_segment_is_missing(wanted: dict[str, int]) -> None:
    with pytest.raises(Unusable) as refused:
        named(wanted).check((HEAD, CODED, OTHER))
    assert refused.value.reason is Reason.SEGMENT_MISSING


def _runs_against(images: list[Dataset]) -> bool:
    """Whether highdicom's volume starts at the slice where ours ends."""
    first = highdicom.get_volume_from_series(images).affine[:3, 3]
    return not np.allclose(first, np.array(images[0].ImagePositionPatient, float))


def _read_nrrd(path: Path) -> NDArray[np.int16]:
    header, _, content = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line)
    width, height, depth = (int(size) for size in fields["sizes"].split())
    assert (fields["type"], fields["encoding"], fields["endian"]) == ("short", "gzip", "little")
    return np.frombuffer(gzip.decompress(content), "<i2").reshape(depth, height, width)
