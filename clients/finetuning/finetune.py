"""Training a version on the site's own cases, and what comes of it beside its parent."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from clients.data import LabelledData
from clients.evaluation import measure
from clients.finetuning.layers import train_only
from clients.finetuning.progress import Epoch, Progress, on_device
from clients.training import Trainer, seed_for
from federation.config import FinetuneTable
from federation.errors import DataError, ModelError
from federation.iodeep.manifest import Measured, VersionManifest
from federation.task import TASKS


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A test case, by a short name that means nothing elsewhere: the parent's score and the new."""

    case: str
    before: float
    after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """What came of a fine-tuning.

    before, after: the parent's metrics, and those of the best epoch
    cases:         each test case with both
    problem:       why the result is not to be stored; None where it is
    stopped:       why there was no further epoch
    """

    epochs: tuple[Epoch, ...]
    best: Epoch | None
    before: Measured
    after: Measured
    cases: tuple[Comparison, ...]
    problem: str | None
    stopped: str


def digest_of(parent: VersionManifest, table: FinetuneTable, site: str, data: LabelledData) -> str:
    """SHA-256 over all that decides a fine-tuning's result: it names what is kept of it."""
    content: dict[str, Any] = {
        "parent": parent.digest,
        "settings": table.model_dump(mode="json"),
        "site": site,
        "train": [example.key for example in data.train],
        "validation": [example.key for example in data.validation],
    }
    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()


def finetune(
    trainer: Trainer,
    data: LabelledData,
    parent: VersionManifest,
    table: FinetuneTable,
    *,
    site: str,
    folder: Path,
    on_epoch: Callable[[int, int], None] | None = None,
) -> Tuned:
    """Train until validation gets no better, and leave the best weights in ``trainer.network``.

    trainer: with the parent's weights
    folder:  where it goes on after an interruption

    Equal data, settings and seed give the same weights, interrupted or not. Raises
    :class:`DataError` without cases to validate with.
    """
    task = TASKS[parent.task]
    if not data.validation:
        raise DataError(
            f"site {site} has no case to validate {parent.line} with, so nothing says when "
            "to stop; give split.validation a larger fraction, or name patients there"
        )
    before = measure(trainer, data)
    scores = trainer.scores_of(data.test) if data.test else []
    train_only(trainer.network, table.layers)
    progress = Progress(folder)
    if progress.epochs:
        _load(trainer, progress.last_weights())
    stopped = _train(trainer, data, table, progress, site, task.headline, on_epoch)
    best = progress.best
    headline = f"validation_{task.headline}"
    if best is None:
        return Tuned(
            epochs=(), best=None, before=before, after=before, cases=(),
            problem=stopped, stopped=stopped,
        )  # fmt: skip
    _load(trainer, progress.best_weights())
    after = measure(trainer, data)
    return Tuned(
        epochs=progress.epochs,
        best=best,
        before=before,
        after=after,
        cases=tuple(
            Comparison(case=example.key[:8], before=one, after=other)
            for example, one, other in zip(
                data.test, scores, trainer.scores_of(data.test) if data.test else [], strict=True
            )
        ),
        problem=_no_better(
            before.metrics.get(headline, 0.0), after.metrics[headline], table.least_gain, task.word
        ),
        stopped=stopped,
    )


def _train(
    trainer: Trainer,
    data: LabelledData,
    table: FinetuneTable,
    progress: Progress,
    site: str,
    headline: str,
    on_epoch: Callable[[int, int], None] | None,
) -> str:
    """Epoch after epoch; why there is no further one."""
    for number in range(len(progress.epochs) + 1, table.epochs + 1):
        best = progress.best
        if best is not None and number - 1 - best.number >= table.patience:
            return f"no better for {table.patience} epochs"
        try:
            result = trainer.fit(
                data.train,
                seed=seed_for(table.seed, site, number),
                round=number,
                rounds=table.epochs,
            )
        except ModelError as error:
            return str(error)
        validation = trainer.evaluate(data.validation).metrics[headline]
        if not math.isfinite(validation):
            return "validation cases have none of the labels"
        epoch = Epoch(number=number, loss=result.loss, validation=validation)
        progress.add(epoch, trainer.network.state_dict())
        if on_epoch is not None:
            on_epoch(number, table.epochs)
    return f"{table.epochs} epochs are done"


def _load(trainer: Trainer, weights: Mapping[str, object]) -> None:
    trainer.network.load_state_dict(on_device(weights, trainer.device))  # type: ignore[arg-type]


def _no_better(before: float, after: float, least: float, word: str) -> str | None:
    gain = after - before
    if gain > 0 and gain >= least:
        return None
    asked = f"at least {least:g} more" if least else "more"
    return f"validation {word} is {after:.4f}, and was {before:.4f}; the site asks for {asked}"
