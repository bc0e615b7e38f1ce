"""Archives of every kind that is tested, running, by one name each."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.peers.certificates import Certificates
from tests.peers.dcmqrscp import dcmqrscp
from tests.peers.orthanc import orthanc
from tests.peers.process import echoes, free_port, running

Run = Callable[[Path, Certificates], AbstractContextManager[str]]
"""Runs an archive in a folder, and gives its address."""

_IODEEP = Path(sys.executable).parent / "iodeep"
_AE_TITLE = "EMBEDDED"


@contextmanager
def _embedded(folder: Path, _: Certificates) -> Iterator[str]:
    """In a process of its own, like the others."""
    port = free_port()
    command = [str(_IODEEP), "pacs", "serve", str(folder / "archive")]
    command += ["--port", str(port), "--ae-title", _AE_TITLE]
    folder.mkdir(parents=True, exist_ok=True)
    with running(
        command,
        log=folder / "log",
        answers=lambda: echoes(port, called=_AE_TITLE, calling="IODEEP"),
    ):
        yield f"dimse://{_AE_TITLE}@127.0.0.1:{port}"


@contextmanager
def _orthanc(folder: Path, _: Certificates) -> Iterator[str]:
    with orthanc(folder) as archive:
        yield archive.dimse


@contextmanager
def _orthanc_over_tls(folder: Path, certificates: Certificates) -> Iterator[str]:
    with orthanc(folder, tls=certificates) as archive:
        yield archive.dimse


@contextmanager
def _orthanc_over_dicomweb(folder: Path, _: Certificates) -> Iterator[str]:
    with orthanc(folder) as archive:
        yield archive.dicomweb


@contextmanager
def _dcmqrscp(folder: Path, _: Certificates) -> Iterator[str]:
    with dcmqrscp(folder) as archive:
        yield archive.dimse


ARCHIVES: dict[str, Run] = {
    "embedded": _embedded,
    "orthanc": _orthanc,
    "orthanc-tls": _orthanc_over_tls,
    "orthanc-dicomweb": _orthanc_over_dicomweb,
    "dcmqrscp": _dcmqrscp,
}


def port_of(address: str) -> int:
    """Where an archive listens."""
    return urlsplit(address).port or 0


def at_port(address: str, port: int) -> str:
    """The same archive, reached at another port."""
    return address.replace(f"127.0.0.1:{port_of(address)}", f"127.0.0.1:{port}")
