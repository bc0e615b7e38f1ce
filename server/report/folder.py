"""The folder a run leaves: its configuration, its metrics line by line, its versions."""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from federation.config import Experiment
from federation.iodeep.manifest import Measured, VersionManifest
from federation.task import TASKS
from federation.whole import write_over
from server.events import Answered, Closed, Evaluated, Event, Published, Started


class RunFolder:
    """Writes what happens into a folder, as it happens.

    config.toml     the resolved experiment; its digest is in run.json
    metrics.jsonl   a line for each round and site, and one for each round with ``site: null``
    metrics.csv     the same as a table
    versions.jsonl  the versions, by round
    timings.jsonl   where the time went, by round, work and site, and why an answer does not
                    count
    audit.jsonl     the head of its audit log that each answer named, by round, work and site: what
                    `iodeep site audit --head` compares
    All files but these two can be written again from the aggregator's archive, and are when a run
    goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._roster: tuple[str, ...] = ()
        path.mkdir(parents=True, exist_ok=True)

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case Started():
                self._begin(event)
            case Published(version=version, seconds=seconds):
                self._add_version(version)
                self._add_seconds(version.round, "publish", seconds)
            case Answered(round=round, work=work, seconds=seconds, site=site, problem=problem):
                self._add_seconds(round, work, seconds, site=site, problem=problem)
                self._add_head(event)
            case Evaluated():
                self._add_metrics(event)
            case Closed(round=round, seconds=seconds):
                self._add_seconds(round, "round", {"wall": seconds})

    def _begin(self, event: Started) -> None:
        """Write what the archive knows of earlier rounds; timings are known here alone."""
        for name in ("metrics.jsonl", "metrics.csv", "versions.jsonl"):
            (self.path / name).unlink(missing_ok=True)
        for name in ("timings.jsonl", "audit.jsonl"):
            _cut_unfinished(self.path / name)
        self._roster = event.experiment.roster
        versions = {evaluated.version.uid: evaluated.version for evaluated in event.earlier}
        versions[event.version.uid] = event.version
        self._write_experiment(event.experiment, next(iter(versions.values())))
        for version in versions.values():
            self._add_version(version)
        for evaluated in event.earlier:
            self._add_metrics(evaluated)

    def _add_metrics(self, event: Evaluated) -> None:
        lines = list(metrics_lines(event, self._roster))
        _append(self.path / "metrics.jsonl", lines)
        self._append_csv(lines)

    def _add_seconds(
        self,
        round: int,
        work: str,
        seconds: Mapping[str, float],
        *,
        site: str | None = None,
        problem: str | None = None,
    ) -> None:
        line = {"round": round, "work": work, "site": site, "seconds": dict(seconds)}
        _append(self.path / "timings.jsonl", [line | {"problem": problem}])

    def _add_head(self, event: Answered) -> None:
        if event.audit is not None:
            line = {"round": event.round, "work": event.work, "site": event.site}
            _append(self.path / "audit.jsonl", [line | {"head": event.audit}])

    def _write_experiment(self, experiment: Experiment, version: VersionManifest) -> None:
        document = tomli_w.dumps(resolved_document(experiment))
        (self.path / "config.toml").write_text(document, encoding="utf-8")
        facts = {
            "name": experiment.name,
            "line": str(version.line),
            "start": version.uid,
            "config_digest": experiment.digest,
        }
        (self.path / "run.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def _add_version(self, version: VersionManifest) -> None:
        parent = version.lineage.parent
        line = {
            "round": version.round,
            "branch": version.branch,
            "version": version.uid,
            "digest": version.digest,
            "weights_digest": version.weights.digest,
            "parent": parent.uid if parent else None,
            "strategy": version.lineage.strategy,
            "sites": {receipt.site: receipt.examples for receipt in version.lineage.receipts},
            "loss": {
                receipt.site: receipt.metrics.get("loss") for receipt in version.lineage.receipts
            },
        }
        _append(self.path / "versions.jsonl", [line])

    def _append_csv(self, lines: list[dict[str, Any]]) -> None:
        path = self.path / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            names = [name for name in lines[-1] if name != "quarantined"]  # a table has no tables
            writer = csv.DictWriter(file, fieldnames=names, extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerows(lines)


def resolved_document(experiment: Experiment) -> dict[str, Any]:
    """An experiment as its TOML document, with every default written out."""
    document = experiment.model_dump(mode="json", exclude_none=True)
    architecture = document["model"].pop("architecture")
    document["model"]["architecture"] = {
        "network": architecture["network"],
        **architecture["arguments"],
    }
    return document


def metrics_lines(event: Evaluated, roster: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A line for each site, in roster order, and last the one over all sites.

    A site whose answer does not count has no numbers, and a ``problem``. The order is the
    roster's, as that of an evaluation read from an archive is the alphabet's.
    """
    names = _metric_names(event)
    evaluation = event.evaluation
    for site in roster:
        measured = evaluation.sites.get(site, Measured(metrics={}, cases={}))
        yield _line(event.version, site, names, measured, evaluation.missing.get(site))
    yield _line(event.version, None, names, evaluation.measured, None)


_PARTS = ("validation", "test")


def _metric_names(event: Evaluated) -> list[str]:
    """The task's metrics, whether measured or not, so that all lines are alike."""
    labels = {output.number: output.name for output in event.version.outputs}
    names = [*TASKS[event.version.task].columns(labels), "loss"]
    return [f"{part}_{name}" for part in _PARTS for name in names]


def _line(
    version: VersionManifest,
    site: str | None,
    names: list[str],
    measured: Measured,
    problem: str | None,
) -> dict[str, Any]:
    return {
        "round": version.round,
        "site": site,
        "version": version.uid,
        "weights_digest": version.weights.digest,
        **{name: measured.metrics.get(name) for name in names},
        **{f"{part}_cases": measured.cases.get(part, 0) for part in _PARTS},
        "problem": problem,
        "left_out": sum(measured.quarantined.values()),
        "quarantined": dict(measured.quarantined),
    }


def _append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Append JSON lines and make them last, so that an interrupted run keeps them."""
    with path.open("a", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, text: str) -> None:
    """The whole file or, after a kill, what was there before."""
    write_over(path, text.encode())


def _cut_unfinished(path: Path) -> None:
    """Cut off a last line that a kill left unfinished, before others are appended to it."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
