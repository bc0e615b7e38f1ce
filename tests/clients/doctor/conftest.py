"""A site where all is well, for a test to spoil; and what the doctor finds there."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydicom import Dataset

from clients.doctor import Finding, Outcome, examine
from federation.config import Site, read_site
from federation.iodeep.signature import SigningKey
from federation.pacs import Archive, open_gateway
from federation.samples.phantom import phantom_cases
from tests.clients.data.conftest import SEGMENTS, edit, write

NOW = datetime(2026, 12, 1, tzinfo=UTC)
PATIENT_ID, PATIENT_NAME = "SECRET-4711", "Secretsson^Secretia"

_OF_THIS_MACHINE = {("machine", "device"), ("machine", "disk")}
"""May be warned of where the tests run."""


@dataclass(frozen=True, kw_only=True)
class SiteFolder:
    """A site's folder and its document, which can be changed until it is read."""

    path: Path
    document: dict[str, Any]

    def read(self) -> Site:
        return read_site(self.write())

    def write(self) -> Path:
        """The document in a file."""
        path = self.path / "site.toml"
        path.write_text(tomli_w.dumps(self.document))
        return path

    def examine(self, *, part_bytes: int = 0, now: datetime = NOW) -> list[Finding]:
        return list(examine(self.read(), part_bytes=part_bytes, now=now))


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a fault should be called, and words of what was seen."""

    about: str
    check: str
    words: Sequence[str]
    outcome: Outcome = "fail"

    def is_all_that_is_wrong(self, found: Sequence[Finding]) -> None:
        """Asserts that the fault was named so, and nothing else was."""
        wrong = troubles(found)
        assert [(one.about, one.check) for one in wrong] == [(self.about, self.check)], wrong
        assert wrong[0].outcome == self.outcome
        assert all(word in wrong[0].seen for word in self.words), wrong[0].seen
        assert wrong[0].advice


def troubles(found: Sequence[Finding]) -> list[Finding]:
    """What does not pass."""
    return [
        one
        for one in found
        if one.outcome != "pass" and (one.about, one.check) not in _OF_THIS_MACHINE
    ]


@pytest.fixture(scope="session")
def one_labelled(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of a labelled study of a patient whose name must not get out."""

    def rename(ds: Dataset) -> None:
        ds.PatientID, ds.PatientName = PATIENT_ID, PATIENT_NAME

    written = write(phantom_cases("B", 1, 0)[0], tmp_path_factory.mktemp("case"))
    files = [*written.series, written.seg]
    for path in files:
        edit(path, rename)
    return files


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, one_labelled: list[Path]) -> list[Path]:
    """The files of three labelled studies, each of a patient."""
    files = list(one_labelled)
    for case in phantom_cases("B", 3, 0)[1:]:
        written = write(case, tmp_path_factory.mktemp("case"))
        files += [*written.series, written.seg]
    return files


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, labelled: list[Path]) -> str:
    """An archive of labelled studies, without a network."""
    folder = tmp_path_factory.mktemp("images")
    Archive(folder).close()
    address = f"folder:{folder}"
    with open_gateway(address) as gateway:
        gateway.store(labelled)
    return address


@pytest.fixture
def site(tmp_path: Path, images: str) -> SiteFolder:
    """Everything is there, and in order."""
    SigningKey.create(tmp_path / "site.key")
    SigningKey.create(tmp_path / "aggregator.key")
    (tmp_path / "split.key").write_text("a key for tests\n")
    Archive(tmp_path / "models").close()
    return SiteFolder(
        path=tmp_path,
        document={
            "name": "hospital",
            "key": "site.key",
            "archives": {
                "images": images,
                "models": "folder:models",
                "limits": {"timeout_s": 3.0, "attempts": 1},
            },
            "data": {
                "brain": {
                    "query": {"Modality": "MR"},
                    "labels": {"map": dict(SEGMENTS)},
                    "split": {"key": "split.key", "validation": 0.0, "test": 0.0},
                }
            },
            "policy": {
                "min_studies": 3,
                "trust": [{"lines": ["*"], "signers": ["aggregator.key.pub"]}],
            },
        },
    )
