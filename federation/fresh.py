"""The first version of a line: a network that has learnt nothing yet."""

from federation.config import Experiment
from federation.iodeep.codec import Chunks, describe_weights
from federation.iodeep.manifest import Lineage, OutputLabel, VersionManifest
from federation.networks import build_network, check_volume, tensors_of


def fresh_version(experiment: Experiment, branch: str) -> tuple[VersionManifest, list[Chunks]]:
    """Round 0 of a branch: the experiment's network, initialised from its seed.

    Raises :class:`~federation.errors.ModelError` where the network cannot be built, or does not
    take volumes of the preprocessing's size.
    """
    model = experiment.model
    check_volume(model.architecture, model.preprocessing.size)
    network = build_network(model.architecture, seed=experiment.seed)
    weights, parts = describe_weights(tensors_of(network))
    manifest = VersionManifest(
        line=experiment.line,
        branch=branch,
        round=0,
        architecture=model.architecture,
        preprocessing=model.preprocessing,
        outputs=tuple(OutputLabel.named(n, name) for n, name in sorted(model.labels.items())),
        lineage=Lineage(config_digest=experiment.digest),
        weights=weights,
    )
    return manifest, parts
