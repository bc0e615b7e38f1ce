import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from federation.errors import ConfigError, DataError
from federation.samples import Problem, UnusableCase, read_cases
from federation.samples.dicom import content_digest
from federation.samples.nifti import NiftiCase
from federation.samples.task import MOST_BYTES, read_task
from tests.federation.samples.conftest import (
    TaskFolder,
    affine_of,
    ct_voxels,
    label_voxels,
    mr_voxels,
)


@pytest.fixture
def ct_task(task: TaskFolder) -> TaskFolder:
    """One CT case with all three labels."""
    task.add("liver_1", ct_voxels(), label_voxels(1, 2, 3))
    return task


def test_each_case_is_a_patient_called_as_its_file(ct_task: TaskFolder) -> None:
    ct_task.add("liver 2+ä", ct_voxels(6), label_voxels(1))

    one, other = read_cases(ct_task.folder)

    assert (one.name, one.patient_id) == ("liver_1", "liver_1")
    assert other.patient_id == "liver_2__"
    assert {case.site for case in (one, other)} == {""}
    assert one.modality == "CT"
    assert one.collection == "MSD Liver"
    assert one.anatomy.body_part == "LIVER"


def test_a_manifest_comes_before_a_dataset_json(nifti_folder: Path) -> None:
    (nifti_folder / "dataset.json").write_text("not looked at")

    assert [case.site for case in read_cases(nifti_folder)] == ["A", "A"]


def test_a_folder_with_neither_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither manifest\.csv nor dataset\.json; expected a"):
        read_cases(tmp_path)


def test_files_that_macos_keeps_beside_others_are_no_cases(ct_task: TaskFolder) -> None:
    (ct_task.folder / "imagesTr" / "._liver_1.nii.gz").write_bytes(b"Mac OS X")
    training = ct_task.document["training"]
    assert isinstance(training, list)
    names = {"image": "./imagesTr/._liver_1.nii.gz", "label": "./labelsTr/._liver_1.nii.gz"}
    ct_task.write(training=[names, *training])

    assert [case.name for case in read_cases(ct_task.folder)] == ["liver_1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "has no 'name'; expected a text"),
        ({"name": 3}, "name is 3; expected a text"),
        ({"modality": None}, "has no 'modality'; expected an object"),
        ({"modality": ["CT"]}, r"modality is \[\"CT\"\]; expected an object"),
        ({"modality": {}}, r"modality is \{\}; expected names numbered from 0"),
        ({"modality": {"1": "CT"}}, "expected names numbered from 0"),
        ({"modality": {"0": 1}}, "expected names numbered from 0"),
        ({"modality": {"0": "PET"}}, "'PET' is neither CT nor a kind of MR"),
        ({"labels": None}, "has no 'labels'"),
        ({"labels": ["liver"]}, "labels is .* expected an object"),
        ({"labels": {"0": "background"}}, "names 0 besides the background"),
        ({"labels": {"background": 0, "liver": 1}}, 'labels has "background": 0; expected whole'),
        ({"labels": {"-1": "liver"}}, 'labels has "-1"'),
        ({"labels": {"1": "li\\ver"}}, "expected whole numbers and names"),
        ({"labels": {"1": "Leber ü"}}, "ASCII"),
        ({"labels": {"1": "x" * 65}}, "1 to 64 ASCII"),
        ({"labels": {"1": " "}}, "or an empty one"),
        ({"labels": {"1": "liver", "2": "Liver"}}, "two labels have the same name"),
        ({"labels": {str(n): f"part {n}" for n in range(1, 300)}}, "names 299"),
        ({"training": None}, "has no 'training'; expected a list"),
        ({"training": {}}, r"training is \{\}; expected a list"),
        ({"training": []}, "names no case"),
        ({"training": ["./imagesTr/liver_1.nii.gz"]}, "training 1 is .*; expected an object whose"),
        ({"training": [{"image": "imagesTr/a.nii.gz"}]}, "whose label is the path"),
        ({"training": [{"image": ["a.nii"], "label": "b.nii"}]}, "whose image is the path"),
        ({"training": [{"image": "a.mnc", "label": "b.nii"}]}, "whose image is the path"),
        ({"training": [{"image": "x/.nii.gz", "label": "b.nii"}]}, "whose image is the path"),
        ({"training": [{"image": "../a.nii.gz", "label": "b.nii"}]}, "leads out of the folder"),
        ({"training": [{"image": "a.nii.gz", "label": "/etc/b.nii"}]}, "leads out of the folder"),
        ({"training": [{"image": "a\0.nii.gz", "label": "b.nii"}]}, "is no file's name"),
        ({"training": [{"image": "\ud800.nii.gz", "label": "b.nii"}]}, "is no file's name"),
        (
            {"training": [{"image": f"a{sign}b.nii", "label": "b.nii"} for sign in " _"]},
            "names case a_b twice",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_dataset_json_is_refused_with_what_was_seen(
    ct_task: TaskFolder, changes: dict[str, Any], message: str
) -> None:
    ct_task.write(**changes)

    with pytest.raises(DataError, match=message) as refused:
        read_cases(ct_task.folder)
    assert "dataset.json" in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON document"),
        (b"{'name'", "is no JSON document"),
        (b"\xff\xfe\xff", "is no JSON document"),
        (b"[" * 100_000, "is no JSON document"),
        (b"[1, 2]", r"holds \[1, 2\]; expected an object"),
        (b'"' + b"x" * MOST_BYTES + b'"', "has more than 16777216 bytes"),
    ],
    ids=["empty", "broken", "no text", "nested", "a list", "huge"],
)
def test_bytes_that_are_no_dataset_json_are_refused(
    ct_task: TaskFolder, content: bytes, message: str
) -> None:
    (ct_task.folder / "dataset.json").write_bytes(content)

    with pytest.raises(DataError, match=message):
        read_cases(ct_task.folder)


def test_a_link_out_of_the_folder_is_not_followed(ct_task: TaskFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside.nii.gz"
    (ct_task.folder / "labelsTr" / "liver_1.nii.gz").rename(outside)
    (ct_task.folder / "labelsTr" / "liver_1.nii.gz").symlink_to(outside)

    with pytest.raises(DataError, match="leads out of the folder"):
        read_cases(ct_task.folder)


def test_labels_are_coded_where_the_dictionary_knows_them(ct_task: TaskFolder) -> None:
    (case,) = read_cases(ct_task.folder)

    found = [
        (one.number, one.name, one.category.meaning, one.kind.value, one.kind.scheme_designator)
        for one in case.anatomy.segments
    ]
    assert found[:2] == [
        (1, "liver", "Anatomical Structure", "10200004", "SCT"),
        (2, "cancer", "Morphologically Abnormal Structure", "108369006", "SCT"),
    ]
    assert found[2][:3] == (3, "grey thing", "Anatomical Structure")
    assert found[2][4] == "99IODEEP"
    assert len(found[2][3]) == 16


@pytest.mark.parametrize(
    ("name", "labels", "region", "body_part", "kinds"),
    [
        ("BRATS", ["edema", "non-enhancing tumor", "enhancing tumour"], "12738006", "BRAIN",
         ["79654002", "C81175", "C113842"]),
        ("LeftAtrium", ["left atrium"], "80891009", "HEART", ["82471001"]),
        ("Hippocampus", ["Anterior", "Posterior"], "5366008", "HIPPOCAMPUS",
         ["5366008 255549009", "5366008 255551008"]),
        ("PROSTATE", ["PZ", "TZ"], "41216001", "PROSTATE", ["279706003", "399384005"]),
        ("Lung", ["cancer"], "39607008", "LUNG", ["108369006"]),
        ("Pancreas", ["pancreas", "cancer"], "15776009", "PANCREAS", ["15776009", "108369006"]),
        ("HepaticVessel", ["Vessel", "Tumour"], "10200004", "LIVER", ["59820001", "108369006"]),
        ("Spleen", ["spleen"], "78961009", "SPLEEN", ["78961009"]),
        ("Colon", ["colon cancer primaries"], "71854001", "COLON", ["372087000"]),
        ("My set", ["kidney", "kidney tumor"], "64033007", "KIDNEY", ["64033007", "108369006"]),
        ("My set", ["kidney", "liver"], None, "", ["64033007", "10200004"]),
    ],
)  # fmt: skip
def test_every_task_of_the_decathlon_says_what_it_shows(
    ct_task: TaskFolder,
    name: str,
    labels: list[str],
    region: str | None,
    body_part: str,
    kinds: list[str],
) -> None:
    ct_task.write(name=name, labels={str(n): word for n, word in enumerate(["-", *labels])})

    anatomy = read_cases(ct_task.folder)[0].anatomy

    assert (anatomy.region.value if anatomy.region else None) == region
    assert anatomy.body_part == body_part
    codes = [
        f"{one.kind.value} {one.modifier.value}" if one.modifier else one.kind.value
        for one in anatomy.segments
    ]
    assert codes == kinds
    assert [one.name for one in anatomy.segments] == labels


def test_one_word_has_one_private_code_in_every_collection(ct_task: TaskFolder) -> None:
    codes = []
    for labels in ({"1": "grey thing"}, {"1": "liver", "7": "Grey  Thing"}):
        ct_task.write(labels=labels)
        codes.append(read_cases(ct_task.folder)[0].anatomy.segments[-1].kind.value)

    assert len(set(codes)) == 1


def test_label_values_with_gaps_become_segments_without(ct_task: TaskFolder) -> None:
    ct_task.document["training"] = []
    ct_task.write(labels={"4": "tumour", "0": "background", "2": "edema"})
    ct_task.add("liver_2", ct_voxels(), label_voxels(4, 2))

    (case,) = read_cases(ct_task.folder)

    assert [one.name for one in case.anatomy.segments] == ["edema", "tumour"]
    assert np.array_equal(case.read().labels, label_voxels(2, 1))


@pytest.mark.parametrize(
    ("voxels", "labels", "problem"),
    [
        (ct_voxels(), label_voxels(1, 2, 4), Problem.LABEL_UNEXPECTED),
        (ct_voxels(), label_voxels(1).astype(np.float32) / 2, Problem.LABEL_UNEXPECTED),
        (ct_voxels(), np.full((8, 7, 6), np.nan, np.float32), Problem.LABEL_UNEXPECTED),
        (ct_voxels(), label_voxels(), Problem.LABEL_MISSING),
        (ct_voxels(), label_voxels(1, shape=(8, 7, 5)), Problem.SHAPES_DIFFER),
        (ct_voxels(shape=(8, 7, 6, 2)), label_voxels(1), Problem.GRID_UNUSABLE),
        (ct_voxels().astype(np.complex64), label_voxels(1), Problem.GRID_UNUSABLE),
    ],
    ids=["a fourth value", "half", "not a number", "nothing", "size", "channels", "complex"],
)
def test_a_case_that_is_no_labelled_image_is_quarantined(
    task: TaskFolder, voxels: np.ndarray, labels: np.ndarray, problem: Problem
) -> None:
    task.add("liver_1", voxels, labels)

    assert _problem_of(task) is problem


def test_a_label_that_marks_nothing_is_no_problem_beside_one_that_does(task: TaskFolder) -> None:
    task.add("liver_1", ct_voxels(), label_voxels(1, 3))

    assert set(np.unique(read_cases(task.folder)[0].read().labels)) == {0, 1, 3}


@pytest.mark.parametrize("place", ["imagesTr", "labelsTr"])
def test_a_file_that_is_absent_is_quarantined(ct_task: TaskFolder, place: str) -> None:
    (ct_task.folder / place / "liver_1.nii.gz").unlink()

    assert _problem_of(ct_task) is Problem.FILE_MISSING


@pytest.mark.parametrize("place", ["imagesTr", "labelsTr"])
def test_a_file_that_is_damaged_anywhere_is_quarantined(ct_task: TaskFolder, place: str) -> None:
    path = ct_task.folder / place / "liver_1.nii.gz"
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:10],
        whole[: len(whole) // 2],
        whole[:100] + bytes(20) + whole[120:],
        b"\x1f\x8b" + bytes(100),
    ):
        path.write_bytes(content)

        assert _problem_of(ct_task) is Problem.FILE_DAMAGED


def test_a_file_that_announces_more_voxels_than_any_scan_has_is_not_read(
    ct_task: TaskFolder,
) -> None:
    path = ct_task.folder / "imagesTr" / "liver_1.nii"
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((30_000, 30_000, 30_000))
    path.write_bytes(header.binaryblock + bytes(8))
    ct_task.write(training=[{"image": "imagesTr/liver_1.nii", "label": "labelsTr/liver_1.nii.gz"}])

    assert _problem_of(ct_task) is Problem.GRID_UNUSABLE


@pytest.mark.parametrize("fault", [np.nan, 0.0])
def test_an_affine_that_places_no_voxel_is_quarantined(ct_task: TaskFolder, fault: float) -> None:
    image = nibabel.load(ct_task.folder / "imagesTr" / "liver_1.nii.gz")
    affine = affine_of((0.75, 0.8, 2.5)).astype("<f4")
    affine[:3, 2] = fault
    content = bytearray(image.to_bytes())
    content[280:328] = affine[:3].tobytes()  # srow_x, srow_y, srow_z
    (ct_task.folder / "imagesTr" / "liver_1.nii").write_bytes(content)
    ct_task.write(training=[{"image": "imagesTr/liver_1.nii", "label": "labelsTr/liver_1.nii.gz"}])

    assert _problem_of(ct_task) is Problem.GRID_UNUSABLE


def test_the_channel_asked_for_is_read(task: TaskFolder) -> None:
    task.write(name="BRATS", modality={"0": "FLAIR", "1": "T1w"})
    both = mr_voxels(shape=(8, 7, 6, 2))
    task.add("BRATS_001", both, label_voxels(1))

    first, second = read_cases(task.folder)[0], read_cases(task.folder, "t1w")[0]

    assert np.array_equal(first.read().voxels, both[..., 0])
    assert np.array_equal(second.read().voxels, both[..., 1])
    assert (first.channel, second.channel) == ("FLAIR", "T1w")
    assert (first.series_number, second.series_number) == (1, 2)


def test_an_unknown_channel_names_the_known_ones(task: TaskFolder, nifti_folder: Path) -> None:
    task.write(modality={"0": "FLAIR", "1": "T1w"})
    task.add("BRATS_001", mr_voxels(shape=(8, 7, 6, 2)), label_voxels(1))

    with pytest.raises(ConfigError, match="no channel 'T2w'; it has FLAIR, T1w"):
        read_cases(task.folder, "T2w")
    with pytest.raises(ConfigError, match="leave --channel out"):
        read_cases(nifti_folder, "T2w")


def test_the_same_voxels_as_ct_mr_or_another_channel_share_no_uid(task: TaskFolder) -> None:
    image, label = mr_voxels(), label_voxels(1)
    digests = set()
    for modality in ({"0": "CT"}, {"0": "MRI"}, {"0": "T1w", "1": "T2w"}):
        task.document["training"] = []
        task.write(modality=modality)
        channels = len(modality)
        task.add("a", image if channels == 1 else np.stack([image, image], axis=3), label)
        for channel in modality.values():
            (case,) = read_cases(task.folder, channel)
            digests.add(content_digest(case, case.read()))

    assert len(digests) == 4


def test_the_hippocampus_as_it_is_published_can_be_read(hippocampus: Path, tmp_path: Path) -> None:
    names = {"image": "images/hippocampus_001.nii.gz", "label": "labels/hippocampus_001.nii.gz"}
    for name in names.values():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((hippocampus / name).read_bytes())
    document = {
        "name": "Hippocampus",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [names],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(document))

    (case,) = read_task(tmp_path)

    assert isinstance(case, NiftiCase)
    assert set(np.unique(case.read().labels)) == {0, 1, 2}


def _problem_of(task: TaskFolder) -> Problem:
    with pytest.raises(UnusableCase) as refused:
        read_cases(task.folder)[0].read()
    return refused.value.problem
