"""Weights as named tensors, and the safetensors parts they travel and rest in.

A part is a complete safetensors file (https://github.com/huggingface/safetensors):
8 bytes of header length (little-endian), a JSON header padded with spaces to a multiple
of 8, then the tensors' bytes without holes. Tensors lie by falling item size, then by name,
and there is no ``__metadata__``, so that equal tensors make equal bytes. A tensor too large
for one part is sliced along its first axis: successive parts hold its slices under its name.

Bytes lie in memory or in a file, and are looked at a chunk at a time, so that memory does not
grow with the model. No torch here: :mod:`federation.networks.state` turns tensors into a
module's state and back.
"""

import hashlib
import json
import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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
MAX_SIZE = 2**63 - 1  # of a dimension, as in numpy and torch; a longer number may not even print

_ALIGNMENT = 8
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRange:
    """Bytes ``offset`` to ``offset + nbytes`` of a file; nothing is read until asked for."""

    path: Path
    offset: int
    nbytes: int

    def __getitem__(self, part: slice) -> "FileRange":
        begin, end, _ = part.indices(self.nbytes)
        return replace(self, offset=self.offset + begin, nbytes=max(0, end - begin))

    def chunks(self) -> Iterator[memoryview]:
        """The bytes, read a chunk at a time."""
        left = self.nbytes
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while left:
                chunk = file.read(min(_CHUNK_BYTES, left))
                if not chunk:
                    raise CodecError(f"{self.path.name} ends {left} bytes too early")
                left -= len(chunk)
                yield memoryview(chunk)

    def view(self) -> memoryview:
        """The bytes, mapped from the file."""
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        end = self.offset + self.nbytes
        if not self.nbytes:
            return memoryview(b"")
        with self.path.open("rb") as file:
            # ACCESS_COPY: torch warns about read-only memory. Nothing is ever written.
            mapped = mmap.mmap(file.fileno(), end - start, access=mmap.ACCESS_COPY, offset=start)
        return memoryview(mapped)[self.offset - start :]


Bytes = memoryview | FileRange


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """Raw little-endian, C-order bytes with their dtype (safetensors' names) and shape.

    The bytes lie in one piece or, as slices along the first axis, in several. Raises
    :class:`CodecError` where they are not as many as dtype and shape say.
    """

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Bytes, ...]

    def __post_init__(self) -> None:
        expected = tensor_bytes(self.dtype, self.shape)
        if self.nbytes != expected:
            raise CodecError(
                f"a tensor of {self.dtype} {self.shape} has {self.nbytes} bytes; "
                f"expected {expected}"
            )

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def data(self) -> memoryview:
        """The bytes: a view of the one piece, or a copy that joins several."""
        views = list(self.views())
        return views[0] if len(views) == 1 else memoryview(b"".join(views))

    def views(self) -> Iterator[memoryview]:
        """The bytes, piece by piece, those in a file mapped."""
        for piece in self.pieces:
            yield piece.view() if isinstance(piece, FileRange) else piece

    def chunks(self) -> Iterator[memoryview]:
        """The bytes, a chunk at a time."""
        for piece in self.pieces:
            if isinstance(piece, FileRange):
                yield from piece.chunks()
            else:
                yield piece

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def rows(self, begin: int, end: int) -> "Tensor":
        """The slice ``begin`` to ``end`` along the first axis; nothing is copied."""
        row = self.nbytes // self.shape[0]
        first, last = begin * row, end * row
        pieces: list[Bytes] = []
        for piece in self.pieces:
            if first < piece.nbytes and last > 0:
                pieces.append(piece[max(first, 0) : last])
            first, last = first - piece.nbytes, last - piece.nbytes
        return Tensor(dtype=self.dtype, shape=(end - begin, *self.shape[1:]), pieces=tuple(pieces))

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}, {list(self.shape)})"


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """How many bytes a tensor takes. Raises :class:`CodecError` for what cannot be one."""
    if dtype not in ITEM_BYTES:
        raise CodecError(f"unknown dtype {dtype!r:.40}; expected one of {', '.join(ITEM_BYTES)}")
    if len(shape) > MAX_DIMENSIONS or not all(0 <= size <= MAX_SIZE for size in shape):
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
    """Tensors, by name, in parts of at most ``part_bytes`` of data.

    A tensor larger than that is sliced along its first axis; one row of it that is larger
    still makes a part of its own.
    """
    parts: list[dict[str, Tensor]] = []
    room = 0
    for name in sorted(tensors):
        for piece in _slices(tensors[name], part_bytes):
            if not parts or piece.nbytes > room or name in parts[-1]:
                parts.append({})
                room = part_bytes
            parts[-1][name] = piece
            room -= piece.nbytes
    return parts


def _slices(tensor: Tensor, part_bytes: int) -> Iterator[Tensor]:
    if tensor.nbytes <= part_bytes or not tensor.shape:
        yield tensor
        return
    rows = max(1, part_bytes // (tensor.nbytes // tensor.shape[0]))
    for begin in range(0, tensor.shape[0], rows):
        yield tensor.rows(begin, min(begin + rows, tensor.shape[0]))


def join(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all parts, those that :func:`divide` sliced made whole; nothing is copied.

    Raises :class:`CodecError` where a name comes back that is no next slice.
    """
    tensors: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        for name, found in part.items():
            before = tensors.get(name)
            if before is None:
                tensors[name] = found
                continue
            follows = name in parts[number - 1] and before.shape and found.shape
            if not follows or (before.dtype, before.shape[1:]) != (found.dtype, found.shape[1:]):
                raise CodecError(
                    f"part {number + 1} holds {name!r:.80}, as does an earlier one, "
                    "and is not its next slice"
                )
            tensors[name] = Tensor(
                dtype=found.dtype,
                shape=(before.shape[0] + found.shape[0], *found.shape[1:]),
                pieces=(*before.pieces, *found.pieces),
            )
    return tensors


def part_chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of one part, piece by piece: nothing is copied but the header."""
    names = sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name].dtype], name))
    header: dict[str, Any] = {}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.nbytes
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
        yield from tensors[name].chunks()


def read_part(part: Bytes) -> dict[str, Tensor]:
    """The tensors of one part, as ranges of ``part``.

    The header is not believed: its length, every dtype, shape and extent are checked before
    anything is built, and extents must cover the data without holes or overlaps. Raises
    :class:`CodecError`.
    """
    header, data = _split_header(part)
    tensors: dict[str, Tensor] = {}
    covered = 0
    for name, begin, end, dtype, shape in sorted(_entries(header), key=lambda entry: entry[1]):
        if begin != covered or end > data.nbytes:
            raise CodecError(
                f"tensor {name!r:.80} claims bytes {begin} to {end} of {data.nbytes}; "
                f"expected them to start at {covered}, without holes or overlaps"
            )
        tensors[name] = Tensor(dtype=dtype, shape=shape, pieces=(data[begin:end],))
        covered = end
    if covered != data.nbytes:
        raise CodecError(f"{data.nbytes - covered} bytes of the part belong to no tensor")
    return tensors


def _split_header(part: Bytes) -> tuple[dict[str, Any], Bytes]:
    if part.nbytes < 8:
        raise CodecError(f"a part of {part.nbytes} bytes is no safetensors file")
    (length,) = struct.unpack("<Q", _read(part[:8]))
    if length > min(MAX_HEADER_BYTES, part.nbytes - 8):
        raise CodecError(
            f"the safetensors header claims {length} bytes; the part has {part.nbytes} "
            f"and {MAX_HEADER_BYTES} are allowed"
        )
    try:
        # Decoded here, as json.loads would guess UTF-16 too, which safetensors is not.
        header = json.loads(_read(part[8 : 8 + length]).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CodecError("the safetensors header is no JSON object with unique names") from error
    if not isinstance(header, dict):
        raise CodecError("the safetensors header is no JSON object")
    return header, part[8 + length :]


def _read(part: Bytes) -> bytes:
    chunks = part.chunks() if isinstance(part, FileRange) else (part,)
    return b"".join(bytes(chunk) for chunk in chunks)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError where a name occurs twice, or is half a character by its escapes."""
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a name occurs twice")
    "".join(mapping).encode()
    return mapping


def _entries(header: dict[str, Any]) -> Iterator[tuple[str, int, int, str, tuple[int, ...]]]:
    for name, entry in header.items():
        match entry:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end], **rest} if (
                not rest
                and all(type(number) is int for number in (*shape, begin, end))
                and 0 <= begin <= end <= MAX_SIZE
            ):
                yield name, begin, end, dtype, tuple(shape)
            case _:
                raise CodecError(
                    f"safetensors entry {name!r:.80} is not of the form dtype, shape, data_offsets"
                )
