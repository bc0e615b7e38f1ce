"""A version's network on a site's labelled cases: for training, and what it is worth there."""

import math
from collections.abc import Callable, Mapping

from clients.data import LabelledData, Reason
from clients.training import Classifier, Segmenter, Trainer
from federation.config import TrainingTable
from federation.iodeep.manifest import Measured, VersionManifest
from federation.iodeep.weights import Tensor
from federation.networks import build_network, check_task, load_tensors


def trainer_for(
    version: VersionManifest, tensors: Mapping[str, Tensor], settings: TrainingTable
) -> Trainer:
    """What trains a version's network for its task, with these weights."""
    check_task(version.architecture, version.task, len(version.outputs))
    network = build_network(version.architecture)
    load_tensors(network, tensors)
    trainer = Classifier if version.task == "classification" else Segmenter
    return trainer(
        network, settings, labels=len(version.outputs), preprocessing=version.preprocessing
    )


def measure(
    trainer: Trainer,
    data: LabelledData,
    *,
    least_cases: int = 1,
    on_case: Callable[[int], None] | None = None,
) -> Measured:
    """The metrics of a network on the site's validation and test cases; what is not finite, as
    the Dice of a label that no case has, is left out.

    least_cases: what would be a mean over fewer cases is left out, too
    on_case:     hears the case of a part, from 1
    """
    parts = {"validation": data.validation, "test": data.test}
    metrics: dict[str, float] = {}
    for part, examples in parts.items():
        if len(examples) >= least_cases:
            measured = trainer.evaluate(examples, least=least_cases, on_case=on_case).metrics
            metrics |= {f"{part}_{name}": v for name, v in measured.items() if math.isfinite(v)}
    return Measured(
        metrics=metrics,
        cases={part: len(examples) for part, examples in parts.items()},
        quarantined=counts_of(data.quarantined),
    )


def counts_of(quarantined: Mapping[Reason, int]) -> dict[str, int]:
    """Studies left out, by the reason's code."""
    return {str(reason): count for reason, count in quarantined.items()}
