"""Instances in a multipart/related message (RFC 2387, PS3.18 Section 8.6.1.2), both ways.

Neither way holds more than a chunk of it. Reading goes through python-multipart, whose parser
finds boundaries at several GB/s, whatever lies between them.
"""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError

from federation.closing import Closing
from federation.errors import StorageError

DICOM = "application/dicom"

_MAX_HEADERS = 32  # of a part


class MalformedMultipart(Exception):
    """The bytes are no multipart message; the text says why and repeats none of them."""


class EndsTooSoon(MalformedMultipart):
    """The bytes are less than a multipart message."""


class Receiver(Protocol):
    """Takes a message's parts, one after another."""

    def begin(self, content_type: str) -> None:
        """A part begins; ``content_type`` in lower case, without parameters, "" if not given."""

    def write(self, data: bytes) -> None:
        """More of the part."""

    def end(self) -> None:
        """The part is whole."""


def read_parts(chunks: Iterable[bytes], boundary: str, receiver: Receiver) -> None:
    """Give a message's parts to ``receiver``.

    Raises :class:`MalformedMultipart`, and :class:`EndsTooSoon` without a last boundary.
    """
    reading = _Reading(receiver, boundary)
    is_empty = True
    for chunk in chunks:
        is_empty = False
        reading.feed(chunk)
    if is_empty:
        raise EndsTooSoon("it is empty")
    if not reading.is_whole:
        raise EndsTooSoon("it ends before its last boundary")


class _Reading:
    """The parser's events, as a receiver wants them."""

    def __init__(self, receiver: Receiver, boundary: str) -> None:
        self.is_whole = False
        self._receiver = receiver
        self._name = self._value = b""
        self._content_type = ""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_begin,
                    "on_header_begin": self._on_header_begin,
                    "on_header_field": self._on_name,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_data,
                    "on_part_end": receiver.end,
                    "on_end": self._on_end,
                },
                max_header_count=_MAX_HEADERS,
            )
        except FormParserError:
            raise MalformedMultipart("its boundary is too long") from None

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError:  # whose text repeats what was read
            raise MalformedMultipart("it is not as its boundary promises") from None

    def _on_begin(self) -> None:
        self._content_type = ""

    def _on_header_begin(self) -> None:
        self._name = self._value = b""

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-type":
            media_type, _, _ = self._value.decode("latin-1").partition(";")
            self._content_type = media_type.strip().lower()

    def _on_headers_finished(self) -> None:
        self._receiver.begin(self._content_type)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._receiver.write(data[start:end])  # the whole of it is not copied

    def _on_end(self) -> None:
        self.is_whole = True


class OnePart(Closing):
    """A message of one part, a Part 10 file. Close it."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`StorageError` where the file cannot be read."""
        self._path = path
        # A long one: Orthanc 1.10 stores nothing, and answers 200, where it is a single letter.
        boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="{DICOM}"; boundary={boundary}'
        self._head = f"--{boundary}\r\nContent-Type: {DICOM}\r\n\r\n".encode("ascii")
        self._tail = f"\r\n--{boundary}--\r\n".encode("ascii")
        try:
            self._file = path.open("rb", buffering=0)
            self._left = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise StorageError(f"{path.name} cannot be read: {error.strerror}") from error
        self.length = len(self._head) + self._left + len(self._tail)

    def read(self, count: int) -> bytes:
        """The next piece; of the file, at most ``count`` bytes. Nothing at the end."""
        if self._head:
            piece, self._head = self._head, b""
        elif self._left:
            piece = self._of_file(min(count, self._left))
            self._left -= len(piece)
        else:
            piece, self._tail = self._tail, b""
        return piece

    def _of_file(self, count: int) -> bytes:
        try:
            piece = self._file.read(count)
        except OSError as error:
            raise StorageError(f"{self._path.name} cannot be read: {error.strerror}") from error
        if not piece:
            raise StorageError(f"{self._path.name} became shorter while it was sent")
        return piece

    def close(self) -> None:
        self._file.close()
