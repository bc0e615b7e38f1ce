"""The first version of a line: a network that has learnt nothing yet, or elsewhere."""

from collections.abc import Mapping

from federation.config import Experiment
from federation.iodeep.codec import Chunks, describe_weights
from federation.iodeep.manifest import Lineage, OutputLabel, VersionManifest
from federation.iodeep.weights import Tensor
from federation.networks import build_network, check_tensors, check_volume, tensors_of


def fresh_version(
    experiment: Experiment, branch: str, tensors: Mapping[str, Tensor] | None = None
) -> tuple[VersionManifest, list[Chunks]]:
    """Round 0 of a branch: the experiment's network, with ``tensors`` or initialised from its seed.

    Raises :class:`~federation.errors.ModelError` where the network cannot be built, does not
    take volumes of the preprocessing's size, or is not the one that the tensors belong to.
    """
    model = experiment.model
    check_volume(model.architecture, model.preprocessing.size)
    if tensors is None:
        tensors = tensors_of(build_network(model.architecture, seed=experiment.seed))
    else:
        check_tensors(model.architecture, tensors)
    weights, parts = describe_weights(tensors)
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
