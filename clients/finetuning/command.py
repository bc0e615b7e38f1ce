"""`iodeep site finetune`: train, compare, and store the version where it is better."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import rfc8785

from clients.data import LabelledData
from clients.evaluation import trainer_for
from clients.finetuning.finetune import Tuned, digest_of, finetune
from clients.hospital import Hospital
from clients.policy import check_room
from federation.commands.output import print_json, print_table
from federation.commands.progress import steps_done
from federation.config import FinetuneTable, Site
from federation.iodeep.codec import describe_weights
from federation.iodeep.labels import Line
from federation.iodeep.manifest import (
    Lineage,
    Receipt,
    VersionManifest,
)
from federation.networks import tensors_of
from federation.task import TASKS

_BRANCH_NAME = 11


@dataclass(frozen=True, kw_only=True, slots=True)
class _Done:
    parent: VersionManifest
    data: LabelledData
    tuned: Tuned
    stored: VersionManifest | None


def run_finetuning(site: Site, line: str, version: str | None, *, as_json: bool) -> None:
    """Fine-tune the released version of a line, or another, and print what came of it."""
    with Hospital(site) as hospital:
        done = _finetune(hospital, hospital.named(Line.parse(line), version))
    if as_json:
        print_json(_as_json(done))
    else:
        _print(done)


def _finetune(hospital: Hospital, parent: VersionManifest) -> _Done:
    site = hospital.site
    table = site.finetune
    settings = table.training
    if table.layers == "head":  # statistics of what does not learn stay as they are
        settings = settings.model_copy(update={"normalisation": "frozen"})
    with hospital.registry.pull(parent) as record:
        trainer = trainer_for(parent, record.tensors(), settings)
    data = hospital.labelled_data(parent)
    hospital.release()
    digest = digest_of(parent, table, site.name, data)
    with steps_done("Epochs") as progress:
        tuned = finetune(
            trainer,
            data,
            parent,
            table,
            site=site.name,
            folder=site.work / "finetune" / digest[:16],
            on_epoch=progress,
        )
    hospital.record(parent, tuned.before)
    if tuned.problem is not None or tuned.best is None:
        return _Done(parent=parent, data=data, tuned=tuned, stored=None)
    weights, parts = describe_weights(tensors_of(trainer.network))
    version = VersionManifest(
        line=parent.line,
        branch=f"{site.name[:_BRANCH_NAME].strip('-_')}-{digest[:4]}",
        round=1,
        task=parent.task,
        architecture=parent.architecture,
        preprocessing=parent.preprocessing,
        postprocessing=parent.postprocessing,
        outputs=parent.outputs,
        lineage=Lineage(
            parent=parent.reference,
            config_digest=_config_digest(table),
            strategy=f"finetune {table.layers}",
            receipts=(
                Receipt(
                    site=site.name,
                    examples=len(data.train),
                    update_digest=weights.digest,
                    metrics={"loss": tuned.best.loss, "epoch": float(tuned.best.number)},
                ),
            ),
        ),
        weights=weights,
    )
    check_room(site.policy.store, hospital.registry, version)
    hospital.registry.publish(version, parts)
    hospital.record(version, tuned.after)
    return _Done(parent=parent, data=data, tuned=tuned, stored=version)


def _config_digest(table: FinetuneTable) -> str:
    return hashlib.sha256(rfc8785.dumps(table.model_dump(mode="json"))).hexdigest()


def _print(done: _Done) -> None:
    tuned, parent = done.tuned, done.parent
    task = TASKS[parent.task]
    labels = {output.number: output.name for output in parent.outputs}
    rows = [
        {
            "": f"{part} {name}",
            "cases": len(getattr(done.data, part)),
            "before": tuned.before.metrics.get(f"{part}_{key}"),
            "after": tuned.after.metrics.get(f"{part}_{key}"),
        }
        for part in ("validation", "test")
        for key, name in task.columns(labels).items()
    ]
    print_table(f"{parent.line}, from {parent.branch}:{parent.round}", rows)
    if tuned.cases:
        cases = [
            {
                "test case": one.case,
                "before": one.before,
                "after": one.after,
                "": _gain(one.after - one.before),
            }
            for one in tuned.cases
        ]
        print_table("", cases)
    best = (
        f"the best of {len(tuned.epochs)} epochs is {tuned.best.number}" if tuned.best else "none"
    )
    facts = {"epochs": f"{best}; {tuned.stopped}"}
    if done.stored is None:
        facts["not stored"] = tuned.problem or ""
    else:
        facts["stored"] = f"branch {done.stored.branch}, {done.stored.uid}"
    print_table("", [{"": key, "what": value} for key, value in facts.items()])


def _gain(gain: float) -> str:
    if math.isnan(gain):
        return ""
    return f"{gain:+.4f}"


def _as_json(done: _Done) -> dict[str, Any]:
    tuned = done.tuned
    return {
        "line": str(done.parent.line),
        "parent": done.parent.uid,
        "version": done.stored.uid if done.stored else None,
        "branch": done.stored.branch if done.stored else None,
        "weights_digest": done.stored.weights.digest if done.stored else None,
        "problem": tuned.problem,
        "stopped": tuned.stopped,
        "cases": {
            "train": len(done.data.train),
            "validation": len(done.data.validation),
            "test": len(done.data.test),
        },
        "before": dict(tuned.before.metrics),
        "after": dict(tuned.after.metrics),
        "epochs": [
            {"number": one.number, "loss": one.loss, "validation": one.validation}
            for one in tuned.epochs
        ],
        "test_cases": [
            {"case": one.case, "before": _finite(one.before), "after": _finite(one.after)}
            for one in tuned.cases
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
