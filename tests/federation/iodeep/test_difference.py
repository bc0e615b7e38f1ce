"""What differs between two versions: facts one by one, tensors against numpy."""

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.iodeep import difference
from federation.iodeep.architecture import Architecture
from federation.iodeep.codec import read_record, write_record
from federation.iodeep.difference import (
    Fact,
    TensorDifference,
    compare_manifests,
    compare_versions,
    compare_weights,
)
from federation.iodeep.header import Stamp
from federation.iodeep.manifest import OutputLabel, Reference
from federation.iodeep.weights import FLOATING, ITEM_BYTES, FileRange, Tensor, divide, join
from tests.federation.iodeep.records import LINE, version

NUMPY = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4",
         "I64": "<i8", "U8": "u1", "BOOL": "u1"}  # fmt: skip


def tensor(values: object, dtype: str = "F32") -> Tensor:
    array = np.asarray(values, NUMPY[dtype])
    return Tensor(dtype=dtype, shape=array.shape, pieces=(memoryview(array.tobytes()),))


def bfloat16(values: object) -> Tensor:
    """Values that bfloat16 holds exactly."""
    array = np.asarray(values, "<f4")
    upper = (array.view("<u4") >> 16).astype("<u2")
    return Tensor(dtype="BF16", shape=array.shape, pieces=(memoryview(upper.tobytes()),))


def compare(before: Tensor, after: Tensor) -> TensorDifference:
    (found,) = compare_weights({"w": before}, {"w": after})
    return found


# --- tensors ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["F16", "F32", "F64"])
@pytest.mark.parametrize("block", [1, 7, 100, 2**17])
def test_norms_are_numpys_whatever_the_blocks(
    dtype: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(difference, "_BLOCK", block)
    random = np.random.default_rng(1)
    before, after = (random.normal(size=(9, 11)).astype(NUMPY[dtype]) for _ in range(2))
    after[:4] = before[:4]
    found = compare(tensor(before, dtype), tensor(after, dtype))
    assert found.before is not None
    assert found.after is not None
    wide = before.astype("f8"), after.astype("f8")
    assert found.before.norm == pytest.approx(np.linalg.norm(wide[0]), rel=1e-12)
    assert found.after.norm == pytest.approx(np.linalg.norm(wide[1]), rel=1e-12)
    moved = np.linalg.norm(wide[1] - wide[0])
    assert found.difference == pytest.approx(moved, rel=1e-12)
    assert found.relative == pytest.approx(moved / np.linalg.norm(wide[0]), rel=1e-12)
    assert (found.change, found.differing) == ("values", np.count_nonzero(before != after))


def test_bfloat16_is_widened() -> None:
    found = compare(bfloat16([1.5, -2, 3]), bfloat16([1.5, -2, 7]))
    assert found.before is not None
    assert found.before.norm == pytest.approx(math.hypot(1.5, 2, 3))
    assert (found.differing, found.difference) == (1, 4)


@pytest.mark.parametrize("part_bytes", [1, 30, 44, 100, 10**9])
def test_slices_over_parts_are_one_tensor(part_bytes: int) -> None:
    random = np.random.default_rng(2)
    before, after = (tensor(random.normal(size=(20, 11))) for _ in range(2))
    sliced = join(divide({"w": after}, part_bytes))["w"]
    assert compare(before, sliced) == compare(before, after)
    assert compare(after, sliced).change == "same"


def test_equal_tensors_are_the_same_to_the_bit() -> None:
    found = compare(tensor([0.0, 1, math.nan]), tensor([0.0, 1, math.nan]))
    assert (found.change, found.differing, found.difference) == ("same", 0, 0)
    assert compare(tensor([0.0]), tensor([-0.0])).change == "values"


@pytest.mark.parametrize("dtype", ["I8", "I16", "I32", "I64", "U8", "BOOL"])
def test_integers_are_counted(dtype: str) -> None:
    found = compare(tensor([0, 1, 1, 0], dtype), tensor([1, 1, 1, 0], dtype))
    assert (found.differing, found.difference, found.relative) == (1, None, 0.25)
    assert found.before is not None
    assert found.before.norm is None


def test_another_dtype_is_compared_by_value_within_its_kind() -> None:
    halved = compare(tensor([1, 2, 0.1]), tensor([1, 2, 0.1], "F16"))
    assert (halved.change, halved.differing) == ("dtype", 1)
    assert halved.difference == pytest.approx(abs(float(np.float16(0.1)) - np.float32(0.1)))
    exact = compare(bfloat16([1, 2, math.nan]), tensor([1, 2, math.nan]))
    assert (exact.change, exact.differing, exact.difference) == ("dtype", 0, 0)
    wider = compare(tensor([1, -1], "I8"), tensor([1, 255], "I64"))
    assert (wider.change, wider.differing) == ("dtype", 1)
    other_kind = compare(tensor([1, 2]), tensor([1, 2], "I32"))
    assert (other_kind.change, other_kind.differing, other_kind.relative) == ("dtype", None, None)


def test_another_shape_has_norms_and_no_difference() -> None:
    found = compare(tensor([[3, 4]]), tensor([3, 4, 12]))
    assert found.before is not None
    assert found.after is not None
    assert (found.before.norm, found.after.norm) == (5, 13)
    assert (found.change, found.differing, found.difference) == ("shape", None, None)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    found = compare(tensor([3, math.nan, 4, math.inf]), tensor([3, 1, 5, -math.inf]))
    assert found.before is not None
    assert found.after is not None
    assert (found.before.not_finite, found.after.not_finite) == (2, 1)
    assert found.before.norm == pytest.approx(5)
    assert (found.differing, found.difference) == (3, 1)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_squares_neither_overflow_nor_vanish(size: float) -> None:
    found = compare(tensor([3 * size, 4 * size], "F64"), tensor([3 * size, -8 * size], "F64"))
    assert found.before is not None
    assert found.before.norm == pytest.approx(5 * size)
    assert found.difference == pytest.approx(12 * size)
    assert found.relative == pytest.approx(2.4)


def test_a_norm_beyond_float64_is_infinite_and_makes_no_ratio() -> None:
    found = compare(tensor([1.7e308], "F64"), tensor([-1.7e308], "F64"))
    assert (found.difference, found.relative) == (math.inf, None)


def test_from_nothing_but_zeros_there_is_no_ratio() -> None:
    assert compare(tensor([0, 0]), tensor([0, 1])).relative is None
    assert compare(tensor([0, 0]), tensor([0, 0])).relative == 0


@pytest.mark.parametrize("shape", [(0, 4), ()])
def test_empty_and_single_values(shape: tuple[int, ...]) -> None:
    found = compare(tensor(np.zeros(shape)), tensor(np.zeros(shape)))
    assert (found.change, found.relative) == ("same", 0)
    empty = compare(tensor(np.zeros(shape), "I64"), tensor(np.zeros(shape), "I8"))
    assert (empty.change, empty.relative) == ("dtype", 0)


def test_the_biggest_changes_come_first_and_counters_after_weights() -> None:
    same = {"same": tensor([1])}
    before = {
        "small": tensor([100]),
        "big": tensor([1]),
        "zero": tensor([0]),
        "gone": tensor([1]),
        "shaped": tensor([1]),
        "count": tensor([1], "I64"),
        "broken": tensor([1]),
        **same,
    }
    after = {"small": tensor([101]), "big": tensor([2]), "zero": tensor([1]), "new": tensor([1]),
             "shaped": tensor([1, 2]), "count": tensor([2], "I64"), "broken": tensor([math.inf]),
             **same}  # fmt: skip
    found = compare_weights(before, after)
    assert [one.name for one in found] == [
        "broken", "gone", "new", "shaped", "zero", "big", "small", "count", "same"
    ]  # fmt: skip
    assert {one.name: one.change for one in found if one.name in ("gone", "new")} == {
        "gone": "removed", "new": "added"
    }  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(ITEM_BYTES)), st.sampled_from(sorted(ITEM_BYTES)), st.data())
def test_any_bits_give_numbers(first: str, second: str, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, 5))
    sides = [
        Tensor(
            dtype=dtype,
            shape=(number,),
            pieces=(
                memoryview(data.draw(st.binary(min_size=(size := number * ITEM_BYTES[dtype]),
                                               max_size=size))),
            ),
        )
        for dtype in (first, second)
    ]  # fmt: skip
    found = compare(*sides)
    for norm in (found.difference, found.before and found.before.norm):
        assert norm is None or norm >= 0
    assert found.relative is None or math.isfinite(found.relative)
    if first in FLOATING and second in FLOATING:
        assert found.differing is not None


def test_memory_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    """Two of 64 MiB each, in a file and in memory, are compared in a few blocks' room."""
    values = np.ones(2**24, "<f4")
    path = tmp_path / "weights"
    path.write_bytes(values.tobytes())
    filed = FileRange(path=path, offset=0, nbytes=values.nbytes)
    before = Tensor(dtype="F32", shape=values.shape, pieces=(filed,))
    after = Tensor(dtype="F32", shape=values.shape, pieces=(memoryview(values).cast("B"),))
    tracemalloc.start()
    assert compare(before, after).change == "same"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 * 2**20


# --- manifests ----------------------------------------------------------------------------


def test_equal_manifests_have_equal_facts() -> None:
    one, _ = version()
    assert all(fact.same for fact in compare_manifests(one, one))


def test_facts_are_named_with_codes_and_argument_by_argument() -> None:
    one, _ = version()
    other = one.model_copy(
        update={
            "round": 1,
            "outputs": (
                OutputLabel.named(1, "posterior hippocampus"),
                OutputLabel(number=2, name="made up"),
            ),
            "architecture": Architecture(
                network="monai.UNet", arguments={"channels": [4, 16], "dropout": None}
            ),
            "lineage": one.lineage.model_copy(
                update={"parent": one.reference, "receipts": (), "strategy": "fedprox"}
            ),
        }
    )
    changed = {f"{f.section} {f.name}": f for f in compare_manifests(one, other) if not f.same}
    assert changed.keys() == {
        "labels output 1", "labels output 2", "architecture arguments.channels",
        "architecture arguments.dropout", "lineage round", "lineage parent", "lineage strategy",
        "lineage examples of A",
    }  # fmt: skip
    assert "Anterior (255549009, SCT)" in str(changed["labels output 1"].before)
    assert changed["labels output 2"].after == "made up: not coded"
    assert changed["architecture arguments.channels"].after == [4, 16]
    dropout = changed["architecture arguments.dropout"]
    assert (dropout.only, dropout.after) == ("after", None)
    assert changed["lineage examples of A"].only == "before"
    assert changed["lineage parent"].after == one.uid


def test_true_is_not_one() -> None:
    def fact(before: object, after: object) -> Fact:
        return Fact(section="s", name="n", before=before, after=after)

    assert not fact(True, 1).same
    assert not fact([True], [1]).same
    assert fact(1, 1.0).same  # one and the same manifest
    assert not Fact(section="s", name="n", before=None, after=None, only="after").same


# --- versions -----------------------------------------------------------------------------


def test_two_records_are_compared_whole(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    weights = random.normal(size=(40, 50)).astype("<f4")
    counts = {"n": tensor([1], "I64"), "flag": tensor([1], "BOOL")}
    records = []
    for number, values in enumerate((weights, 2 * weights)):
        parent = records[-1].version.reference if records else None
        manifest, parts = version(
            {"w": tensor(values), "b": tensor([0.5]), **counts},
            round=number,
            parent=parent,
            part_bytes=3000,
        )
        folder = tmp_path / str(number)
        folder.mkdir()
        records.append(read_record(write_record(folder, manifest, parts, Stamp.now())))
    found = compare_versions(*records)
    assert found.before.line == LINE
    assert found.totals.tensors == {"values": 1, "same": 3}
    assert (found.totals.values, found.totals.differing) == (2003, 2000)
    assert found.totals.difference == pytest.approx(np.linalg.norm(weights.astype("f8")))
    assert found.totals.relative == pytest.approx(1, abs=1e-3)
    assert found.totals.not_finite_after == 0
    assert repr(found).endswith("1 of 4 tensors)")
    sections = {fact.section for fact in found.facts if not fact.same}
    assert sections == {"lineage", "weights"}
    assert json.dumps([fact.after for fact in found.facts], allow_nan=False)
    parent = next(fact for fact in found.facts if fact.name == "parent")
    assert parent.after == Reference.model_validate(records[0].version.reference).uid
