"""``report.html``: a run in one file that needs nothing else, for people to look at."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from server.report.figures import draw_dice, draw_loss, draw_slices, draw_times
from server.report.summary import Line, RunMetrics, RunTimings, RunVersions

_WIDTH_IN = 11.0
_SLICE_HEIGHT_IN = 1.7
_BAR_HEIGHT_IN = 0.4


def write_report(
    folder: Path, labels: Mapping[int, str], rounds: int, previews: Mapping[str, Path]
) -> Path:
    """Write the report of the run in ``folder``, from what the folder holds.

    labels:   what each output value means
    rounds:   how many the experiment has
    previews: by site, the file that the site drew for itself
    """
    metrics = RunMetrics.read(folder)
    versions = RunVersions.read(folder)
    times = RunTimings.read(folder)
    last, best = metrics.last(), metrics.best()
    results = [(f"Round {last['round']}, the last", metrics.of_round(last["round"]))]
    if best["round"] != last["round"]:
        title = f"Round {best['round']}, the best on validation"
        results.append((title, metrics.of_round(best["round"])))
    measured = [
        one for one in metrics.of_round(last["round"])
        if one["site"] is not None and one["test_dice_mean"] is not None
    ]  # fmt: skip
    text = (
        _environment()
        .get_template("report.html")
        .render(
            facts=json.loads((folder / "run.json").read_text(encoding="utf-8")),
            branch=versions.lines[-1]["branch"],
            strategy=versions.lines[-1]["strategy"] or "none yet",
            rounds=rounds,
            labels=labels,
            last=last,
            worst=min(measured, key=lambda one: one["test_dice_mean"], default=None),
            wall_s=sum(spent.get("wall", 0.0) for spent in times.by_round.values()),
            results=results,
            data=[_data_row(metrics, versions, site) for site in metrics.sites],
            curves=_curves(metrics, versions),
            slices=_slices(previews, labels) if previews else None,
            bars=_bars(times) if times.by_who else None,
            times=times,
            versions=versions.lines,
            missing={
                one["round"]: [ln for ln in metrics.of_round(one["round"]) if ln["problem"]]
                for one in versions.lines
            },
            configuration=(folder / "config.toml").read_text(encoding="utf-8"),
        )
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
        "dice": lambda value: "-" if value is None else f"{value:.4f}",
        "seconds": lambda value: f"{value:.1f}",
        "duration": lambda value: f"{int(value) // 60}:{int(value) % 60:02d} min",
    }
    return environment


def _data_row(metrics: RunMetrics, versions: RunVersions, site: str) -> dict[str, Any]:
    told: list[Line] = [one for one in metrics.of_site(site) if not one["problem"]]
    line = told[-1] if told else metrics.of_site(site)[-1]
    trained = [one["sites"][site] for one in versions.lines if site in one["sites"]]
    reasons = ", ".join(f"{reason} ({count})" for reason, count in line["quarantined"].items())
    return {
        "site": site,
        "training": trained[-1] if trained else "-",
        "validation": line["validation_cases"],
        "test": line["test_cases"],
        "left_out": line["left_out"],
        "reasons": reasons,
    }


def _curves(metrics: RunMetrics, versions: RunVersions) -> str:
    figure = Figure(figsize=(_WIDTH_IN, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    draw_dice(axes[:2], metrics)
    draw_loss(axes[2], versions)
    for ax in axes:
        ax.set_xlabel("round")
    return _as_uri(figure, "svg")


def _slices(previews: Mapping[str, Path], labels: Mapping[int, str]) -> str:
    figure = Figure(figsize=(7.0, _SLICE_HEIGHT_IN * len(previews)), layout="constrained")
    draw_slices(figure, previews, labels)
    return _as_uri(figure, "png")


def _bars(times: RunTimings) -> str:
    height = 1.4 + _BAR_HEIGHT_IN * len(times.by_who)
    figure = Figure(figsize=(_WIDTH_IN, height), layout="constrained")
    draw_times(figure.subplots(), times)
    return _as_uri(figure, "svg")


def _as_uri(figure: Figure, kind: str) -> str:
    """A figure within the page: nothing is fetched when it is opened."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=110)
    media = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    return f"data:{media};base64,{base64.b64encode(buffer.getvalue()).decode()}"
