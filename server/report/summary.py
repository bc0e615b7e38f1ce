"""A run's metrics, read back from its folder."""

import json
from collections.abc import Sequence
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
