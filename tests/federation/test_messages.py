"""Messages: what goes in comes out, through Flower's own serialisation, and nothing else does."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from federation import errors
from federation.errors import SoftwareError, UpdateError
from federation.iodeep.manifest import Reference
from federation.iodeep.weights import Tensor, weights_digest
from federation.messages import (
    REASONS,
    Code,
    Refusal,
    TrainAnswer,
    code_of,
    head_of,
    outline,
    pack,
    pack_parts,
    repack,
    unpack,
    unpack_parts,
    unpack_tensors,
)
from federation.software import software
from federation.values import Value

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


def of_release(content: RecordDict, release: str) -> RecordDict:
    record = dict(content.config_records["iodeep"]) | {"software": release}
    return RecordDict({**content, "iodeep": ConfigRecord(record)})


@pytest.mark.parametrize("value", [ANSWER, Refusal(site="A", code=Code.DATA)])
def test_a_message_of_another_release_is_refused_whoever_sends_it(value: Value) -> None:
    kind = type(value)
    content = pack(value)
    ours = software()
    series = ours.rpartition(".")[0]
    for release in (ours, f"{series}.999", ""):  # the last number may differ, or nobody says
        assert unpack(of_release(content, release), kind) == value
    for release in ("99.0.0", f"{series}.1.0", "\x1b[31m" * 100):
        with pytest.raises(SoftwareError, match="sites and the aggregator need") as error:
            unpack(of_release(content, release), kind)
        assert code_of(error.value) is Code.SOFTWARE
        assert str(error.value).isprintable()


def test_what_is_said_of_a_content_is_the_same_before_and_after_it_travelled() -> None:
    tensors = {
        "w": Tensor(dtype="F32", shape=(2,), pieces=(memoryview(np.float32([1, 2]).tobytes()),)),
        "b": Tensor(dtype="I64", shape=(), pieces=(memoryview(b"12345678"),)),
    }
    content = pack(ANSWER, tensors)
    seen = outline(content)
    assert outline(through_flower(content)) == seen
    assert (seen.kind, seen.weights) == ("TrainAnswer", weights_digest(tensors))
    assert seen.bytes == len(ANSWER.model_dump_json()) + 16
    others = [
        pack(ANSWER),
        pack(ANSWER.model_copy(update={"round": 2}), tensors),
        pack(ANSWER, {**tensors, "b": tensors["w"]}),
        RecordDict(),
    ]
    assert len({outline(one).digest for one in (content, *others)}) == 5
    again = repack(content, ANSWER.model_copy(update={"audit": HEAD}))
    assert outline(again).weights == seen.weights
    assert head_of(again) == HEAD == unpack(again, TrainAnswer).audit


HEAD = f"12:{'a' * 64}"


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "{}", '{"audit":1}', '{"audit":"1:2"}', '{"audit":null}', "[" * 10**5]
)
def test_a_head_that_is_none_is_not_believed(text: str) -> None:
    record = ConfigRecord({"kind": "TrainAnswer", "json": text})
    assert head_of(RecordDict({"iodeep": record})) is None


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
