"""Weight parts: what is written is read, and a header that lies is refused."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import CodecError
from federation.iodeep.weights import (
    FileRange,
    Tensor,
    divide,
    join,
    part_chunks,
    read_part,
    weights_digest,
)


def tensor(values: np.ndarray, dtype: str) -> Tensor:
    return Tensor(dtype=dtype, shape=values.shape, pieces=(memoryview(values.tobytes()),))


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
    again = join([read_part(memoryview(as_part(part))) for part in divide(tensors, part_bytes=16)])
    assert weights_digest(again) == weights_digest(tensors)
    changed = bytearray(tensors["conv.weight"].data)
    changed[-1] ^= 1
    again["conv.weight"] = Tensor(dtype="F32", shape=(2, 3, 4), pieces=(memoryview(changed),))
    assert weights_digest(again) != weights_digest(tensors)


@pytest.mark.parametrize("part_bytes", [10**9, 100, 49, 48, 33, 16, 1])
def test_parts_keep_to_their_size_and_join_to_what_was_divided(part_bytes: int) -> None:
    tensors = some_tensors()
    parts = divide(tensors, part_bytes)
    row = 48  # of the largest tensor; one row is never divided
    assert all(sum(t.nbytes for t in part.values()) <= max(part_bytes, row) for part in parts)
    joined = join([read_part(memoryview(as_part(part))) for part in parts])
    assert {name: (t.dtype, t.shape, bytes(t.data)) for name, t in joined.items()} == {
        name: (t.dtype, t.shape, bytes(t.data)) for name, t in tensors.items()
    }


def test_a_slice_of_slices_is_the_same_rows() -> None:
    whole = tensor(np.arange(24, dtype="<f4").reshape(8, 3), "F32")
    pieces = join([{"w": whole.rows(0, 3)}, {"w": whole.rows(3, 4)}, {"w": whole.rows(4, 8)}])["w"]
    assert len(pieces.pieces) == 3
    for begin in range(8):
        for end in range(begin + 1, 9):
            assert bytes(pieces.rows(begin, end).data) == bytes(whole.rows(begin, end).data)


@pytest.mark.parametrize(
    ("second", "third"),
    [
        (np.zeros((2, 4), "<f4"), None),
        (np.zeros((2, 3), "<i4"), None),
        (np.zeros((), "<f4"), None),
        (None, np.zeros((2, 3), "<f4")),
    ],
    ids=["other row", "other dtype", "no axis", "not the next part"],
)
def test_what_is_no_next_slice_is_refused(
    second: np.ndarray | None, third: np.ndarray | None
) -> None:
    names = {"float32": "F32", "int32": "I32"}
    parts = [
        {"w": tensor(values, names[str(values.dtype)])} if values is not None else {}
        for values in (np.zeros((2, 3), "<f4"), second, third)
    ]
    with pytest.raises(CodecError, match="not its next slice"):
        join(parts)


def test_bytes_in_a_file_are_read_by_chunks_and_a_short_file_is_an_error(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 * 2**20 + 5)
    path = tmp_path / "weights"
    path.write_bytes(b"head" + data)
    found = FileRange(path=path, offset=4, nbytes=len(data))
    assert b"".join(found.chunks()) == data == bytes(found.view())
    assert b"".join(found[7:2_000_000].chunks()) == data[7:2_000_000]
    path.write_bytes(data[:100])
    with pytest.raises(CodecError, match="ends"):
        list(found.chunks())


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
        Tensor(dtype="F32", shape=(4,), pieces=(memoryview(b"12"),))


def test_a_name_that_is_half_a_character_is_refused() -> None:
    with pytest.raises(CodecError, match="unique names"):
        read_part(
            memoryview(lying(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'))
        )


def test_a_header_in_utf_16_is_refused_as_the_library_does() -> None:
    text = json.dumps({"a": entry(0, 8)}).encode("utf-16")
    with pytest.raises(safetensors.SafetensorError):
        safetensors.numpy.load(lying(text))
    with pytest.raises(CodecError, match="no JSON object"):
        read_part(memoryview(lying(text)))


@pytest.mark.parametrize("size", [2**63, 10**4000])
def test_a_size_that_no_array_can_have_is_refused(size: int) -> None:
    """Three of the larger one make a number that Python does not print."""
    for shape, data in (([size, size, size], b"\0" * 8), ([0, size], b"")):
        with pytest.raises(CodecError, match="is no shape"):
            read_part(memoryview(lying({"a": entry(0, len(data), shape=shape)}, data)))


def test_a_message_does_not_repeat_a_number_of_thousands_of_digits() -> None:
    for offsets in ((0, 10**4000), (10**4000, 10**4000), (-(10**4000), 8)):
        with pytest.raises(CodecError) as raised:
            read_part(memoryview(lying({"a": entry(*offsets)})))
        assert len(str(raised.value)) < 300
