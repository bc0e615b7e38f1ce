"""A run read back from its folder: metrics, versions, where the time went."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.config import read_experiment
from federation.errors import ConfigError
from federation.task import TASKS, Task

Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    """A file of JSON lines; a last line that a kill cut short is left out.

    Raises :class:`ConfigError` where any other line is damaged.
    """
    whole = path.read_bytes().rpartition(b"\n")[0]
    try:
        return [json.loads(text) for text in whole.splitlines()]
    except ValueError as error:
        raise ConfigError(f"{path} holds a line that is no JSON: {error}") from error


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: ``0:05:16``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMetrics:
    """``metrics.jsonl`` of a run: a line for each round and site, and one for each round.

    task: says which metric is looked at first
    """

    task: Task
    sites: tuple[str, ...]
    lines: Sequence[Line]

    @classmethod
    def read(cls, folder: Path) -> "RunMetrics":
        """Raises :class:`ConfigError` where the folder holds no finished round, or its
        configuration is gone."""
        path = folder / "metrics.jsonl"
        lines = read_lines(path) if path.exists() else []
        if not any(line["site"] is None for line in lines):
            inner = ", ".join(sorted(found.parent.name for found in folder.glob("*/metrics.jsonl")))
            hint = f"; there are runs in its folders {inner}" if inner else ""
            raise ConfigError(f"{folder} holds no run with a finished round{hint}")
        sites = dict.fromkeys(line["site"] for line in lines if line["site"] is not None)
        experiment = read_experiment(folder / "config.toml")
        return cls(task=TASKS[experiment.model.task], sites=tuple(sites), lines=lines)

    def of_site(self, site: str | None) -> list[Line]:
        """The lines of a site, or those over all sites (None), by round."""
        return [line for line in self.lines if line["site"] == site]

    def curve(self, site: str | None, key: str) -> tuple[list[int], list[float]]:
        """Rounds and values of one metric, where it was measured."""
        measured = [line for line in self.of_site(site) if line[key] is not None]
        return [line["round"] for line in measured], [line[key] for line in measured]

    def score(self, line: Line, part: str) -> float | None:
        """The task's metric of a line, on ``test`` or ``validation``; None where not measured."""
        value: float | None = line[f"{part}_{self.task.headline}"]
        return value

    def score_table(self) -> list[dict[str, Any]]:
        """The test metric of each round: a column for each site, then the means over all cases."""
        rows: dict[int, dict[str, Any]] = {}
        for line in self.lines:
            row = rows.setdefault(
                line["round"], {"round": line["round"], **dict.fromkeys(self.sites)}
            )
            if line["site"] is None:
                row["test mean"] = self.score(line, "test")
                row["validation mean"] = self.score(line, "validation")
            else:
                row[line["site"]] = self.score(line, "test")
        return list(rows.values())

    def last(self) -> Line:
        """The line over all sites of the last round."""
        return self.of_site(None)[-1]

    def best(self) -> Line:
        """The line over all sites of the round that validation liked best; test has no say."""
        lines = self.of_site(None)
        measured = [one for one in lines if self.score(one, "validation") is not None]
        return max(measured or lines[-1:], key=lambda one: self.score(one, "validation") or 0.0)

    def of_round(self, round: int) -> list[Line]:
        """The lines of a round: each site's, then the one over all sites."""
        return [line for line in self.lines if line["round"] == round]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunVersions:
    """``versions.jsonl`` of a run: a line for each round."""

    lines: Sequence[Line]

    @classmethod
    def read(cls, folder: Path) -> "RunVersions":
        """Raises :class:`ConfigError` where the folder holds no run."""
        path = folder / "versions.jsonl"
        if not path.exists():
            raise ConfigError(f"{folder} holds no run: there is no versions.jsonl")
        return cls(lines=read_lines(path))

    @property
    def sites(self) -> tuple[str, ...]:
        """Whose updates came in, in any round."""
        return tuple(dict.fromkeys(site for line in self.lines for site in line["sites"]))

    def curve(self, site: str) -> tuple[list[int], list[float]]:
        """Rounds and training losses of a site."""
        told = [line for line in self.lines if line["loss"].get(site) is not None]
        return [line["round"] for line in told], [line["loss"][site] for line in told]


WORKS = ("training", "evaluation", "data", "archive", "transfer", "aggregation")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTimings:
    """``timings.jsonl`` of a run, added up.

    by_who:    seconds by work, of each site, and last of the aggregator itself
    by_round:  seconds by work, of all of them, by round
    wall:      seconds of each finished round on the clock on the wall, which are less than the
               sum where sites work at the same time
    untrained: by round and site, why an answer does not count that was due before the round's
               version was published
    """

    by_who: Mapping[str, Mapping[str, float]]
    by_round: Mapping[int, Mapping[str, float]]
    wall: Mapping[int, float]
    untrained: Mapping[int, Mapping[str, str]]

    @classmethod
    def read(cls, folder: Path) -> "RunTimings":
        """Nothing of a run that kept no timings, as they are in no archive."""
        path = folder / "timings.jsonl"
        by_who: dict[str, Counter[str]] = {}
        by_round: dict[int, Counter[str]] = {}
        aggregator: Counter[str] = Counter()
        wall: dict[int, float] = {}
        untrained: dict[int, dict[str, str]] = {}
        published: set[int] = set()
        for line in read_lines(path) if path.exists() else []:
            round, site, seconds = line["round"], line["site"], line["seconds"]
            if line["work"] == "round":
                wall[round] = seconds["wall"]
                continue
            if line["work"] == "publish":
                published.add(round)
            elif line.get("problem") and round not in published:
                untrained.setdefault(round, {})[site] = line["problem"]
            of_site = aggregator if site is None else by_who.setdefault(site, Counter())
            for work in WORKS:
                spent = seconds.get(work, 0.0)
                who = aggregator if work == "aggregation" else of_site
                who[work] += spent
                by_round.setdefault(round, Counter())[work] += spent
        if by_round:
            by_who["aggregator"] = aggregator
        return cls(by_who=by_who, by_round=by_round, wall=wall, untrained=untrained)
