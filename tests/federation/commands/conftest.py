"""An archive with two branches of a line, and the command line to look at it with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from federation.cli import build
from federation.iodeep.header import Stamp
from federation.iodeep.manifest import Measured, VersionManifest
from federation.iodeep.signature import SigningKey
from federation.pacs import Archive, open_gateway
from federation.registry import Registry
from tests.federation.iodeep.records import evaluation, tensors, version

Iodeep = Callable[..., Result]


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "release.key")


@pytest.fixture
def address(tmp_path: Path) -> str:
    Archive(tmp_path / "archive").close()
    return f"folder:{tmp_path / 'archive'}"


@pytest.fixture
def registry(address: str, key: SigningKey) -> Iterator[Registry]:
    with open_gateway(address) as gateway:
        yield Registry(gateway, signer=key)


@pytest.fixture
def versions(registry: Registry) -> dict[str, VersionManifest]:
    """main:0 to main:3 with validation Dice, and fork:1, which starts from main:1; by name."""
    made: dict[str, VersionManifest] = {}
    for branch, round, start in [*(("main", n, n - 1) for n in range(4)), ("fork", 1, 1)]:
        parent = made.get(f"main:{start}")
        manifest, parts = version(
            tensors(len(made)),
            branch=branch,
            round=round,
            parent=parent.reference if parent else None,
        )
        date = "20250101" if branch == "main" else "20250102"
        stamp = Stamp(study_date=date, study_time="12", content_date=date, content_time="12")
        registry.publish(manifest, parts, stamp)
        measured = Measured(metrics={"validation_dice_mean": round / 10}, cases={"validation": 2})
        registry.publish(evaluation(manifest).model_copy(update={"measured": measured}))
        made[f"{branch}:{round}"] = manifest
    return made


@pytest.fixture
def iodeep() -> Iodeep:
    def run(*words: str) -> Result:
        return CliRunner().invoke(build(), ["model", *words])

    return run
