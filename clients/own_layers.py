"""Normalisation layers that a site keeps for itself (FedBN), as STATEs in its own archive."""

from collections.abc import Mapping

from clients.evaluation import trainer_for
from clients.hospital import Hospital
from clients.training import Trainer, names_of_layers
from federation.config import TrainingTable
from federation.iodeep.codec import describe_weights
from federation.iodeep.manifest import StateManifest, VersionManifest
from federation.iodeep.weights import Tensor


def trainer_with_own(
    hospital: Hospital,
    version: VersionManifest,
    tensors: Mapping[str, Tensor],
    settings: TrainingTable,
) -> Trainer:
    """What trains a version's network for its task, with these weights, or the site's own where it
    keeps some for itself."""
    registry = hospital.registry
    own = None
    if settings.normalisation == "local":
        own = registry.state(version.line, version.branch, version.round, hospital.site.name)
    if own is None:
        return trainer_for(version, tensors, settings)
    with registry.pull(own) as record:
        return trainer_for(version, {**tensors, **record.tensors()}, settings)


def keep_own(
    hospital: Hospital,
    start: VersionManifest,
    round: int,
    trainer: Trainer,
    update: Mapping[str, Tensor],
) -> None:
    """Remember the normalisation layers of a round in the site's own archive."""
    names = names_of_layers(trainer.network)
    if not names:
        return
    weights, parts = describe_weights({name: update[name] for name in names})
    state = StateManifest(
        line=start.line,
        branch=start.branch,
        round=round,
        of=start.reference,
        by=hospital.site.name,
        weights=weights,
    )
    hospital.registry.publish(state, parts)
