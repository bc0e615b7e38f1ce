from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from federation.errors import StorageError
from federation.pacs.web.multipart import MalformedMultipart, OnePart, read_parts

BOUNDARY = "0123456789abcdef"


class Kept:
    """A receiver that holds what it is given."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.parts: list[bytes] = []
        self.ended = 0

    def begin(self, content_type: str) -> None:
        self.types.append(content_type)
        self.parts.append(b"")

    def write(self, data: bytes) -> None:
        self.parts[-1] += data

    def end(self) -> None:
        self.ended += 1


def message(parts: list[bytes], header: bytes = b"Content-Type: application/dicom") -> bytes:
    head = b"--" + BOUNDARY.encode() + b"\r\n" + header + b"\r\n\r\n"
    return b"".join(head + part + b"\r\n" for part in parts) + b"--" + BOUNDARY.encode() + b"--"


def read(chunks: list[bytes]) -> Kept:
    kept = Kept()
    read_parts(chunks, BOUNDARY, kept)
    return kept


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces, none of them empty."""
    at = sorted({0, len(data), *(place % len(data) for place in places)})
    return [data[start:end] for start, end in pairwise(at)]


LOOK_ALIKES = [
    b"\r",
    b"\r\n",
    b"\r\n--",
    b"--",
    f"\r\n--{BOUNDARY[:-1]}".encode(),
    f"\r\n--{BOUNDARY[:-1]}\r\n--{BOUNDARY[:-1]}".encode(),
    f"\r\n--{BOUNDARY[:-1]}--\r\n".encode(),
    f"\n--{BOUNDARY}".encode(),
    f"\r\n-{BOUNDARY}".encode(),
    f"--{BOUNDARY}--".encode(),
    f"\r\r\n--{BOUNDARY[:5]}".encode(),
]
PAYLOADS = st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(LOOK_ALIKES))).map(b"".join)


@given(
    parts=st.lists(
        PAYLOADS.filter(lambda data: f"\r\n--{BOUNDARY}".encode() not in data), min_size=1
    ),
    places=st.lists(st.integers(min_value=0)),
)
@example(parts=[b"", b"\r\n", b""], places=[])
@example(parts=[f"--{BOUNDARY}".encode()], places=list(range(200)))
def test_parts_come_out_as_they_went_in_however_they_are_cut(
    parts: list[bytes], places: list[int]
) -> None:
    kept = read(cut(message(parts), places))
    assert kept.parts == parts
    assert kept.types == ["application/dicom"] * len(parts)
    assert kept.ended == len(parts)


@given(st.binary(max_size=2000), st.lists(st.integers(min_value=0)))
def test_anything_at_all_is_read_or_refused(data: bytes, places: list[int]) -> None:
    with suppress(MalformedMultipart):
        read(cut(data, places) if data else [])


@given(st.integers(min_value=1, max_value=len(message([b"some", b"more"])) - 1))
def test_a_message_that_ends_too_soon_is_refused(length: int) -> None:
    with pytest.raises(MalformedMultipart):
        read([message([b"some", b"more"])[:length]])


def test_an_empty_message_is_refused() -> None:
    with pytest.raises(MalformedMultipart, match="empty"):
        read([])


def test_a_message_without_parts_has_none() -> None:
    assert read([f"--{BOUNDARY}--\r\n".encode()]).parts == []


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"Content-Type: application/dicom", "application/dicom"),
        (
            b"content-type: Application/DICOM; transfer-syntax=1.2.840.10008.1.2",
            "application/dicom",
        ),
        (b"MIME-Version: 1.0\r\nContent-Length: 3\r\nCONTENT-TYPE:text/html", "text/html"),
        (b"X: y", ""),
    ],
)
def test_a_part_s_type_is_told(header: bytes, expected: str) -> None:
    data = message([b"abc"], header)
    for pieces in ([data], [bytes([byte]) for byte in data]):
        assert read(pieces).types == [expected]


@pytest.mark.parametrize(
    "data",
    [
        b"no boundary at all",
        message([b"x"], b"no colon"),
        message([b"x"], b"\r\n".join([b"X: y"] * 100)),
        message([b"x"], b"X: " + b"y" * 10_000),
    ],
)
def test_what_is_no_multipart_is_refused_and_not_repeated(data: bytes) -> None:
    with pytest.raises(MalformedMultipart) as caught:
        read([data])
    assert "X" not in str(caught.value)


def test_a_boundary_that_no_message_may_have_is_refused() -> None:
    with pytest.raises(MalformedMultipart, match="boundary"):
        read_parts([b"x"], "b" * 10_000, Kept())


@pytest.mark.parametrize("size", [0, 1, 1000, 1_000_000])
def test_a_file_goes_out_as_a_message_of_one_part(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * (size // 250) + b"z" * (size % 250))
    with OnePart(path) as body:
        pieces = list(iter(lambda: body.read(4096), b""))
        boundary = body.content_type.partition("boundary=")[2]
    assert sum(map(len, pieces)) == body.length
    assert max(map(len, pieces)) <= 4096
    kept = Kept()
    read_parts(pieces, boundary, kept)
    assert kept.parts == [path.read_bytes()]
    assert kept.types == ["application/dicom"]


def test_a_file_that_shrinks_under_way_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    with OnePart(path) as body:
        body.read(4096)
        body.read(4096)
        path.write_bytes(b"")
        with pytest.raises(StorageError, match="became shorter"):
            body.read(4096)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        OnePart(tmp_path / "nothing")
