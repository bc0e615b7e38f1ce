"""Weights as named tensors, and the safetensors parts they travel and rest in.

A part is a complete safetensors file (https://github.com/huggingface/safetensors):
8 bytes of header length (little-endian), a JSON header padded with spaces to a multiple
of 8, then the tensors' bytes without holes. Tensors lie by falling item size, then by name,
and there is no ``__metadata__``, so that equal tensors make equal bytes. No torch here:
:mod:`federation.networks.state` turns tensors into a module's state and back.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from federation.errors import CodecError

ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "F32": 4,
    "I64": 8,
    "F64": 8,
}
FLOATING = frozenset({"F16", "BF16", "F32", "F64"})
PART_BYTES = 256 * 2**20
MAX_HEADER_BYTES = 16 * 2**20
MAX_DIMENSIONS = 8

_ALIGNMENT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """Raw little-endian, C-order bytes with their dtype (safetensors' names) and shape.

    Raises :class:`CodecError` where the bytes are not as many as dtype and shape say.
    """

    dtype: str
    shape: tuple[int, ...]
    data: memoryview

    def __post_init__(self) -> None:
        expected = tensor_bytes(self.dtype, self.shape)
        if self.data.nbytes != expected:
            raise CodecError(
                f"a tensor of {self.dtype} {self.shape} has {self.data.nbytes} bytes; "
                f"expected {expected}"
            )

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}, {list(self.shape)})"


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """How many bytes a tensor takes. Raises :class:`CodecError` for what cannot be one."""
    if dtype not in ITEM_BYTES:
        raise CodecError(f"unknown dtype {dtype!r:.40}; expected one of {', '.join(ITEM_BYTES)}")
    if len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise CodecError(f"{list(shape)!r:.80} is no shape of at most {MAX_DIMENSIONS} dimensions")
    return math.prod(shape) * ITEM_BYTES[dtype]


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted lines ``name dtype shape sha256(bytes)``, hex.

    Does not depend on the order of tensors nor on how they are divided into parts.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        shape = ",".join(str(size) for size in tensor.shape)
        digest.update(f"{name} {tensor.dtype} [{shape}] {tensor.sha256()}\n".encode())
    return digest.hexdigest()


def divide(tensors: Mapping[str, Tensor], part_bytes: int = PART_BYTES) -> list[dict[str, Tensor]]:
    """Whole tensors, by name, in parts of at most ``part_bytes`` of data.

    A tensor larger than that makes a part of its own.
    """
    parts: list[dict[str, Tensor]] = []
    room = 0
    for name in sorted(tensors):
        size = tensors[name].data.nbytes
        if not parts or size > room:
            parts.append({})
            room = part_bytes
        parts[-1][name] = tensors[name]
        room -= size
    return parts


def part_chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of one part, piece by piece: nothing is copied but the header."""
    names = sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name].dtype], name))
    header: dict[str, Any] = {}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.data.nbytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield struct.pack("<Q", len(text)) + text
    for name in names:
        yield tensors[name].data


def read_part(part: memoryview) -> dict[str, Tensor]:
    """The tensors of one part, as views into ``part``.

    The header is not believed: its length, every dtype, shape and extent are checked before
    anything is built, and extents must cover the data without holes or overlaps. Raises
    :class:`CodecError`.
    """
    header, data = _split_header(part)
    tensors: dict[str, Tensor] = {}
    covered = 0
    for name, begin, end, dtype, shape in sorted(_entries(header), key=lambda entry: entry[1]):
        if begin != covered or end < begin or end > data.nbytes:
            raise CodecError(
                f"tensor {name!r:.80} claims bytes {begin} to {end} of {data.nbytes}; "
                f"expected them to start at {covered}, without holes or overlaps"
            )
        tensors[name] = Tensor(dtype=dtype, shape=shape, data=data[begin:end])
        covered = end
    if covered != data.nbytes:
        raise CodecError(f"{data.nbytes - covered} bytes of the part belong to no tensor")
    return tensors


def _split_header(part: memoryview) -> tuple[dict[str, Any], memoryview]:
    if part.nbytes < 8:
        raise CodecError(f"a part of {part.nbytes} bytes is no safetensors file")
    (length,) = struct.unpack("<Q", part[:8])
    if length > min(MAX_HEADER_BYTES, part.nbytes - 8):
        raise CodecError(
            f"the safetensors header claims {length} bytes; the part has {part.nbytes} "
            f"and {MAX_HEADER_BYTES} are allowed"
        )
    try:
        header = json.loads(bytes(part[8 : 8 + length]), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CodecError("the safetensors header is no JSON object with unique names") from error
    if not isinstance(header, dict):
        raise CodecError("the safetensors header is no JSON object")
    return header, part[8 + length :]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a name occurs twice")
    return mapping


def _entries(header: dict[str, Any]) -> Iterator[tuple[str, int, int, str, tuple[int, ...]]]:
    for name, entry in header.items():
        match entry:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end], **rest} if (
                not rest and all(type(number) is int for number in (*shape, begin, end))
            ):
                yield name, begin, end, dtype, tuple(shape)
            case _:
                raise CodecError(
                    f"safetensors entry {name!r:.80} is not of the form dtype, shape, data_offsets"
                )
