"""What every test counts on."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.pacs import Archive, ArchiveServer, Gateway, open_gateway
from tests.peers.certificates import Certificates, write_certificates


@pytest.fixture(scope="session", autouse=True)
def interrupts_count() -> None:
    """Ctrl-C interrupts, even where whoever started the tests has it ignored, as ``nohup`` does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority's, an archive's and ours; one that has expired; a stranger's."""
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """An embedded archive, reached over DIMSE on a free loopback port."""
    with (
        ArchiveServer(Archive(tmp_path / "pacs"), ae_title="PACS") as server,
        open_gateway(server.address) as opened,
    ):
        yield opened
