"""A run's metrics, read back from its folder."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.errors import ConfigError

Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    """A file of JSON lines; a last line that a kill cut short is left out."""
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(text) for text in whole.splitlines()]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMetrics:
    """``metrics.jsonl`` of a run: a line for each round and site, and one for each round."""

    sites: tuple[str, ...]
    lines: Sequence[Line]

    @classmethod
    def read(cls, folder: Path) -> "RunMetrics":
        """Raises :class:`ConfigError` where the folder holds no finished round."""
        path = folder / "metrics.jsonl"
        if not path.exists():
            raise ConfigError(f"{folder} holds no run with a finished round")
        lines = read_lines(path)
        sites = dict.fromkeys(line["site"] for line in lines if line["site"] is not None)
        return cls(sites=tuple(sites), lines=lines)

    def of_site(self, site: str | None) -> list[Line]:
        """The lines of a site, or those over all sites (None), by round."""
        return [line for line in self.lines if line["site"] == site]

    def curve(self, site: str | None, key: str) -> tuple[list[int], list[float]]:
        """Rounds and values of one metric, where it was measured."""
        measured = [line for line in self.of_site(site) if line[key] is not None]
        return [line["round"] for line in measured], [line[key] for line in measured]

    def dice_table(self) -> list[dict[str, Any]]:
        """Test Dice of each round: a column for each site, then the means over all cases."""
        rows: dict[int, dict[str, Any]] = {}
        for line in self.lines:
            row = rows.setdefault(
                line["round"], {"round": line["round"], **dict.fromkeys(self.sites)}
            )
            if line["site"] is None:
                row["test mean"] = line["test_dice_mean"]
                row["validation mean"] = line["validation_dice_mean"]
            else:
                row[line["site"]] = line["test_dice_mean"]
        return list(rows.values())

    def last(self) -> Line:
        """The line over all sites of the last round."""
        return self.of_site(None)[-1]

    def best(self) -> Line:
        """The line over all sites of the round that validation liked best; test has no say."""
        measured = [one for one in self.of_site(None) if one["validation_dice_mean"] is not None]
        return max(measured or [self.last()], key=lambda one: one["validation_dice_mean"] or 0.0)

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


_WORKS = ("training", "evaluation", "data", "archive", "transfer", "aggregation")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTimings:
    """``timings.jsonl`` of a run, added up.

    by_who:  seconds by work, of each site, and of the aggregator itself
    by_round: by round, what its sites and the aggregator spent, and ``wall``, the clock on the
             wall, which is less where sites work at the same time
    """

    works: tuple[str, ...]
    by_who: Mapping[str, Mapping[str, float]]
    by_round: Mapping[int, Mapping[str, float]]

    @classmethod
    def read(cls, folder: Path) -> "RunTimings":
        path = folder / "timings.jsonl"
        by_who: dict[str, Counter[str]] = {}
        by_round: dict[int, Counter[str]] = {}
        for line in read_lines(path) if path.exists() else []:
            total = by_round.setdefault(line["round"], Counter())
            for work, seconds in line["seconds"].items():
                total[work] += seconds
                if work == "wall":
                    continue
                at_site = line["site"] is not None and work != "aggregation"
                who = line["site"] if at_site else "aggregator"
                by_who.setdefault(who, Counter())[work] += seconds
        return cls(works=_WORKS, by_who=by_who, by_round=by_round)
