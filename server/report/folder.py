"""The folder a run leaves: its configuration, its metrics line by line, its versions."""

import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from federation.config import Experiment
from federation.errors import ConfigError
from federation.iodeep.manifest import VersionManifest
from server.events import Evaluated, Event, Published, Started


class RunFolder:
    """Writes what happens into a folder, as it happens.

    config.toml     the resolved experiment; its digest is in run.json
    metrics.jsonl   a line for each round and site, and one for each round with ``site: null``
    metrics.csv     the same as a table
    versions.jsonl  the versions, by round
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        if (path / "metrics.jsonl").exists():
            raise ConfigError(f"{path} holds a run already; give another folder with --out")

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case Started(experiment=experiment, version=version):
                self._write_experiment(experiment, version)
                self._add_version(version)
            case Published(version=version):
                self._add_version(version)
            case Evaluated():
                lines = list(metrics_lines(event))
                _append(self.path / "metrics.jsonl", lines)
                self._append_csv(lines)

    def _write_experiment(self, experiment: Experiment, version: VersionManifest) -> None:
        document = experiment.model_dump(mode="json", exclude_none=True)
        architecture = document["model"].pop("architecture")
        document["model"]["architecture"] = {
            "network": architecture["network"],
            **architecture["arguments"],
        }
        (self.path / "config.toml").write_text(tomli_w.dumps(document), encoding="utf-8")
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
            "sites": {receipt.site: receipt.examples for receipt in version.lineage.receipts},
        }
        _append(self.path / "versions.jsonl", [line])

    def _append_csv(self, lines: list[dict[str, Any]]) -> None:
        path = self.path / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(lines[-1]))
            if new:
                writer.writeheader()
            writer.writerows(lines)


def metrics_lines(event: Evaluated) -> Iterator[dict[str, Any]]:
    """A line for each site, in roster order, and last the one over all sites.

    A site whose answer does not count has no numbers, and a ``problem``.
    """
    names = _metric_names(event)
    total = {part: sum(c.get(part, 0) for c in event.cases.values()) for part in _PARTS}
    for site in [*event.sites, *event.problems]:
        yield _line(
            event.version,
            site,
            names,
            event.sites.get(site, {}),
            event.cases.get(site, {}),
            event.problems.get(site),
        )
    yield _line(event.version, None, names, event.mean, total, None)


_PARTS = ("validation", "test")


def _metric_names(event: Evaluated) -> list[str]:
    """The mean and each label's Dice, whether measured or not, so that all lines are alike."""
    labels = [f"dice_{output.number}" for output in event.version.outputs]
    return [f"{part}_{name}" for part in _PARTS for name in ["dice_mean", *labels, "loss"]]


def _line(
    version: VersionManifest,
    site: str | None,
    names: list[str],
    metrics: Mapping[str, float],
    cases: Mapping[str, int],
    problem: str | None,
) -> dict[str, Any]:
    return {
        "round": version.round,
        "site": site,
        "version": version.uid,
        "weights_digest": version.weights.digest,
        **{name: metrics.get(name) for name in names},
        **{f"{part}_cases": cases.get(part, 0) for part in _PARTS},
        "problem": problem,
    }


def _append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Append JSON lines and make them last, so that an interrupted run keeps them."""
    with path.open("a", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
