"""Walks over a Part 10 file's elements without holding any but those that are wanted.

pydicom builds what it reads: a data set of millions of tiny elements, or one that inflates to a
thousand times its size, would fill the memory of an archive that takes it from a stranger. Here
everything is stepped over, and the walk still proves that the data set is whole.
"""

import struct
import zlib
from collections.abc import Set
from io import BufferedReader
from pathlib import Path
from typing import IO, Final, Protocol, Self

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

MAX_VALUE_BYTES = 16384
"""Of a wanted element: those indexed may have 64 characters, or a name of three times 64."""
MAX_ELEMENTS = 4_000_000
"""Stepped over one by one; those in sequences of known length are not."""
MAX_DEPTH = 64
"""Of sequences of unknown length within each other."""
MAX_INFLATED_BYTES = 2**32

_UNKNOWN = 0xFFFFFFFF
_DELIMITERS = 0xFFFE
_ITEM, _ITEM_ENDS, _SEQUENCE_ENDS = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_META_GROUP = b"\x02\x00"
_TRANSFER_SYNTAX = 0x00020010
_LONG: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
"""VRs whose length has 32 bits (PS3.5 Section 7.1.2)."""
_CHUNK_BYTES = 65536

Elements = dict[int, bytes]
"""Values by tag, as they are encoded."""


class NotWalkable(Exception):
    """The bytes are no whole data set, or one beyond the limits; the text says which."""


def read_elements(path: Path, wanted: Set[int]) -> tuple[Elements, Elements, str]:
    """The wanted elements of a Part 10 file's meta and of its data set; its transfer syntax.

    Only elements of the data set itself are found, not those within sequences. Raises
    :class:`NotWalkable`, and :class:`OSError` where the file cannot be read.
    """
    with path.open("rb") as file:
        source = _File(file, path.stat().st_size)
        if source.read(132)[128:] != b"DICM":
            raise NotWalkable("it is no DICOM file")
        meta = _read_meta(source, wanted | {_TRANSFER_SYNTAX})
        syntax = meta.pop(_TRANSFER_SYNTAX, b"").rstrip(b"\0 ").decode("ascii", "replace")
        if not syntax:
            raise NotWalkable("its file meta names no transfer syntax")
        data: _Source = _Inflated(file) if syntax == DeflatedExplicitVRLittleEndian else source
        return meta, _walk(data, _Encoding.of(syntax), wanted), syntax


# --- where bytes come from ----------------------------------------------------------------


class _Source(Protocol):
    def at_end(self) -> bool:
        """Whether everything was read."""

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes. Raises :class:`NotWalkable` where there are fewer."""

    def skip(self, count: int) -> None:
        """Step over ``count`` bytes. Raises :class:`NotWalkable` where there are fewer."""


_CUT_SHORT = "it is cut short, or its lengths do not add up"


class _File:
    def __init__(self, file: BufferedReader, size: int) -> None:
        self._file = file
        self._left = size

    def at_end(self) -> bool:
        return self._left == 0

    def read(self, count: int) -> bytes:
        self._left -= count
        if self._left < 0:
            raise NotWalkable(_CUT_SHORT)
        return self._file.read(count)

    def skip(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise NotWalkable(_CUT_SHORT)
        self._file.seek(count, 1)

    def peek(self, count: int) -> bytes:
        return self._file.peek(count)[:count]


class _Inflated:
    """A deflated data set (PS3.5 Section A.5), a piece at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._piece = b""
        self._at = 0
        self._inflated = 0

    def at_end(self) -> bool:
        if self._at == len(self._piece):
            self._next()
        return not self._piece

    def read(self, count: int) -> bytes:
        found = self._piece[self._at : self._at + count]
        self._at += len(found)
        while len(found) < count:
            self._need()
            more = self._piece[: count - len(found)]
            self._at = len(more)
            found += more
        return found

    def skip(self, count: int) -> None:
        while count > len(self._piece) - self._at:
            count -= len(self._piece) - self._at
            self._need()
        self._at += count

    def _need(self) -> None:
        self._next()
        if not self._piece:
            raise NotWalkable(_CUT_SHORT)

    def _next(self) -> None:
        """The next piece; an empty one at the end, which only a whole stream has."""
        self._piece, self._at = b"", 0
        while not self._piece and not self._inflate.eof:
            deflated = self._inflate.unconsumed_tail or self._file.read(_CHUNK_BYTES)
            try:
                self._piece = self._inflate.decompress(deflated, _CHUNK_BYTES)
            except zlib.error:
                raise NotWalkable("it cannot be inflated") from None
            if not deflated and not self._piece:
                raise NotWalkable(_CUT_SHORT)
        if self._inflate.eof and (self._inflate.unused_data + self._file.read(2)).strip(b"\0"):
            raise NotWalkable("more than padding follows its end")
        self._inflated += len(self._piece)
        if self._inflated > MAX_INFLATED_BYTES:
            raise NotWalkable(f"it inflates to more than {MAX_INFLATED_BYTES} bytes")


# --- walking ------------------------------------------------------------------------------


def _read_meta(source: _File, wanted: Set[int]) -> Elements:
    """Group 0002, which is always in Explicit VR Little Endian."""
    meta: Elements = {}
    encoding = _Encoding.of(ExplicitVRLittleEndian)
    for _ in range(MAX_ELEMENTS):
        if source.at_end() or source.peek(2) != _META_GROUP:
            return meta
        tag, _, length = encoding.header(source)
        if tag not in wanted:
            source.skip(length)
        elif length > MAX_VALUE_BYTES:
            raise NotWalkable("its file meta has a value longer than any that belongs there")
        else:
            meta[tag] = source.read(length)
    raise NotWalkable(f"it has more than {MAX_ELEMENTS} elements")


class _Encoding:
    """How the elements of a data set are encoded: byte order, and VRs written or not."""

    __slots__ = ("_explicit", "_tag", "_u2", "_u4")

    def __init__(self, *, order: str, explicit: bool) -> None:
        self._explicit = explicit
        self._tag = struct.Struct(f"{order}HH4s").unpack
        self._u2 = struct.Struct(f"{order}H").unpack
        self._u4 = struct.Struct(f"{order}L").unpack

    @classmethod
    def of(cls, syntax: str) -> Self:
        return cls(
            order=">" if syntax == ExplicitVRBigEndian else "<",
            explicit=syntax != ImplicitVRLittleEndian,
        )

    def header(self, source: _Source) -> tuple[int, bytes, int]:
        """Tag, VR (where it is written) and length of the next element or delimiter."""
        group, element, rest = self._tag(source.read(8))
        vr = rest[:2]
        # Some writers fall back to implicit VR, in sequences most of all: as pydicom, go along.
        if group == _DELIMITERS or not (self._explicit and b"AA" <= vr <= b"ZZ"):
            return group << 16 | element, b"", self._u4(rest)[0]
        if vr in _LONG:
            return group << 16 | element, vr, self._u4(source.read(4))[0]
        return group << 16 | element, vr, self._u2(rest[2:])[0]


# Within an UN of unknown length, whatever is around it (PS3.5 Section 6.2.2).
_IN_UN = _Encoding(order="<", explicit=False)


def _walk(source: _Source, encoding: _Encoding, wanted: Set[int]) -> Elements:
    found: Elements = {}
    around: list[_Encoding] = []  # of the data sets around each open sequence of unknown length
    in_item = False
    for _ in range(MAX_ELEMENTS):
        if not around and source.at_end():
            return found
        tag, vr, length = encoding.header(source)
        if around and not in_item:
            if tag == _SEQUENCE_ENDS:
                encoding, in_item = around.pop(), True
            elif tag != _ITEM:
                raise NotWalkable("a sequence holds what is no item")
            elif length == _UNKNOWN:
                in_item = True
            else:
                source.skip(length)
        elif around and tag == _ITEM_ENDS:
            in_item = False
        elif tag >> 16 == _DELIMITERS:
            raise NotWalkable("it has a delimiter where none belongs")
        elif length == _UNKNOWN:
            if len(around) == MAX_DEPTH:
                raise NotWalkable(f"its sequences are more than {MAX_DEPTH} deep")
            around.append(encoding)
            in_item = False
            encoding = _IN_UN if vr == b"UN" else encoding
        elif tag in wanted and not around:
            if length > MAX_VALUE_BYTES:
                raise NotWalkable(f"a value of {length} bytes is longer than any that is indexed")
            found[tag] = source.read(length)
        else:
            source.skip(length)
    raise NotWalkable(f"it has more than {MAX_ELEMENTS} elements")
