"""Runs side by side: what was different, and what came of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.config import Experiment, read_experiment
from federation.errors import ConfigError
from server.report.folder import resolved_document
from server.report.summary import RunMetrics, RunTimings, RunVersions, clock


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What came of one run.

    run:           the folder's name, or its path where several have that name
    rounds:        finished, of ``planned``
    word:          what the metric is called that the next three are: Dice, or AUC
    test:          mean over all cases, of the last finished round, as ``validation``
    of_sites:      each site's test metric of that round
    wall_s:        of the finished rounds; None where no timings were kept
    common_rounds: how many versions it and the first of the runs both have
    differs_from:  the first of those rounds whose weights digests differ; None where none does
    """

    run: str
    folder: str
    experiment: str
    line: str
    strategy: str
    seed: int
    rounds: int
    planned: int
    word: str
    validation: float | None
    test: float | None
    of_sites: Mapping[str, float | None]
    wall_s: float | None
    common_rounds: int
    differs_from: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Runs compared, in the order they were given.

    differences: keys of the configurations that are not the same in all, with each run's value
    """

    results: Sequence[Result]
    differences: Mapping[str, Sequence[Any]]

    def result_table(self) -> list[dict[str, Any]]:
        """A column for each run; a row for each fact."""
        sites = dict.fromkeys(site for result in self.results for site in result.of_sites)
        word = " or ".join(dict.fromkeys(result.word for result in self.results))
        rows: dict[str, list[Any]] = {
            "experiment": [r.experiment for r in self.results],
            "line": [r.line for r in self.results],
            "strategy": [r.strategy for r in self.results],
            "seed": [r.seed for r in self.results],
            "rounds": [f"{r.rounds} of {r.planned}" for r in self.results],
            f"validation {word}": [r.validation for r in self.results],
            f"test {word}": [r.test for r in self.results],
            **{f"test {word}, {s}": [r.of_sites.get(s) for r in self.results] for s in sites},
            "wall time": [None if r.wall_s is None else clock(r.wall_s) for r in self.results],
            "weights": ["compared with", *map(_verdict, self.results[1:])],
        }
        return self._table(rows)

    def difference_table(self) -> list[dict[str, Any]]:
        """A column for each run; a row for each key."""
        return self._table(
            {
                key: [None if value is None else str(value) for value in values]
                for key, values in self.differences.items()
            }
        )

    def _table(self, rows: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        runs = [result.run for result in self.results]
        return [{"": name, **dict(zip(runs, row, strict=True))} for name, row in rows.items()]


def compare(folders: Sequence[Path]) -> Comparison:
    """Compare the runs in ``folders``; the first is what the others' weights are held against.

    Raises :class:`ConfigError` for fewer than two, for one given twice, and for a folder that
    holds no run with a finished round.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise ConfigError("compare needs the folders of two runs or more, each given once")
    runs = [_Run.read(folder) for folder in folders]
    names = [folder.resolve().name for folder in folders]
    return Comparison(
        results=[
            run.result(name if names.count(name) == 1 else str(run.folder), runs[0])
            for name, run in zip(names, runs, strict=True)
        ],
        differences=_differences([_flat(resolved_document(run.experiment)) for run in runs]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """What a run's folder says; ``digests``: of the weights, by round."""

    folder: Path
    metrics: RunMetrics
    experiment: Experiment
    digests: Mapping[int, str]
    wall: Mapping[int, float]

    @classmethod
    def read(cls, folder: Path) -> "_Run":
        metrics = RunMetrics.read(folder)
        versions = RunVersions.read(folder)
        return cls(
            folder=folder,
            metrics=metrics,
            experiment=read_experiment(folder / "config.toml"),
            digests={line["round"]: line["weights_digest"] for line in versions.lines},
            wall=RunTimings.read(folder).wall,
        )

    def result(self, name: str, first: "_Run") -> Result:
        last = self.metrics.last()
        sites = [line for line in self.metrics.of_round(last["round"]) if line["site"] is not None]
        common = sorted(self.digests.keys() & first.digests.keys())
        return Result(
            run=name,
            folder=str(self.folder),
            experiment=self.experiment.name,
            line=str(self.experiment.line),
            strategy=self.experiment.strategy.name,
            seed=self.experiment.seed,
            rounds=last["round"],
            planned=self.experiment.rounds,
            word=self.metrics.task.word,
            validation=self.metrics.score(last, "validation"),
            test=self.metrics.score(last, "test"),
            of_sites={line["site"]: self.metrics.score(line, "test") for line in sites},
            wall_s=sum(self.wall.values()) if self.wall else None,
            common_rounds=len(common),
            differs_from=next((n for n in common if self.digests[n] != first.digests[n]), None),
        )


def _verdict(result: Result) -> str:
    if result.common_rounds == 0:
        return "no common round"
    if result.differs_from is None:
        return f"the same in all {result.common_rounds}"
    return f"differ from round {result.differs_from}"


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _differences(documents: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for document in documents for key in document)
    values = {key: [document.get(key) for document in documents] for key in keys}
    return {key: found for key, found in values.items() if len({json.dumps(v) for v in found}) > 1}
