"""Messages: what goes in comes out, through Flower's own serialisation, and nothing else does."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from federation import errors
from federation.errors import UpdateError
from federation.iodeep.manifest import Reference
from federation.iodeep.weights import Tensor
from federation.messages import (
    REASONS,
    Code,
    Refusal,
    TrainAnswer,
    code_of,
    pack,
    pack_parts,
    unpack,
    unpack_parts,
    unpack_tensors,
)

ANSWER = TrainAnswer(
    site="A",
    round=1,
    start=Reference(uid="2.25.1", digest="0" * 64),
    examples=3,
    metrics={"loss": 0.25},
)


def through_flower(content: RecordDict) -> RecordDict:
    """As if it had travelled: to Flower's protocol buffer's bytes and back."""
    sent = recorddict_to_proto(content).SerializeToString()
    return recorddict_from_proto(ProtoRecordDict.FromString(sent))


def test_an_answer_and_its_tensors_come_back_bit_for_bit() -> None:
    tensors = {
        "w": Tensor(dtype="F32", shape=(2,), pieces=(memoryview(np.float32([1, 2]).tobytes()),)),
        "half": Tensor(dtype="BF16", shape=(1, 1), pieces=(memoryview(b"\x80\x3f"),)),
        "count": Tensor(dtype="I64", shape=(), pieces=(memoryview(b"12345678"),)),
    }
    content = through_flower(pack(ANSWER, tensors))
    assert unpack(content, TrainAnswer) == ANSWER
    back = unpack_tensors(content)
    assert {n: (t.dtype, t.shape, bytes(t.data)) for n, t in back.items()} == {
        n: (t.dtype, t.shape, bytes(t.data)) for n, t in tensors.items()
    }


def test_parts_travel_whole_and_in_order() -> None:
    parts = [memoryview(bytes([n]) * n) for n in range(1, 13)]
    content = through_flower(pack(ANSWER, pack_parts(parts)))
    assert [bytes(part) for part in unpack_parts(content)] == [bytes(part) for part in parts]


def with_array(array: Array) -> RecordDict:
    content = pack(ANSWER)
    content["arrays"] = ArrayRecord({"w": array})
    return content


@pytest.mark.parametrize(
    "array",
    [
        Array("F32", (3,), "iodeep.raw", b"1234"),
        Array("F32", (2**40, 2**40), "iodeep.raw", b"1234"),
        Array("F32", (-1,), "iodeep.raw", b"1234"),
        Array("object", (1,), "iodeep.raw", b"1234"),
        Array("F32", (1,), "numpy.ndarray", b"1234"),
    ],
)
def test_tensors_that_lie_are_refused(array: Array) -> None:
    with pytest.raises(UpdateError):
        unpack_tensors(with_array(array))


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"iodeep": ConfigRecord({"kind": "TrainAnswer"})}),
        RecordDict({"iodeep": ConfigRecord({"kind": "TrainAnswer", "json": b"{}"})}),
        RecordDict({"iodeep": ConfigRecord({"kind": "TrainAnswer", "json": "{}"})}),
        RecordDict({"iodeep": ConfigRecord({"kind": "Refusal", "json": "{}"})}),
        RecordDict({"iodeep": ConfigRecord({"kind": "TrainAnswer", "json": "[" * 10**5})}),
        pack(ANSWER.model_copy(update={"examples": -1})),
        pack(ANSWER.model_copy(update={"metrics": {f"m{n}": 0.0 for n in range(1000)}})),
    ],
)
def test_a_content_that_is_none_is_refused(content: RecordDict) -> None:
    with pytest.raises(UpdateError):
        unpack(content, TrainAnswer)


ALL_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type)]


def test_every_error_has_a_code_with_a_fixed_reason_and_keeps_its_text() -> None:
    for kind in ALL_ERRORS:
        refusal = Refusal(site="A", code=code_of(kind("Patient MUELLER^ANNA")))
        assert refusal.reason == REASONS[refusal.code]
        assert "MUELLER" not in str(pack(refusal))
    assert code_of(RuntimeError("x")) == Code.INTERNAL
    assert set(REASONS) == set(Code)


def test_the_error_tree_in_the_docstring_is_the_real_one() -> None:
    drawn = errors.__doc__ or ""
    assert all(kind.__name__ in drawn for kind in ALL_ERRORS)
