import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clients.data.cache import (
    Example,
    ExampleCache,
    OutByObjects,
    Whose,
    example_key,
    make_scratch,
)
from clients.data.census import Examined, LabelledSeries, LabelObject
from clients.data.labels import LabelHeader, Segment, Wanted
from clients.data.opt_outs import opt_out, opted_out
from clients.data.quarantine import Reason, Unusable
from federation.config import CacheTable, OptOuts
from federation.errors import DataError
from federation.iodeep.architecture import Preprocessing

SERIES = LabelledSeries(
    study="1.1",
    image_series="1.2",
    image_instances=30,
    source="SEG",
    labels=(LabelObject(series="1.3", instance="1.4"),),
    patient_ids=("P1",),
)
OTHER = (LabelObject(series="1.3", instance="1.5"),)
LABELS = Wanted.of(names={"inner structure": 1})
PREPROCESSING = Preprocessing(spacing_mm=(1, 1, 1), size=(4, 5, 6))


def example(key: str = "a" * 64, value: float = 1.0, edge: int = 6) -> Example:
    return Example(
        key=key,
        image=torch.full((1, 4, 5, edge), value),
        label=torch.ones((1, 4, 5, edge), dtype=torch.uint8),
        spacing_mm=(1.0, 1.0, 1.5),
    )


def test_an_example_comes_back_as_it_was(tmp_path: Path) -> None:
    cache = ExampleCache(tmp_path / "cache")
    cache.write(example())

    assert cache.verify("a" * 64)
    read = cache.read("a" * 64)

    assert torch.equal(read.image, example().image)
    assert torch.equal(read.label, example().label)
    assert (read.label.dtype, read.spacing_mm) == (torch.uint8, (1.0, 1.0, 1.5))
    assert repr(read) == "Example(aaaaaaaaaaaa, (1, 4, 5, 6))"


def test_changing_an_example_in_place_leaves_the_file_alone(tmp_path: Path) -> None:
    cache = ExampleCache(tmp_path)
    cache.write(example())

    cache.read("a" * 64).image.add_(1)

    assert torch.equal(cache.read("a" * 64).image, example().image)


def test_everything_that_decides_the_voxels_is_in_the_key() -> None:
    keys = [
        example_key(SERIES, LABELS, PREPROCESSING),
        example_key(replace(SERIES, labels=OTHER), LABELS, PREPROCESSING),
        example_key(replace(SERIES, image_series="1.5"), LABELS, PREPROCESSING),
        example_key(replace(SERIES, image_instances=31), LABELS, PREPROCESSING),
        example_key(replace(SERIES, image_digest="0" * 64), LABELS, PREPROCESSING),
        example_key(SERIES, Wanted.of(names={"inner structure": 2}), PREPROCESSING),
        example_key(SERIES, LABELS, PREPROCESSING.model_copy(update={"intensity": "none"})),
    ]

    assert len(set(keys)) == len(keys)


def test_the_patient_is_not_in_the_key() -> None:
    other = replace(SERIES, patient_ids=("P2",))
    assert example_key(SERIES, LABELS, PREPROCESSING) == example_key(other, LABELS, PREPROCESSING)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "garbage"])
def test_a_damaged_example_is_removed(tmp_path: Path, damage: str) -> None:
    cache = ExampleCache(tmp_path)
    cache.write(example())
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x10
    path.write_bytes(
        {
            "truncate": path.read_bytes()[:-8],
            "flip": bytes(content),
            "empty": b"",
            "garbage": os.urandom(500),
        }[damage]
    )

    assert not cache.verify("a" * 64)
    assert not path.exists()


def test_an_example_that_vanishes_while_in_use_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="start again"):
        ExampleCache(tmp_path).read("a" * 64)


def test_a_verdict_is_remembered_until_the_software_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ExampleCache(tmp_path)
    cache.remember("b" * 64, Unusable(Reason.SLICES_IRREGULAR, "slices are not equidistant"))

    found = cache.verdict("b" * 64)
    assert found is not None
    assert (found.reason, str(found)) == (Reason.SLICES_IRREGULAR, "slices are not equidistant")
    monkeypatch.setattr("clients.data.cache._FORMAT", "next")
    assert cache.verdict("b" * 64) is None


def test_a_verdict_is_none_tomorrow_and_goes(tmp_path: Path) -> None:
    cache = ExampleCache(tmp_path)
    cache.remember("b" * 64, Unusable(Reason.SLICE_MISSING, "1 slices are missing"))
    cache.write_headers({})
    yesterday = time.time() - 25 * 3600
    for path in tmp_path.iterdir():
        os.utime(path, (yesterday, yesterday))

    assert cache.verdict("b" * 64) is None
    ExampleCache(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.json"]


def test_studies_are_remembered_for_hours_only(tmp_path: Path) -> None:
    cache, now = ExampleCache(tmp_path), time.time()
    ages_h = {"1.1": 5.9, "1.2": 6.1, "1.3": -1}  # the last by a clock that was put back

    cache.write_studies(
        "run",
        {
            uid: Examined(counts=("1", "2"), entries=(), at=now - 3600 * hours)
            for uid, hours in ages_h.items()
        },
    )

    assert list(cache.read_studies("run")) == ["1.1"]


def test_an_example_says_whose_it_is_and_goes_with_them(tmp_path: Path) -> None:
    listed = tmp_path / "out.txt"
    key = tmp_path / "key"
    key.write_text("secret\n")
    table = OptOuts(file=listed, key=key)
    opt_out(table, ["P2"])
    cache = ExampleCache(tmp_path / "cache")
    for name, patients in (("a", ["P1"]), ("b", ["P2", "P3"])):
        whose = Whose(split=(name,), opt_out=opted_out(table).hashes(patients))
        cache.write(example(name * 64), whose)
        assert cache.whose(name * 64) == whose
    cache.write(example("c" * 64))
    assert cache.whose("c" * 64) is None

    cache.remove_opted_out(opted_out(None))
    assert [cache.verify(name * 64) for name in "abc"] == [True, True, True]
    cache.remove_opted_out(opted_out(table))

    assert [cache.verify(name * 64) for name in "abc"] == [True, False, False]
    verdict = cache.verdict("b" * 64)
    assert isinstance(verdict, OutByObjects)
    assert verdict.whose.split == ("b",)
    for path in (tmp_path / "cache").iterdir():
        assert b"P2" not in path.read_bytes()


def test_what_a_kill_left_in_the_scratch_folder_goes(tmp_path: Path) -> None:
    scratch = make_scratch(tmp_path)
    for name in ("iodeep-fetch-old", "iodeep-fetch-young", "iodeep-else"):
        (scratch / name / "images").mkdir(parents=True)
        (scratch / name / "images" / "1.2").write_bytes(b"a patient")
    for name in ("iodeep-fetch-old", "iodeep-else"):
        for path in (scratch / name / "images" / "1.2", scratch / name / "images", scratch / name):
            os.utime(path, (0, 0))

    make_scratch(tmp_path)

    assert sorted(path.name for path in scratch.iterdir()) == [
        "iodeep-else", "iodeep-fetch-young"
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"[]", b'{"reason": "no-such-reason"}', b"\xff"])
def test_a_damaged_verdict_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{'b' * 64}.json").write_bytes(content)
    (tmp_path / "segmentations.json").write_bytes(content)

    assert ExampleCache(tmp_path).verdict("b" * 64) is None
    assert ExampleCache(tmp_path).read_headers() == {}


def test_headers_come_back_as_they_were(tmp_path: Path) -> None:
    header = LabelHeader(
        source="SEG", series=("1.2",), segments=(Segment(number=1, label="a", meaning="b"),)
    )
    cache = ExampleCache(tmp_path)

    cache.write_headers({"1.4": header, "1.5": Unusable(Reason.SEGMENT_MISSING, "none")})

    headers = cache.read_headers(["a", "b"])
    assert headers["1.4"] == header
    assert isinstance(headers["1.5"], Unusable)
    assert headers["1.5"].reason is Reason.SEGMENT_MISSING


def test_what_people_call_segments_is_not_kept(tmp_path: Path) -> None:
    doe = Segment(number=2, label="doe john lesion", kind=("1", "SCT"))
    header = LabelHeader(
        source="SEG", series=("1.2",), segments=(Segment(number=1, label="liver"), doe)
    )
    cache = ExampleCache(tmp_path)

    cache.write_headers({"1.4": header})
    cache.write_headers({**cache.read_headers(), "1.5": header})  # nor forgotten by who asks less

    assert b"doe" not in (tmp_path / "labels.json").read_bytes()
    read = cache.read_headers(["liver"])["1.4"]
    assert isinstance(read, LabelHeader)
    assert read.segments == (header.segments[0], replace(doe, label=""))


def test_a_label_object_that_was_of_no_use_is_looked_at_again_tomorrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ExampleCache(tmp_path)
    cache.write_headers({"1.5": Unusable(Reason.LABELS_UNDECODABLE, "a damaged one")})
    assert set(cache.read_headers()) == {"1.5"}

    tomorrow = time.time() + 86401
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    assert cache.read_headers() == {}


def _write_forever(folder: Path, value: float) -> None:
    torch.set_num_threads(1)
    cache = ExampleCache(folder)
    large = example(value=value, edge=60_000)
    while True:
        cache.write(large)


def test_a_kill_and_a_second_writer_leave_one_whole_example(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_forever, args=(tmp_path, 2.0)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while not list(tmp_path.glob("*.safetensors")):
        time.sleep(0.01)
    time.sleep(0.2)
    for writer in writers:
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()

    cache = ExampleCache(tmp_path)

    assert cache.verify("a" * 64)
    assert torch.equal(cache.read("a" * 64).image, torch.full((1, 4, 5, 60_000), 2.0))


def test_abandoned_files_are_removed_and_young_ones_kept(tmp_path: Path) -> None:
    old, young = tmp_path / "old.part", tmp_path / "young.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))

    ExampleCache(tmp_path)

    assert not old.exists()
    assert young.exists()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file")

    with pytest.raises(DataError, match="cannot be made"):
        ExampleCache(tmp_path / "work/cache")


def age(cache: Path, key: str, seconds: float) -> None:
    path = cache / f"{key}.safetensors"
    os.utime(path, (time.time() - seconds,) * 2)


def size_of_one(folder: Path) -> int:
    ExampleCache(folder).write(example())
    return (folder / f"{'a' * 64}.safetensors").stat().st_size


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    one = size_of_one(tmp_path / "measured")
    cache = ExampleCache(tmp_path / "cache", CacheTable(bytes=2 * one))
    for number, key in enumerate(("a" * 64, "b" * 64)):
        cache.write(example(key))
        age(tmp_path / "cache", key, 9000 - 1000 * number)
    assert cache.verify("a" * 64)  # in use again

    cache.write(example("c" * 64))

    assert [cache.verify(key * 64) for key in "abc"] == [True, False, True]


def test_examples_in_use_are_not_removed_for_others(tmp_path: Path) -> None:
    one = size_of_one(tmp_path / "measured")
    cache = ExampleCache(tmp_path / "cache", CacheTable(bytes=2 * one))
    cache.write(example("a" * 64))
    cache.write(example("b" * 64))

    with pytest.raises(DataError, match=r"policy\.cache\.bytes allows"):
        cache.write(example("c" * 64))

    assert [cache.verify(key * 64) for key in "abc"] == [True, True, False]


def test_examples_that_nobody_used_for_days_go(tmp_path: Path) -> None:
    cache = ExampleCache(tmp_path)
    for key, days in (("a" * 64, 8), ("b" * 64, 6)):
        cache.write(example(key))
        age(tmp_path, key, days * 86400)

    again = ExampleCache(tmp_path, CacheTable(days=7))

    assert [again.verify(key * 64) for key in "ab"] == [False, True]


def test_a_cache_is_bounded_unless_the_site_says_how() -> None:
    assert CacheTable().bytes == 50 * 10**9


def test_folders_and_files_of_the_cache_are_the_owner_s_alone(tmp_path: Path) -> None:
    work = tmp_path / "work"
    ExampleCache(work / "cache").write(example())
    make_scratch(work)
    made = [work, *work.rglob("*")]
    assert len(made) == 4
    assert [path for path in made if path.stat().st_mode & 0o077] == []
