"""What an archive's web services answer."""

import json
from collections.abc import Callable, Iterator
from http.client import HTTPResponse, IncompleteRead
from io import BufferedReader
from typing import cast

from federation.errors import PacsError, PacsUnreachable
from federation.pacs.web.faults import Faults

CHUNK_BYTES = 2**18
"""Read, sent and written at a time: larger ones are no faster, and a throttle is smooth."""
MAX_DOCUMENT_BYTES = 2**26
"""Of a JSON document: a page of matches is a few megabytes."""

# Orthanc 1.10 announces such an answer, but cannot send it. Trying again takes 13 GB of its memory.
_TOO_LARGE = 2**31


class Answer:
    """A successful answer whose body is still to come."""

    def __init__(
        self, response: HTTPResponse, what: str, *, faults: Faults, count: Callable[[int], None]
    ) -> None:
        """``count`` is told of bytes as they come, and may wait."""
        self._response = response
        self._what = what
        self._faults = faults
        self._count = count
        self.status = response.status

    @property
    def content_type(self) -> str:
        """Without parameters; empty where the archive does not say."""
        headers = self._response.headers
        return headers.get_content_type() if "Content-Type" in headers else ""

    def parameter(self, name: str) -> str:
        """One of the Content-Type's parameters; empty where it has none of that name."""
        found = self._response.headers.get_param(name, "")
        return found if isinstance(found, str) else ""

    def broke_off(self) -> PacsUnreachable | None:
        """What to raise where less came than should have, if that may be the network's fault.

        It may where the archive did not say how much would come, and ends its answers by closing
        the connection.
        """
        if self._response.chunked or self._response.length is not None:
            return None
        return self._faults.broke_off(self._what)

    @property
    def is_compressed(self) -> bool:
        """Whether the body is encoded on top of what its type says."""
        return self._response.headers.get("Content-Encoding", "identity").lower() != "identity"

    @property
    def is_empty(self) -> bool:
        """Whether the archive says that there is no body."""
        return self._response.length == 0

    @property
    def is_read(self) -> bool:
        """Whether nothing of the body is left."""
        return self._response.isclosed()

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes.

        Raises :class:`PacsUnreachable` where it breaks off, and :class:`PacsError` where it is
        larger than the archive can send.
        """
        buffer = memoryview(bytearray(CHUNK_BYTES))
        announced = self._response.length
        while True:
            with self._faults.explained(self._what):
                count = self._response.readinto(buffer)
                if not count and (missing := self._response.length):
                    if missing == announced and missing > _TOO_LARGE:
                        raise PacsError(
                            f"{self._faults.to} announced {missing} bytes to "
                            f"{self._what} and sent none: that is too large for it"
                        )
                    raise ConnectionResetError
            if not count:
                return
            self._count(count)
            yield bytes(buffer[:count])

    def json(self) -> object:
        """The body as JSON; None where it is empty. Raises :class:`PacsError`."""
        who = f"{self._faults.to} answered {self._what}"
        pieces: list[bytes] = []
        size = 0
        for chunk in self.chunks():
            size += len(chunk)
            if size > MAX_DOCUMENT_BYTES:
                raise PacsError(f"{who} with more than {MAX_DOCUMENT_BYTES} bytes; not read on")
            pieces.append(chunk)
        if not size:
            if broken := self.broke_off():
                raise broken
            return None
        if self.content_type not in ("application/dicom+json", "application/json"):
            raise PacsError(
                f"{who} with {self.content_type or 'an unnamed type'!r:.60} instead of JSON. "
                "Is the address that of its DICOMweb services, and not of a page or a log-in?"
            )
        try:
            document: object = json.loads(b"".join(pieces))
        except (ValueError, RecursionError):  # whose text repeats what was read
            raise self.broke_off() or PacsError(f"{who} with what is no JSON document") from None
        return document


class WholeResponse(HTTPResponse):
    """Refuses headers that break off, which the library takes for whole."""

    def begin(self) -> None:
        fp = self.fp
        self.fp = cast(BufferedReader, _Lines(fp))
        try:
            super().begin()
        finally:
            if self.fp is not None:
                self.fp = fp


class _Lines:
    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._is_first = True
        self.close = file.close

    def readline(self, limit: int) -> bytes:
        line = self._file.readline(limit)
        if not (line.endswith(b"\n") or len(line) == limit or self._is_first):
            raise IncompleteRead(b"")
        self._is_first = False
        return line
