"""Runs side by side: what was different, and what came of it."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.errors import ConfigError
from server.report.summary import RunMetrics, RunTimings, RunVersions


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Runs compared, in the order they were given.

    results:      of each run: rounds, mean Dice of the last, each site's test Dice, seconds
    differences:  keys of the configurations that are not the same in all, with each run's value
    first_change: by run, the first round whose weights digest is not the first run's; None
                  where all rounds that both have are the same
    """

    names: tuple[str, ...]
    results: Sequence[Mapping[str, Any]]
    differences: Mapping[str, Sequence[Any]]
    first_change: Sequence[int | None]


def compare(folders: Sequence[Path]) -> Comparison:
    """Compare the runs in ``folders``. Raises :class:`ConfigError` where one holds none."""
    metrics = [RunMetrics.read(folder) for folder in folders]
    versions = [_digests(folder) for folder in folders]
    sites = tuple(dict.fromkeys(site for one in metrics for site in one.sites))
    return Comparison(
        names=tuple(str(folder) for folder in folders),
        results=[_result(folder, one, sites) for folder, one in zip(folders, metrics, strict=True)],
        differences=_differences([_configuration(folder) for folder in folders]),
        first_change=[_first_change(versions[0], other) for other in versions],
    )


def _result(folder: Path, metrics: RunMetrics, sites: Sequence[str]) -> dict[str, Any]:
    last = metrics.last()
    of_site = {line["site"]: line for line in metrics.of_round(last["round"])}
    timings = RunTimings.read(folder)
    return {
        "run": str(folder),
        "round": last["round"],
        "validation": last["validation_dice_mean"],
        "test": last["test_dice_mean"],
        **{site: of_site[site]["test_dice_mean"] if site in of_site else None for site in sites},
        "seconds": round(sum(timings.wall.values()), 1),
    }


def _digests(folder: Path) -> dict[int, str]:
    return {line["round"]: line["weights_digest"] for line in RunVersions.read(folder).lines}


def _first_change(one: Mapping[int, str], other: Mapping[int, str]) -> int | None:
    return next((n for n in sorted(one.keys() & other.keys()) if one[n] != other[n]), None)


def _configuration(folder: Path) -> dict[str, Any]:
    try:
        return _flat(tomllib.loads((folder / "config.toml").read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{folder} holds no readable config.toml: {error}") from error


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
