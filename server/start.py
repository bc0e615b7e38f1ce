"""What a run begins with: a network that has learnt nothing, or a version out of an archive."""

from collections.abc import Iterator
from contextlib import contextmanager

from federation.config import Experiment, StartTable
from federation.errors import ConfigError
from federation.fresh import fresh_version, outputs_of
from federation.iodeep.codec import Chunks, describe_weights
from federation.iodeep.labels import Line
from federation.iodeep.manifest import Lineage, VersionManifest, Weights
from federation.iodeep.signature import PublicKey
from federation.naming import named_version, newest_branch
from federation.pacs import open_gateway
from federation.registry import Registry
from federation.releases import released
from federation.trust import Rule, TrustList


def pinned(experiment: Experiment) -> Experiment:
    """The experiment with the UID of the version that it starts from, however that was named.

    Raises :class:`~federation.errors.RegistryError` where it is not there, and
    :class:`ConfigError` where its network is another than the experiment's.
    """
    start = experiment.model.start
    if start is None:
        return experiment
    with _registry(start) as registry:
        version = _version(registry, experiment.line, start.version)
    _check_same_network(experiment, version)
    named = start.model_copy(update={"version": version.uid})
    return experiment.model_copy(
        update={"model": experiment.model.model_copy(update={"start": named})}
    )


@contextmanager
def first_version(
    experiment: Experiment, branch: str
) -> Iterator[tuple[VersionManifest, list[Chunks]]]:
    """Round 0 of a branch, and its parts while the context lasts.

    Of a version that it starts from it has the weights, and that for its parent. Raises as
    :func:`pinned`, and :class:`~federation.errors.CodecError` where that is not whole.
    """
    start = experiment.model.start
    if start is None:
        yield fresh_version(experiment, branch)
        return
    with _registry(start) as registry:
        version = _version(registry, experiment.line, start.version)
        _check_same_network(experiment, version)
        with registry.pull(version) as record:
            weights, parts = describe_weights(record.tensors())
            lineage = Lineage(parent=version.reference, config_digest=experiment.digest)
            update = {"branch": branch, "round": 0, "lineage": lineage, "weights": weights}
            yield version.model_copy(update=update), parts


def first_weights(experiment: Experiment) -> Weights:
    """What round 0 says of its weights; those of a version in an archive are not fetched.

    Raises as :func:`pinned`, and :class:`~federation.errors.ModelError`.
    """
    start = experiment.model.start
    if start is None:
        return fresh_version(experiment, "unwritten")[0].weights
    with _registry(start) as registry:
        version = _version(registry, experiment.line, start.version)
    _check_same_network(experiment, version)
    return version.weights


@contextmanager
def _registry(start: StartTable) -> Iterator[Registry]:
    keys = [PublicKey.read(path) for path in start.signers]
    trust = TrustList([Rule.of_key(key) for key in keys]) if keys else None
    with open_gateway(start.archive) as gateway:
        yield Registry(gateway, trust=trust)


def _version(registry: Registry, line: Line, name: str) -> VersionManifest:
    if name == "released":
        return released(registry, line)
    return named_version(registry, line, name, newest_branch(registry, line))


def _check_same_network(experiment: Experiment, version: VersionManifest) -> None:
    model = experiment.model
    asked = (model.task, model.architecture, model.preprocessing, outputs_of(model.labels))
    found = (version.task, version.architecture, version.preprocessing, version.outputs)
    names = ("task", "architecture", "preprocessing", "labels")
    other = [name for name, a, b in zip(names, asked, found, strict=True) if a != b]
    if other:
        raise ConfigError(
            f"the experiment starts from version {version.uid}, whose {' and '.join(other)} are "
            "not those of [model]; `iodeep model show LINE PACS --json` prints the version's"
        )
