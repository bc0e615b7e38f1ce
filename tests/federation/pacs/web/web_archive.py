"""A DICOMweb archive of one series that does what a test tells it to, on a port of loopback.

with web_archive(WebArchive(store=lambda request: request.reply(503))) as archive:
    open_gateway(archive.address)
"""

import copy
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from federation.pacs import Limits
from tests.federation.pacs.conftest import Make

STUDY, SERIES = "1.2.3.1", "1.2.3.1.1"
"""As the fixture ``make`` has them."""
HERE = {"study": STUDY, "series": SERIES}
KEYS = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}
QUICK = Limits(timeout_s=2, attempts=3, backoff_s=0.01)
BOUNDARY = "simple-boundary"
MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
JSON = "application/dicom+json"

_SERIES = f"/dicom-web/studies/{STUDY}/series/{SERIES}"


class Request(BaseHTTPRequestHandler):
    """A request, and ways to answer it."""

    protocol_version = "HTTP/1.1"
    archive: "WebArchive"
    body = b""

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def reply(
        self, status: int, body: bytes = b"", kind: str = "", length: int | None = None, **more: str
    ) -> None:
        """``length`` where another one shall be announced than the body has."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if kind:
            self.send_header("Content-Type", kind)
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if length is not None:
            self.close_connection = True

    def reply_json(self, document: object, status: int = 200) -> None:
        self.reply(status, json.dumps(document).encode(), JSON)

    def reply_parts(self, parts: Sequence[bytes], **more: Any) -> None:
        self.reply(200, message(parts), MULTIPART, **more)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def _answer(self) -> None:
        self.archive.seen.append(copy.copy(self))  # the next of its connection reuses it
        with suppress(ConnectionError):
            self.archive.answer(self)

    def log_message(self, *_: object) -> None:
        """Nothing: pytest shows what fails."""


Reply = Callable[[Request], None]


@dataclass(kw_only=True)
class WebArchive:
    """What it answers unless told otherwise, and what it was asked.

    instances: what it has, Part 10 files by SOP Instance UID
    """

    instances: dict[str, bytes] = field(default_factory=dict)
    search: Reply | None = None
    retrieve_series: Reply | None = None
    retrieve_instance: Reply | None = None
    store: Reply | None = None
    seen: list[Request] = field(default_factory=list)
    address: str = ""
    port: int = 0

    def keep(self, path: Path) -> str:
        """Have an instance; its UID."""
        self.instances[path.stem] = path.read_bytes()
        return path.stem

    def answer(self, request: Request) -> None:
        path = urlsplit(request.path).path
        if request.command == "POST":
            (self.store or self._store)(request)
        elif path == _SERIES:
            (self.retrieve_series or self._retrieve_series)(request)
        elif path.startswith(f"{_SERIES}/instances/"):
            (self.retrieve_instance or self._retrieve_instance)(request)
        else:
            (self.search or self._search)(request)

    def _search(self, request: Request) -> None:
        first = int(request.query.get("offset", ["0"])[0])
        wanted = request.query.get("SOPInstanceUID")
        uids = [uid for uid in self.instances if wanted in (None, [uid])]
        request.reply_json([row(uid) for uid in uids[first:]])

    def _retrieve_series(self, request: Request) -> None:
        request.reply_parts(list(self.instances.values()))

    def _retrieve_instance(self, request: Request) -> None:
        found = self.instances.get(request.path.rpartition("/")[2])
        if found is None:
            request.reply(404)
        else:
            request.reply_parts([found])

    def _store(self, request: Request) -> None:
        """Takes it; whoever wants it kept as well says so."""
        request.reply_json(stored(uid_in(request.body)))


def with_instances(make: Make, count: int) -> WebArchive:
    archive = WebArchive()
    for number in range(count):
        archive.keep(make(InstanceNumber=number + 1))
    return archive


def in_turn(*replies: Reply) -> Reply:
    """The first reply to the first request and so on; the last one to all that follow."""
    waiting = list(replies)

    def reply(request: Request) -> None:
        (waiting.pop(0) if len(waiting) > 1 else waiting[0])(request)

    return reply


def status(code: int) -> Reply:
    return lambda request: request.reply(code)


def row(uid: str, **attributes: tuple[str, object]) -> dict[str, object]:
    """A match of a search at IMAGE level; attributes are VR and value by tag, after a ``t``."""
    found: dict[str, object] = {
        "00080018": {"vr": "UI", "Value": [uid]},
        "0020000D": {"vr": "UI", "Value": [STUDY]},
        "0020000E": {"vr": "UI", "Value": [SERIES]},
    }
    for tag, (vr, value) in attributes.items():
        found[tag.removeprefix("t")] = {"vr": vr, "Value": [value]}
    return found


def stored(uid: str) -> dict[str, object]:
    """What an archive says of an instance that it stored."""
    return {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}}]}}


def not_stored(uid: str, reason: int) -> dict[str, object]:
    """What an archive says of an instance that it did not store."""
    item = {
        "00081155": {"vr": "UI", "Value": [uid]},
        "00081197": {"vr": "US", "Value": [reason]},
    }
    return {"00081198": {"vr": "SQ", "Value": [item]}}


def message(parts: Sequence[bytes], kind: str = "application/dicom") -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Type: {kind}\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()


def uid_in(body: bytes) -> str:
    """The SOP Instance UID in the file meta of the only part."""
    _, _, rest = body.partition(b"\x02\x00\x03\x00UI")
    return rest[2 : 2 + rest[0]].rstrip(b"\0").decode()


@contextmanager
def web_archive(
    archive: WebArchive | None = None, *, context: ssl.SSLContext | None = None
) -> Iterator[WebArchive]:
    """Serves until the end, over TLS with a ``context``."""
    archive = archive or WebArchive()
    handler = type("OwnRequest", (Request,), {"archive": archive})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # of broken connections
    if context is not None:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    archive.port = server.server_address[1]
    scheme = "http" if context is None else "https"
    archive.address = f"dicomweb+{scheme}://127.0.0.1:{archive.port}/dicom-web"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()
