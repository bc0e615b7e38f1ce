"""HTTP with an archive's DICOMweb services (PS3.18).

Over the standard library's client because of what it does not do: it follows no redirect, asks
neither the environment nor ~/.netrc for proxies and passwords, trusts no certificate beside those
it is given, and tells no log of a URL, which may name a patient.
"""

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Protocol
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from federation.closing import Closing
from federation.errors import PacsError
from federation.pacs.address import WebAddress
from federation.pacs.gateway import Moved
from federation.pacs.limits import Throttle
from federation.pacs.web.answer import CHUNK_BYTES, Answer, WholeResponse
from federation.pacs.web.faults import Faults
from federation.pacs.web.login import authorization

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_IN_PATH = "/%:@!$&'()*+,;=~"  # what a path may hold as it is, beside letters, digits and _.-
_IN_QUERY = f"{_IN_PATH}?"


class Body(Protocol):
    """What is sent, a piece at a time."""

    content_type: str
    length: int

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes more; none at the end."""


class WebConnection(Closing):
    """A connection to an archive's web services, opened when needed and kept. Close it.

    clock_ahead_s: by how much its clock is ahead of ours, as its last answer said; None where it
                   said nothing

    Not for use from several threads at once, but for :meth:`cut_off`.
    """

    def __init__(
        self,
        to: WebAddress,
        *,
        timeout_s: float,
        throttle: Throttle,
        moved: Moved,
        context: ssl.SSLContext | None,
    ) -> None:
        self._to = to
        self._url = urlsplit(to.url)
        self._faults = Faults(to=to, timeout_s=timeout_s)
        self._throttle = throttle
        self._moved = moved
        self._context = context
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None  # http.client lets go of it before the end
        self._is_cut = False
        self.clock_ahead_s: float | None = None

    @property
    def address(self) -> str:
        return str(self._to)

    def _count(self, count: int) -> None:
        """Account for bytes that moved, and wait where they were too many."""
        self._moved(count)
        self._throttle.wait_for(count)

    # --- asking ---------------------------------------------------------------------------

    @contextmanager
    def ask(
        self,
        what: str,
        path: str,
        *,
        accept: str,
        body: Body | None = None,
        also: frozenset[int] = frozenset(),
    ) -> Iterator[Answer]:
        """The answer to a GET, or to a POST of ``body``, where it is a success.

        what: the request in an error's words; without a value that was asked for
        path: within the services, with its query
        also: statuses that are no error to who asks

        Raises :class:`PacsRefused` where login, token or certificate are not accepted,
        :class:`PacsUnreachable` where there is no answer or the archive is busy,
        :class:`StorageError` where it has no room, else :class:`PacsError`.
        """
        try:
            answer = self._answer(what, path, accept, body)
            if not (200 <= answer.status < 300 or answer.status in also):
                raise self._faults.of_status(what, answer.status)
            if answer.is_compressed:
                raise PacsError(f"{self.address} answered {what} compressed, though asked not to")
            yield answer
        except BaseException:
            self.close()
            raise
        if not answer.is_read:  # what is left would be taken for the next answer
            self.close()

    def _answer(self, what: str, path: str, accept: str, body: Body | None) -> Answer:
        target = quote(self._url.path, safe=_IN_PATH) + path
        for _ in range(_MAX_REDIRECTS):
            with self._faults.explained(what):
                response = self._exchange(target, accept, body)
            with suppress(TypeError, ValueError):  # no date, or none that can be read
                told = parsedate_to_datetime(response.headers.get("Date", ""))
                self.clock_ahead_s = told.timestamp() - time.time()
            if response.status not in _REDIRECTS:
                return Answer(response, what, faults=self._faults, count=self._count)
            target = self._redirected(what, target, response, is_post=body is not None)
            self.close()
        raise PacsError(f"{self.address} redirects {what} without end")

    def _exchange(self, target: str, accept: str, body: Body | None) -> HTTPResponse:
        headers = {"Accept": accept, "Accept-Encoding": "identity", **authorization(self._to)}
        if body is not None:
            headers["Content-Type"] = body.content_type
            headers["Content-Length"] = str(body.length)
        connection = self._open()
        try:
            if body is None:
                connection.request("GET", target, headers=headers)
            else:
                connection.request("POST", target, _Counted(body, self._count), headers)
        except (ConnectionError, ssl.SSLEOFError):
            pass  # it would not have all of it; perhaps it said why before it hung up
        return connection.getresponse()

    def _redirected(self, what: str, target: str, response: HTTPResponse, *, is_post: bool) -> str:
        """Where a redirect leads, if within the same origin: our login is for nobody else."""
        location = response.headers.get("Location", "")
        try:
            parts = urlsplit(urljoin(urljoin(self._to.url, target), location))
            origin = _origin(parts)
        except ValueError:
            raise PacsError(f"{self.address} redirects {what} to what is no address") from None
        if origin == _origin(self._url) and not is_post:
            return quote(parts.path, safe=_IN_PATH) + (
                f"?{quote(parts.query, safe=_IN_QUERY)}" if parts.query else ""
            )
        raise PacsError(
            f"{self.address} redirects {what} to {'{}://{}:{}'.format(*origin)!r:.100}; this was "
            "not followed. If that is where the archive is now, change the address"
        )

    # --- the connection -------------------------------------------------------------------

    def _open(self) -> HTTPConnection:
        kept = self._connection
        if kept is not None and kept.sock is not None and not _ended(kept.sock):
            return kept
        self.close()
        host, port = self._url.hostname or "", self._url.port
        timeout_s = self._faults.timeout_s
        connection = (
            HTTPConnection(host, port, timeout_s, blocksize=CHUNK_BYTES)
            if self._context is None
            else HTTPSConnection(
                host, port, timeout=timeout_s, context=self._context, blocksize=CHUNK_BYTES
            )
        )
        connection.response_class = WholeResponse
        try:
            connection.connect()
        except OSError as error:
            over_tls = connection.sock is not None and self._context is not None
            connection.close()
            raise self._faults.unopened(error, over_tls=over_tls) from error
        self._connection, self._socket = connection, connection.sock
        if self._is_cut:
            raise ConnectionResetError
        return connection

    def cut_off(self) -> None:
        """From another thread: end for good whatever is going on."""
        self._is_cut = True
        if self._socket is not None:
            with suppress(OSError):  # not by the method of a TLS socket, which changes its state
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; asking opens another. Closing twice is harmless."""
        if self._connection is not None:
            self._connection.close()
        if self._socket is not None:
            self._socket.close()
        self._connection = self._socket = None


class _Counted:
    """A body whose bytes are accounted for as they are sent."""

    def __init__(self, body: Body, count: Callable[[int], None]) -> None:
        self._body = body
        self._count = count

    def read(self, count: int = CHUNK_BYTES, /) -> bytes:
        piece = self._body.read(count)
        self._count(len(piece))
        return piece


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    """Scheme, host and port (RFC 6454)."""
    default = {"http": 80, "https": 443}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default


def _ended(kept: socket.socket) -> bool:
    """Whether the archive closed a connection in between: then an end can be read."""
    poll = select.poll()
    poll.register(kept, select.POLLIN)
    return bool(poll.poll(0))
