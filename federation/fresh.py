"""The first version of a line: a network that has learnt nothing yet, or elsewhere."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from federation.config import Experiment
from federation.errors import ModelError
from federation.iodeep.architecture import NETWORK_OF_LAYERS, Architecture
from federation.iodeep.codec import Chunks, describe_weights
from federation.iodeep.labels import Line
from federation.iodeep.manifest import Lineage, OutputLabel, VersionManifest
from federation.iodeep.original import Original
from federation.iodeep.weights import Tensor
from federation.networks import (
    build_network,
    check_task,
    check_tensors,
    check_volume,
    named_as,
    tensors_of,
)
from federation.networks.checkpoint import read_checkpoint
from federation.networks.layers import readings


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """A version out of an original object.

    renamed: whether its tensors had other names, and were taken in their order
    """

    manifest: VersionManifest
    parts: list[Chunks]
    renamed: bool


def fresh_version(
    experiment: Experiment, branch: str, tensors: Mapping[str, Tensor] | None = None
) -> tuple[VersionManifest, list[Chunks]]:
    """Round 0 of a branch: the experiment's network, with ``tensors`` or initialised from its seed.

    Raises :class:`~federation.errors.ModelError` where the network cannot be built, is not one for
    the task and its labels, does not take volumes of the preprocessing's size, or is not the one
    that the tensors belong to.
    """
    model = experiment.model
    check_task(model.architecture, model.task, len(model.labels))
    if model.preprocessing is not None:
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
        task=model.task,
        architecture=model.architecture,
        preprocessing=model.preprocessing,
        postprocessing=model.postprocessing,
        outputs=outputs_of(model.labels),
        lineage=Lineage(config_digest=experiment.digest),
        weights=weights,
    )
    return manifest, parts


def adopted_version(
    original: Original, line: Line, branch: str, labels: Mapping[int, str], scratch: Path
) -> Adopted:
    """Round 0 of a branch: the network and weights of an object of the original IODeep.

    Where its document leaves a reading open, the first that its weights fit is taken. The digest of
    the configuration is that of the file. ``scratch`` must stay while the parts are used. Raises
    :class:`~federation.errors.CodecError` where the weights are no whole state dict,
    :class:`~federation.errors.ModelError` where the layers cannot be built, or are not theirs.
    """
    checkpoint = scratch / original.path.name
    original.copy_weights(checkpoint)
    tensors = read_checkpoint(checkpoint, scratch)
    checkpoint.unlink()
    architecture, named = _fitting(_readings(original), tensors)
    weights, parts = describe_weights(named)
    with original.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = VersionManifest(
        line=line,
        branch=branch,
        round=0,
        architecture=architecture,
        preprocessing=None,
        outputs=outputs_of(labels),
        lineage=Lineage(config_digest=digest),
        weights=weights,
    )
    return Adopted(manifest=manifest, parts=parts, renamed=named.keys() != tensors.keys())


def _readings(original: Original) -> Iterable[Architecture]:
    for document in readings(original.document):
        yield Architecture(network=NETWORK_OF_LAYERS, arguments=document)


def _fitting(
    architectures: Iterable[Architecture], tensors: Mapping[str, Tensor]
) -> tuple[Architecture, dict[str, Tensor]]:
    """The first architecture that the tensors fit; the first's fault where none does."""
    fault: ModelError | None = None
    for architecture in architectures:
        try:
            return architecture, named_as(architecture, tensors)
        except ModelError as error:
            fault = fault or error
    assert fault is not None
    raise fault


def outputs_of(labels: Mapping[int, str]) -> tuple[OutputLabel, ...]:
    """What a network's outputs mean, by the labels of an experiment."""
    return tuple(OutputLabel.named(number, name) for number, name in sorted(labels.items()))
