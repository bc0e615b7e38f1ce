"""What every test counts on."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.pacs import Archive, ArchiveServer, Gateway, open_gateway
from tests.peers.certificates import Certificates, write_certificates

# Threads of torch that have nothing to do sleep, here and in processes that are started: several
# tests at once have more threads than cores, and waiting in a loop takes these from one another.
# It is read when torch is imported, which nothing above does.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

LONGEST_FIRST = (
    "tests/test_federation.py",
    "tests/test_deployment.py",
    "tests/clients/finetuning/test_finetune.py",
    "tests/server/test_check.py",
    "tests/server/test_rounds.py",
    "tests/clients/inference/test_command.py",
    "tests/test_archives_federation.py",
    "tests/test_alone_docs.py",
)
"""A file is one worker's: a long one that comes last leaves the others idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first; all others stay in order."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}

    def place(item: pytest.Item) -> int:
        return places.get(item.nodeid.partition("::")[0], len(places))

    items.sort(key=place)


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
