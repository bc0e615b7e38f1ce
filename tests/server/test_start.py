"""What a run begins with, where that is a trained version."""

from pathlib import Path

import pytest

from federation.config import Experiment
from federation.errors import ConfigError, RegistryError, SignatureError
from federation.fresh import fresh_version
from federation.iodeep.manifest import VersionManifest
from federation.iodeep.signature import SigningKey
from federation.pacs import Gateway
from federation.registry import Registry
from federation.releases import promote
from server.start import first_version, pinned
from tests.clients.inference.small import experiment


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "aggregator.key")


@pytest.fixture
def trained(gateway: Gateway, key: SigningKey) -> VersionManifest:
    """Another network than the one that the experiment's seed would give."""
    manifest, parts = fresh_version(experiment().model_copy(update={"seed": 7}), "before")
    Registry(gateway, signer=key).publish(manifest, parts)
    return manifest


def starting(gateway: Gateway, **start: object) -> Experiment:
    return experiment(start={"archive": gateway.address, **start})


def test_round_0_has_the_weights_of_the_version_and_names_it(
    gateway: Gateway, trained: VersionManifest
) -> None:
    run = pinned(starting(gateway, version="before:0"))
    assert run.model.start is not None
    assert run.model.start.version == trained.uid
    with first_version(run, "run") as (manifest, parts):
        Registry(gateway).publish(manifest, parts)
    assert manifest.weights == trained.weights
    assert manifest.lineage.parent == trained.reference
    assert (manifest.branch, manifest.round) == ("run", 0)
    with first_version(experiment(), "run") as (fresh, _):
        assert fresh.weights.digest != trained.weights.digest


def test_the_configuration_says_which_version_and_not_where_it_lies(
    gateway: Gateway, trained: VersionManifest
) -> None:
    run = pinned(starting(gateway, version=trained.uid))
    elsewhere = experiment(start={"archive": "folder:elsewhere", "version": trained.uid})
    assert run.digest == elsewhere.digest
    assert run.digest != experiment().digest


def test_a_released_version_is_found(gateway: Gateway, trained: VersionManifest) -> None:
    with pytest.raises(RegistryError, match="is released here"):
        pinned(starting(gateway))
    promote(Registry(gateway), trained)
    run = pinned(starting(gateway))
    assert run.model.start is not None
    assert run.model.start.version == trained.uid


def test_another_network_is_refused(gateway: Gateway, trained: VersionManifest) -> None:
    other = {"spacing_mm": [2, 2, 2], "size": [40, 40, 32]}
    run = experiment(start={"archive": gateway.address, "version": "before"}, preprocessing=other)
    with pytest.raises(ConfigError, match="whose preprocessing are not those"):
        pinned(run)


def test_a_version_that_nobody_trusted_signed_is_refused(
    gateway: Gateway, trained: VersionManifest, key: SigningKey, tmp_path: Path
) -> None:
    SigningKey.create(tmp_path / "other.key")
    run = starting(gateway, version="before", signers=[str(tmp_path / "other.key.pub")])
    with pytest.raises(SignatureError), first_version(run, "run"):
        pass
    run = starting(gateway, version="before", signers=[str(tmp_path / "aggregator.key.pub")])
    with first_version(run, "run") as (manifest, _):
        assert manifest.weights == trained.weights
