"""Weight parts: what is written is read, and a header that lies is refused."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import CodecError
from federation.iodeep.weights import Tensor, divide, part_chunks, read_part, weights_digest


def tensor(values: np.ndarray, dtype: str) -> Tensor:
    return Tensor(dtype=dtype, shape=values.shape, data=memoryview(values.tobytes()))


def some_tensors() -> dict[str, Tensor]:
    return {
        "conv.weight": tensor(np.arange(24, dtype="<f4").reshape(2, 3, 4), "F32"),
        "conv.half": tensor(np.arange(5, dtype="<u2"), "BF16"),
        "norm.count": tensor(np.array(7, dtype="<i8"), "I64"),
        "flag": tensor(np.array([1, 0, 1], dtype="u1"), "BOOL"),
        "empty": tensor(np.zeros((0, 4), dtype="<f4"), "F32"),
    }


def as_part(tensors: dict[str, Tensor]) -> bytes:
    return b"".join(bytes(chunk) for chunk in part_chunks(tensors))


def test_a_part_reads_back_bit_for_bit() -> None:
    written = some_tensors()
    read = read_part(memoryview(as_part(written)))
    assert {n: (t.dtype, t.shape, bytes(t.data)) for n, t in read.items()} == {
        n: (t.dtype, t.shape, bytes(t.data)) for n, t in written.items()
    }


def test_a_part_is_a_safetensors_file_that_the_library_reads() -> None:
    tensors = {name: t for name, t in some_tensors().items() if t.dtype != "BF16"}
    loaded = safetensors.numpy.load(as_part(tensors))
    assert loaded.keys() == tensors.keys()
    np.testing.assert_array_equal(loaded["conv.weight"], np.arange(24).reshape(2, 3, 4))


def test_a_part_written_by_the_library_is_read() -> None:
    values = {"b": np.ones((3,), np.float32), "a": np.arange(4, dtype=np.int64)}
    read = read_part(memoryview(safetensors.numpy.save(values)))
    assert bytes(read["a"].data) == values["a"].tobytes()


def test_equal_tensors_make_equal_bytes_in_any_order() -> None:
    tensors = some_tensors()
    assert as_part(tensors) == as_part(dict(reversed(tensors.items())))


def test_the_digest_does_not_depend_on_parts_but_on_every_byte() -> None:
    tensors = some_tensors()
    again: dict[str, Tensor] = {}
    for part in divide(tensors, part_bytes=16):
        again |= read_part(memoryview(as_part(part)))
    assert weights_digest(again) == weights_digest(tensors)
    changed = bytearray(tensors["conv.weight"].data)
    changed[-1] ^= 1
    again["conv.weight"] = Tensor(dtype="F32", shape=(2, 3, 4), data=memoryview(changed))
    assert weights_digest(again) != weights_digest(tensors)


@pytest.mark.parametrize(
    ("part_bytes", "sizes"),
    [(10**9, [5]), (100, [1, 3, 1]), (1, [1, 1, 1, 1, 1])],
)
def test_parts_hold_whole_tensors(part_bytes: int, sizes: list[int]) -> None:
    parts = divide(some_tensors(), part_bytes)
    assert sorted(len(part) for part in parts) == sorted(sizes)
    assert sum(len(part) for part in parts) == 5


def lying(header: object, data: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: object, end: object, shape: object = (2,), dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"\0" * 7,
        lying({}, length=2**31),
        lying({}, length=2**63),
        lying(b"not json"),
        lying([1, 2]),
        lying(b"[" * 100_000),
        lying(b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}, "a": 1}'),
        lying({"a": entry(0, 8, dtype="F99")}),
        lying({"a": entry(0, 8, shape=[-2])}),
        lying({"a": entry(0, 8, shape=[2**40, 2**40])}),
        lying({"a": entry(0, 8, shape=[1] * 30)}),
        lying({"a": entry(0, 8, shape=[2.0])}),
        lying({"a": entry(0, 8, shape=[True, 2])}),
        lying({"a": entry(-8, 0)}),
        lying({"a": entry(0, 2**33)}),
        lying({"a": entry(0, 4, shape=[1])}),
        lying({"a": entry(0, 8), "b": entry(4, 8, shape=[1])}),
        lying({"a": entry(4, 8, shape=[1])}),
        lying({"a": {**entry(0, 8), "more": 1}}),
        lying({"__metadata__": {"x": "y"}, "a": entry(0, 8)}),
    ],
)
def test_a_header_that_lies_is_refused(part: bytes) -> None:
    with pytest.raises(CodecError):
        read_part(memoryview(part))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_any_bytes_are_read_or_refused_never_worse(junk: bytes, position: int, value: int) -> None:
    part = bytearray(as_part(some_tensors()))
    part[position % len(part)] = value
    for bytes_ in (junk, bytes(part), bytes(part[: position % len(part)])):
        try:
            read_part(memoryview(bytes_))
        except CodecError:
            continue


def test_a_tensor_whose_bytes_do_not_fit_is_refused() -> None:
    with pytest.raises(CodecError, match="expected 16"):
        Tensor(dtype="F32", shape=(4,), data=memoryview(b"12"))
