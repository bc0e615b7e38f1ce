"""``report.html``: a run in one file that needs nothing else, for people to look at."""

import base64
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from federation.config import Experiment, read_experiment
from server.report.figures import (
    draw_legend,
    draw_loss,
    draw_scores,
    draw_slices,
    draw_times,
    find_previews,
)
from server.report.summary import (
    WORKS,
    Line,
    RunMetrics,
    RunTimings,
    RunVersions,
    clock,
    read_lines,
)
from server.simulation import NOT_IMPORTED

_WIDTH_IN = 11.0
_CURVES_HEIGHT_IN = 3.4
_SLICES_SIZE_IN = (5.2, 2.8)
_BAR_HEIGHT_IN = 0.35


def write_report(folder: Path) -> Path:
    """Write the report of the run in ``folder``, from nothing but what the folder holds.

    Raises :class:`~federation.errors.ConfigError` where it holds no finished round.
    """
    metrics = RunMetrics.read(folder)
    versions = RunVersions.read(folder)
    timings = RunTimings.read(folder)
    experiment = read_experiment(folder / "config.toml")
    labels = experiment.model.labels
    last = metrics.last()
    test = f"test_{metrics.task.headline}"
    measured = [
        line for line in metrics.of_round(last["round"])
        if line["site"] is not None and line[test] is not None
    ]  # fmt: skip
    template = _environment().get_template("report.html")
    text = template.render(
        experiment=experiment,
        task=metrics.task,
        columns=metrics.task.columns(labels),
        configuration=(folder / "config.toml").read_text(encoding="utf-8"),
        branch=versions.lines[-1]["branch"],
        last=last,
        worst=min(measured, key=lambda line: line[test], default=None),
        results=_results(metrics),
        data=[_data_row(folder, metrics, versions, site) for site in experiment.roster],
        curves=_curves(metrics, versions),
        slices={
            site: _slices(site, preview, labels)
            for site, preview in find_previews(folder, experiment.roster).items()
        },
        timings=timings,
        bars=_bars(timings) if timings.by_who else None,
        works=WORKS,
        lineage=[_lineage_row(line, experiment, metrics, timings) for line in versions.lines],
    )
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("server.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clock": clock,
        "score": lambda value: "-" if value is None else f"{value:.4f}",
        "each": _each,
        "reasons": lambda counts: f"{sum(counts.values())}: {_each(counts)}" if counts else "0",
        "seconds": lambda value: f"{value:.1f}",
    }
    return environment


def _each(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{what} ({count})" for what, count in counts.items())


def _results(metrics: RunMetrics) -> dict[str, list[Line]]:
    """By title, the lines of the last round, and of the best where that is another one."""
    last, best = metrics.last()["round"], metrics.best()["round"]
    if best == last:
        return {f"Round {last}, the last and the best on validation": metrics.of_round(last)}
    return {
        f"Round {last}, the last": metrics.of_round(last),
        f"Round {best}, the best on validation": metrics.of_round(best),
    }


def _data_row(
    folder: Path, metrics: RunMetrics, versions: RunVersions, site: str
) -> dict[str, Any]:
    """What a site said of its data when it last answered; names of cases stay where they are."""
    lines = metrics.of_site(site)
    told = [line for line in lines if not line["problem"]] or lines
    trained = [line["sites"][site] for line in versions.lines if site in line["sites"]]
    path = folder / "sites" / site / NOT_IMPORTED
    not_imported = read_lines(path) if path.exists() else []
    return {
        "site": site,
        "training": trained[-1] if trained else "-",
        "validation": told[-1]["validation_cases"],
        "test": told[-1]["test_cases"],
        "left_out": told[-1]["quarantined"],
        "not_imported": Counter(case["problem"] for case in not_imported),
    }


def _lineage_row(
    version: Line, experiment: Experiment, metrics: RunMetrics, timings: RunTimings
) -> dict[str, Any]:
    """A version, and by site why it had no part in making or in measuring it."""
    round = version["round"]
    absent = [s for s in experiment.roster if version["parent"] and s not in version["sites"]]
    reasons = timings.untrained.get(round, {})
    measured = {line["site"]: line for line in metrics.of_round(round)}
    return {
        "version": version,
        "untrained": {site: reasons.get(site, "the reason was not kept") for site in absent},
        "unmeasured": {site: line["problem"] for site, line in measured.items() if line["problem"]},
        "result": measured.get(None),
    }


def _curves(metrics: RunMetrics, versions: RunVersions) -> str:
    figure = Figure(figsize=(_WIDTH_IN, _CURVES_HEIGHT_IN), layout="constrained")
    axes = figure.subplots(1, 3)
    draw_scores(axes[:2], metrics)
    draw_loss(axes[2], versions, metrics.sites)
    draw_legend(figure, axes[0])
    for ax in axes:
        ax.set_xlabel("round")
    return _as_uri(figure, "svg")


def _slices(site: str, preview: Path, labels: Mapping[int, str]) -> str:
    figure = Figure(figsize=_SLICES_SIZE_IN, layout="constrained")
    draw_slices(figure, {site: preview}, labels)
    return _as_uri(figure, "png")


def _bars(timings: RunTimings) -> str:
    height = 1.1 + _BAR_HEIGHT_IN * len(timings.by_who)
    figure = Figure(figsize=(_WIDTH_IN, height), layout="constrained")
    draw_times(figure, timings)
    return _as_uri(figure, "svg")


def _as_uri(figure: Figure, kind: str) -> str:
    """A figure within the page: nothing is fetched when it is opened."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=140)
    media = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    return f"data:{media};base64,{base64.b64encode(buffer.getvalue()).decode()}"
