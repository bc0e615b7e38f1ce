import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from clients.data import LabelledData, Reason, load_examples
from federation.config import DataTable, LabelSource, PolicyTable, Site, Split
from federation.errors import ConfigError, DataError
from federation.iodeep.architecture import Preprocessing
from federation.iodeep.labels import Line
from federation.pacs import Gateway
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
    assert asked == ["STUDY"]
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
