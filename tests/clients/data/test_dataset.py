import dataclasses
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import generate_uid

from clients.data import Example, LabelledData, Reason, load_examples
from clients.data.opt_outs import opt_out
from clients.data.preprocessing import preprocess_image
from clients.data.volumes import Volume
from clients.preview import write_preview
from clients.training import Segmenter
from federation.config import DataTable, LabelSource, OptOuts, PolicyTable, Site, Split
from federation.errors import ConfigError, DataError
from federation.iodeep.architecture import Preprocessing
from federation.iodeep.labels import Line
from federation.pacs import Archive, Gateway, open_gateway
from federation.pacs.gateway import Level
from federation.samples import import_cases, phantom_cases, read_manifest
from federation.samples.case import Case, Plane
from federation.samples.phantom import SHAPE
from tests.clients.data.conftest import WrittenCase, edit, write
from tests.peers import shared_data

LINE = Line.parse("MR/brain/-/phantom")
AS_STORED = Preprocessing(spacing_mm=(1, 1, 1), intensity="none", size=SHAPE)


def store(gateway: Gateway, cases: list[Case]) -> None:
    for _ in import_cases(cases, gateway):
        pass


def keys(data: LabelledData) -> list[list[str]]:
    return [[e.key for e in part] for part in (data.train, data.validation, data.test)]


def everything(data: LabelledData) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (example.image, example.label)
        for part in (data.train, data.validation, data.test)
        for example in part
    ]


@pytest.mark.parametrize("name", list("ABC"))
def test_examples_are_the_phantoms_after_undoing_the_orientation(
    gateway: Gateway, site: Site, name: str
) -> None:
    cases = phantom_cases(name, 2, 0)
    store(gateway, cases)

    examples = everything(load_examples(gateway, site, LINE, AS_STORED))

    assert len(examples) == 2
    originals = [case.read() for case in cases]
    for image, label in examples:
        assert (image.shape, image.dtype) == ((1, *SHAPE), torch.float32)
        assert (label.shape, label.dtype) == ((1, *SHAPE), torch.uint8)
        (original,) = (o for o in originals if np.array_equal(o.voxels, image[0].numpy()))
        assert np.array_equal(original.labels, label[0].numpy())


@pytest.mark.parametrize(
    ("plane", "sites"), [("axial", "AD"), ("coronal", "BC"), ("sagittal", "AC")]
)
def test_real_cases_come_out_of_the_archive_exactly(
    gateway: Gateway, site: Site, plane: Plane, sites: str
) -> None:
    by_site = {case.site: case for case in read_manifest(shared_data("hippocampus"))}
    cases = [dataclasses.replace(by_site[name], plane=plane) for name in sites]
    store(gateway, cases)
    hippocampus = DataTable(
        query={"BodyPartExamined": "HIPPOCAMPUS"},
        labels=LabelSource(map={"anterior hippocampus": 1, "posterior hippocampus": 2}),
        split=Split(validation=0, test=0, key=site.data["brain"].split.key),
    )
    site = site.model_copy(update={"data": {"hippocampus": hippocampus}})
    size = (48, 64, 48)
    preprocessing = Preprocessing(spacing_mm=(1, 1, 1), intensity="none", size=size)

    data = load_examples(gateway, site, Line.parse("MR/hippocampus/-/unet"), preprocessing)

    assert len(data.train) == len(cases)
    for original in (case.read() for case in cases):
        before = [
            (to - extent) // 2 for to, extent in zip(size, original.voxels.shape, strict=True)
        ]
        inner = tuple(
            slice(start, start + extent)
            for start, extent in zip(before, original.voxels.shape, strict=True)
        )
        assert any(
            np.array_equal(example.image[0].numpy()[inner], original.voxels.astype(np.float32))
            and np.array_equal(example.label[0].numpy()[inner], original.labels)
            for example in data.train
        )


def test_preprocessing_normalises_and_fits_the_size(gateway: Gateway, site: Site) -> None:
    store(gateway, phantom_cases("A", 2, 0))
    preprocessing = Preprocessing(spacing_mm=(1, 1.5, 2), size=(40, 28, 20))

    for image, label in everything(load_examples(gateway, site, LINE, preprocessing)):
        assert image.shape == label.shape == (1, 40, 28, 20)
        assert float(image.mean()) == pytest.approx(0, abs=1e-3)
        assert float(image[image != 0].std()) == pytest.approx(1, abs=0.01)
        assert set(label.unique().tolist()) == {0, 1, 2}


def test_parts_are_stable_and_share_no_patient(gateway: Gateway, site: Site) -> None:
    store(gateway, phantom_cases("A", 5, 0))
    before = keys(load_examples(gateway, site, LINE, AS_STORED))
    store(gateway, phantom_cases("A", 8, 0)[5:])

    after = keys(load_examples(gateway, site, LINE, AS_STORED))

    assert sum(map(len, after)) == 8
    assert len({key for part in after for key in part}) == 8
    for old, new in zip(before, after, strict=True):
        assert [key for key in new if key in old] == old


def test_the_second_opening_fetches_nothing(
    gateway: Gateway, site: Site, written: WrittenCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(gateway, phantom_cases("A", 4, 0))
    edit(written.series[4], lambda ds: setattr(ds, "PixelData", b"\0\0"))
    gateway.store([*written.series, written.seg])
    first = load_examples(gateway, site, LINE, AS_STORED)

    monkeypatch.setattr(type(gateway), "fetch", None)
    second = load_examples(gateway, site, LINE, AS_STORED)

    assert keys(second) == keys(first)
    assert second.quarantined == first.quarantined == {Reason.IMAGE_UNDECODABLE: 1}


def test_within_a_run_only_what_came_or_went_is_asked_about(
    gateway: Gateway, site: Site, written: WrittenCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(gateway, phantom_cases("A", 4, 0))
    first = load_examples(gateway, site, LINE, AS_STORED, run="one")
    asked: list[str] = []
    find = type(gateway).find

    def counted(self: Gateway, level: Level, keys: Mapping[str, str]) -> list[pydicom.Dataset]:
        if not keys.get("SeriesInstanceUID"):  # a fetch asks, too, but about one series
            asked.append(level)
        return find(self, level, keys)

    monkeypatch.setattr(type(gateway), "find", counted)
    again = load_examples(gateway, site, LINE, AS_STORED, run="one")
    assert asked == ["STUDY"] * 3  # with images, with SEG, with RTSTRUCT
    assert keys(again) == keys(first)
    store(gateway, phantom_cases("A", 5, 0)[4:])
    asked.clear()
    more = load_examples(gateway, site, LINE, AS_STORED, run="one")
    assert asked.count("SERIES") == 1
    assert sum(map(len, keys(more))) == 5
    asked.clear()
    load_examples(gateway, site, LINE, AS_STORED, run="another")
    assert asked.count("SERIES") == 5
    for path in (site.work / "cache").iterdir():
        for case in phantom_cases("A", 5, 0):
            assert case.patient_id.encode() not in path.read_bytes()


def test_a_damaged_cache_is_rebuilt(gateway: Gateway, site: Site) -> None:
    store(gateway, phantom_cases("A", 3, 0))
    before = everything(load_examples(gateway, site, LINE, AS_STORED))
    expected = [image.clone() for image, _ in before]
    load_examples(gateway, site, LINE, AS_STORED, run="one")
    for path in (site.work / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:-100])

    after = everything(load_examples(gateway, site, LINE, AS_STORED, run="one"))

    assert all(torch.equal(a, b) for (a, _), b in zip(after, expected, strict=True))


def test_a_deleted_work_folder_costs_time_and_nothing_else(gateway: Gateway, site: Site) -> None:
    store(gateway, phantom_cases("A", 2, 0))
    first = keys(load_examples(gateway, site, LINE, AS_STORED))
    shutil.rmtree(site.work)

    assert keys(load_examples(gateway, site, LINE, AS_STORED)) == first


def test_studies_left_out_are_counted_and_listed_without_patients(
    gateway: Gateway, site: Site, written: WrittenCase, tmp_path: Path
) -> None:
    good = phantom_cases("A", 3, 0)
    store(gateway, good)
    gapped = write(phantom_cases("C", 1, 0)[0], tmp_path / "gapped")
    gateway.store([*gapped.series[:9], *gapped.series[10:], gapped.seg])
    gateway.store(written.series)

    data = load_examples(gateway, site, LINE, AS_STORED)

    assert data.studies == 3
    assert data.quarantined == {Reason.NO_LABELS: 1, Reason.SLICE_MISSING: 1}
    text = (site.work / "quarantine.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["reason"] for line in lines} == {"no-labels", "slice-missing"}
    assert {line["study"] for line in lines} == {
        str(pydicom.dcmread(case.series[0]).StudyInstanceUID) for case in (gapped, written)
    }
    for case in (*good, gapped.case, written.case):
        assert case.patient_id not in text


def test_an_image_without_end_leaves_the_others(
    gateway: Gateway, site: Site, written: WrittenCase, tmp_path: Path
) -> None:
    """Two files' worth of lies about their size: the run goes on without them."""
    store(gateway, phantom_cases("A", 2, 0))

    def far(dataset: pydicom.Dataset) -> None:
        dataset.PixelSpacing = ["1e8", "1e8"]

    for path in written.series:
        edit(path, far)
    edit(
        written.seg,
        lambda ds: far(ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]),
    )
    large = write(phantom_cases("C", 1, 0)[0], tmp_path / "large")
    for path in large.series:
        edit(path, lambda ds: ds.update({"Rows": 65535, "Columns": 65535}))
    gateway.store([*written.series, written.seg, *large.series, large.seg])

    data = load_examples(gateway, site, LINE, AS_STORED)

    assert (data.studies, data.quarantined) == (2, {Reason.IMAGE_UNSUPPORTED: 2})


def test_too_few_studies_say_how_many_and_why(
    gateway: Gateway, site: Site, written: WrittenCase
) -> None:
    store(gateway, phantom_cases("A", 2, 0))
    gateway.store(written.series)
    site = site.model_copy(update={"policy": PolicyTable(min_studies=3)})

    with pytest.raises(DataError, match=r"2 usable studies .* asks for 3.* 1 no-labels"):
        load_examples(gateway, site, LINE, AS_STORED)


def test_an_archive_without_data_is_an_error(gateway: Gateway, site: Site) -> None:
    with pytest.raises(DataError, match="0 usable studies"):
        load_examples(gateway, site, LINE, AS_STORED)


def test_a_split_that_leaves_nothing_to_train_on_is_an_error(gateway: Gateway, site: Site) -> None:
    cases = phantom_cases("A", 2, 0)
    store(gateway, cases)
    split = site.data["brain"].split.model_copy(
        update={"test": tuple(case.patient_id for case in cases)}
    )
    brain = site.data["brain"].model_copy(update={"split": split})
    site = site.model_copy(update={"data": {"brain": brain}})

    with pytest.raises(DataError, match="no example to train on") as refused:
        load_examples(gateway, site, LINE, AS_STORED)
    assert "PHANTOM" not in str(refused.value)


def test_a_line_without_data_is_a_config_error(gateway: Gateway, site: Site) -> None:
    with pytest.raises(ConfigError, match="no data for line"):
        load_examples(gateway, site, Line.parse("MR/hippocampus/-/unet"), AS_STORED)


def test_progress_counts_to_the_total(gateway: Gateway, site: Site) -> None:
    store(gateway, phantom_cases("A", 3, 0))
    seen: list[tuple[int, int]] = []

    load_examples(
        gateway, site, LINE, AS_STORED, progress=lambda done, total: seen.append((done, total))
    )

    assert seen == [(1, 3), (2, 3), (3, 3)]


# --- whose a study is ---------------------------------------------------------------------


def set_all(paths: list[Path], **attributes: object) -> None:
    for path in paths:
        edit(path, lambda ds: [setattr(ds, key, value) for key, value in attributes.items()])


def others(*patient_ids: str) -> list[pydicom.Dataset]:
    items = [pydicom.Dataset() for _ in patient_ids]
    for item, patient_id in zip(items, patient_ids, strict=True):
        item.PatientID = patient_id
    return items


@pytest.fixture
def two(gateway: Gateway, site: Site, tmp_path: Path) -> list[WrittenCase]:
    """Studies of P-NEW and P-MID, not stored yet."""
    cases = [write(case, tmp_path / case.name) for case in phantom_cases("A", 2, 0)]
    for case, patient_id in zip(cases, ("P-NEW", "P-MID"), strict=True):
        set_all([*case.series, case.seg], PatientID=patient_id)
    return cases


@pytest.fixture
def watched(site: Site, tmp_path: Path) -> Site:
    """The site, with a list of opt-outs, and everybody trained on."""
    (tmp_path / "out.key").write_text("secret\n")
    table = OptOuts(file=tmp_path / "out.txt", key=tmp_path / "out.key")
    opt_out(table, ["NOBODY"])
    split = site.data["brain"].split.model_copy(update={"validation": 0.0, "test": ()})
    brain = site.data["brain"].model_copy(update={"split": split})
    policy = PolicyTable(opt_out=table)
    return site.model_copy(update={"data": {"brain": brain}, "policy": policy})


def leaves(site: Site, *patient_ids: str) -> None:
    assert site.policy.opt_out is not None
    opt_out(site.policy.opt_out, patient_ids)


def store_all(gateway: Gateway, cases: list[WrittenCase]) -> None:
    for case in cases:
        gateway.store([*case.series, case.seg])


@pytest.mark.parametrize(
    "attributes",
    [{"OtherPatientIDs": ["P-OLD", "P-0"]}, {"OtherPatientIDsSequence": others("P-OLD")}],
    ids=["attribute", "sequence"],
)
@pytest.mark.parametrize("where", ["images", "labels"])
def test_who_opted_out_by_an_id_that_only_objects_tell_is_left_out(
    gateway: Gateway, watched: Site, two: list[WrittenCase], attributes: dict[str, object],
    where: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first = two[0]
    set_all(first.series[7:8] if where == "images" else [first.seg], **attributes)
    store_all(gateway, two)
    leaves(watched, "P-OLD")

    data = load_examples(gateway, watched, LINE, AS_STORED)

    assert (len(data.train), data.unusable) == (1, 0)
    assert data.quarantined == {Reason.OPTED_OUT: 1}
    monkeypatch.setattr(type(gateway), "fetch", None)
    again = load_examples(gateway, watched, LINE, AS_STORED)
    assert (keys(again), again.quarantined) == (keys(data), data.quarantined)
    for path in site_files(watched):
        assert not any(one in path.read_bytes() for one in (b"P-OLD", b"P-NEW", b"P-MID"))


def site_files(site: Site) -> list[Path]:
    return [path for path in site.work.rglob("*") if path.is_file()]


@pytest.mark.parametrize("out", ["P-NEW", "P-OLD"])
def test_who_opts_out_later_is_gone_from_the_cache_without_a_fetch(
    gateway: Gateway, watched: Site, two: list[WrittenCase], out: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    set_all([two[0].seg], OtherPatientIDs="P-OLD")
    store_all(gateway, two)
    assert len(load_examples(gateway, watched, LINE, AS_STORED).train) == 2
    leaves(watched, out)
    fetch = type(gateway).fetch
    monkeypatch.setattr(type(gateway), "fetch", None)

    data = load_examples(gateway, watched, LINE, AS_STORED)

    assert (len(data.train), data.quarantined) == (1, {Reason.OPTED_OUT: 1})
    assert len(list((watched.work / "cache").glob("*.safetensors"))) == 1
    assert watched.policy.opt_out is not None
    watched.policy.opt_out.file.write_text("")
    monkeypatch.setattr(type(gateway), "fetch", fetch)
    assert len(load_examples(gateway, watched, LINE, AS_STORED).train) == 2  # they came back


def test_a_list_of_opt_outs_that_is_new_finds_who_was_cached_before(
    gateway: Gateway, watched: Site, two: list[WrittenCase]
) -> None:
    set_all([two[0].seg], OtherPatientIDs="P-OLD")
    store_all(gateway, two)
    without = watched.model_copy(update={"policy": PolicyTable()})
    assert len(load_examples(gateway, without, LINE, AS_STORED).train) == 2
    leaves(watched, "P-OLD")

    data = load_examples(gateway, watched, LINE, AS_STORED)

    assert (len(data.train), data.quarantined) == (1, {Reason.OPTED_OUT: 1})


def test_links_in_between_take_a_patients_other_studies_out_too(
    gateway: Gateway, watched: Site, two: list[WrittenCase]
) -> None:
    """P-NEW is P-MID by one study's objects, and P-MID is P-OLD by the other's."""
    set_all([two[0].seg], OtherPatientIDs="P-MID")
    set_all([two[1].seg], OtherPatientIDs="P-OLD")
    third = two[0].series[0].parents[1] / "third"
    rest = write(phantom_cases("A", 3, 0)[2], third)
    store_all(gateway, [*two, rest])
    leaves(watched, "P-OLD")

    for _ in range(2):
        data = load_examples(gateway, watched, LINE, AS_STORED)
        assert (len(data.train), data.quarantined) == (1, {Reason.OPTED_OUT: 2})
        assert len(list((watched.work / "cache").glob("*.safetensors"))) == 1


def test_a_patient_linked_by_objects_is_in_one_part_also_out_of_the_cache(
    gateway: Gateway, site: Site, two: list[WrittenCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all([two[0].seg], OtherPatientIDsSequence=others("P-MID"))
    store_all(gateway, two)
    store(gateway, phantom_cases("A", 3, 0)[2:])
    split = site.data["brain"].split.model_copy(update={"validation": 0.0, "test": ("P-MID",)})
    brain = site.data["brain"].model_copy(update={"split": split})
    site = site.model_copy(update={"data": {"brain": brain}})

    first = load_examples(gateway, site, LINE, AS_STORED)
    assert (len(first.train), len(first.test)) == (1, 2)
    monkeypatch.setattr(type(gateway), "fetch", None)
    assert keys(load_examples(gateway, site, LINE, AS_STORED)) == keys(first)


@pytest.mark.parametrize("where", ["image", "labels"])
def test_a_study_whose_objects_name_two_patients_is_left_out(
    gateway: Gateway, watched: Site, two: list[WrittenCase], where: str
) -> None:
    """A merge that was not finished; the archive's answer names the one it has first."""
    other = two[0].series[9:] if where == "image" else [two[0].seg]
    set_all(other, PatientID="P-OLD")
    store_all(gateway, two)

    data = load_examples(gateway, watched, LINE, AS_STORED)

    assert (len(data.train), data.unusable) == (1, 1)
    assert data.quarantined == {Reason.PATIENTS_DIFFER: 1}
    assert "P-OLD" not in (watched.work / "quarantine.jsonl").read_text()


def test_a_study_whose_objects_link_their_two_names_is_one_patients(
    gateway: Gateway, watched: Site, two: list[WrittenCase]
) -> None:
    set_all([two[0].seg], PatientID="P-OLD", OtherPatientIDs="P-NEW")
    set_all(two[0].series[3:5], PatientID="")  # names nobody else
    store_all(gateway, two)

    assert len(load_examples(gateway, watched, LINE, AS_STORED).train) == 2


def test_an_example_whose_study_is_another_patients_now_is_built_anew(
    gateway: Gateway, watched: Site, two: list[WrittenCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    store_all(gateway, two)
    load_examples(gateway, watched, LINE, AS_STORED)
    find = type(gateway).find

    def merged(self: Gateway, level: Level, asked: Mapping[str, str]) -> list[pydicom.Dataset]:
        rows = find(self, level, asked)
        for row in rows:
            if row.get("PatientID") == "P-NEW":
                row.PatientID = "P-NOW"
        return rows

    monkeypatch.setattr(type(gateway), "find", merged)

    data = load_examples(gateway, watched, LINE, AS_STORED)

    assert (len(data.train), data.quarantined) == (1, {Reason.PATIENTS_DIFFER: 1})
    assert len(list((watched.work / "cache").glob("*.safetensors"))) == 1


# --- what takes the place of something else -----------------------------------------------


class Served:
    """An archive whose content changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def with_files(self, *cases: WrittenCase) -> Gateway:
        self._count += 1
        folder = self._folder / f"archive-{self._count}"
        Archive(folder).close()
        gateway = open_gateway(f"folder:{folder}")
        store_all(gateway, list(cases))
        return gateway


def renamed(dataset: pydicom.Dataset) -> None:
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[dataset.SOPInstanceUID])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def test_images_that_take_others_place_are_seen(
    site: Site, written: WrittenCase, watched: Site, tmp_path: Path
) -> None:
    served = Served(tmp_path)
    with served.with_files(written) as gateway:
        (old,) = load_examples(gateway, watched, LINE, AS_STORED).train
    for path in written.series:
        edit(path, renamed)
        edit(path, lambda ds: setattr(ds, "RescaleSlope", "999"))
    with served.with_files(written) as gateway:
        (new,) = load_examples(gateway, watched, LINE, AS_STORED).train

    assert not torch.equal(old.image, new.image)


def test_a_seg_that_takes_anothers_place_is_seen_hours_later(
    written: WrittenCase, watched: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tmp_path)
    with served.with_files(written) as gateway:
        (old,) = load_examples(gateway, watched, LINE, AS_STORED, run="r").train
    inner, outer = "inner structure", "outer structure"

    def corrected(dataset: pydicom.Dataset) -> None:
        renamed(dataset)
        for segment, label in zip(dataset.SegmentSequence, (outer, inner), strict=True):
            segment.SegmentLabel = label

    edit(written.seg, corrected)
    later = time.time() + 7 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    with served.with_files(written) as gateway:
        (new,) = load_examples(gateway, watched, LINE, AS_STORED, run="r").train

    assert not torch.equal(old.label, new.label)


def test_what_was_sent_again_under_its_uids_is_seen_the_next_day(
    written: WrittenCase, watched: Site, two: list[WrittenCase], tmp_path: Path
) -> None:
    served, path = Served(tmp_path), written.series[3]
    good = path.read_bytes()
    edit(path, lambda ds: setattr(ds, "PixelSpacing", ["2", "2"]))
    with served.with_files(written, two[0]) as gateway:
        data = load_examples(gateway, watched, LINE, AS_STORED)
    assert data.quarantined == {Reason.SLICES_IRREGULAR: 1}
    path.write_bytes(good)
    for verdict in (watched.work / "cache").glob("*.json"):
        os.utime(verdict, (time.time() - 86401,) * 2)

    with served.with_files(written, two[0]) as gateway:
        assert len(load_examples(gateway, watched, LINE, AS_STORED).train) == 2


# --- what goes wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("error", [MemoryError("P-NEW"), ZeroDivisionError("P-NEW")])
def test_what_nobody_foresaw_is_one_examples_end(
    gateway: Gateway, watched: Site, two: list[WrittenCase], error: Exception,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store_all(gateway, two)
    calls: list[int] = []

    def preprocess(volume: Volume, preprocessing: Preprocessing) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return preprocess_image(volume, preprocessing)

    monkeypatch.setattr("clients.data.dataset.preprocess_image", preprocess)

    data = load_examples(gateway, watched, LINE, AS_STORED)

    assert (len(data.train), data.quarantined) == (1, {Reason.IMAGE_UNDECODABLE: 1})
    text = (watched.work / "quarantine.jsonl").read_text()
    assert f"could not be decoded: {type(error).__name__}" in text
    assert "P-NEW" not in text


def test_what_is_fetched_lies_in_the_work_folder(
    gateway: Gateway, watched: Site, two: list[WrittenCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(two[0].series, SliceThickness="1")
    store_all(gateway, two)
    brain = watched.data["brain"].model_copy(update={"exclude": ({"SliceThickness": "9"},)})
    site = watched.model_copy(update={"data": {"brain": brain}})
    fetch, folders = type(gateway).fetch, []

    def noted(self: Gateway, folder: Path, **uids: str) -> list[Path]:
        folders.append(folder)
        return fetch(self, folder, **uids)

    monkeypatch.setattr(type(gateway), "fetch", noted)

    load_examples(gateway, site, LINE, AS_STORED)

    kinds = {folder.relative_to(site.work / "scratch").parts[0][:12] for folder in folders}
    assert kinds == {"iodeep-image", "iodeep-label", "iodeep-fetch"}
    assert list((site.work / "scratch").iterdir()) == []


def test_a_preview_is_for_the_sites_account_alone(tmp_path: Path) -> None:
    class Nothing:
        def predict(self, image: torch.Tensor) -> torch.Tensor:
            return torch.zeros(image.shape, dtype=torch.uint8)

    example = Example(
        key="a" * 64,
        image=torch.ones((1, 4, 5, 6)),
        label=torch.ones((1, 4, 5, 6), dtype=torch.uint8),
        spacing_mm=(1, 1, 1),
    )

    path = write_preview(tmp_path, example, cast(Segmenter, Nothing()))

    assert path.stat().st_mode & 0o777 == 0o600
