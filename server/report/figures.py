"""What is drawn of a run: Dice (or AUC) and loss by round, held-out slices, where the time went."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from server.report.summary import WORKS, RunMetrics, RunTimings, RunVersions

matplotlib.use("agg")

_LABEL_COLOURS = ListedColormap(["#e6550d", "#3182bd", "#31a354", "#756bb1", "#fdd835", "#d81b60"])
_WORK_COLOURS = matplotlib.colormaps["Set2"]  # not those of the sites
_SLICE_TITLES = ("image", "truth", "prediction")


def find_previews(folder: Path, sites: Iterable[str]) -> dict[str, Path]:
    """The slices that the sites of a simulation drew for themselves, by site."""
    drawn = {site: folder / "sites" / site / "work" / "preview.npz" for site in sites}
    return {site: path for site, path in drawn.items() if path.exists()}


def draw_scores(axes: np.ndarray, metrics: RunMetrics) -> None:
    """The task's metric on validation and test over rounds, on two axes: each site's, and that of
    all of them."""
    task = metrics.task
    for ax, part in zip(axes, ("validation", "test"), strict=True):
        for number, site in enumerate(metrics.sites):
            rounds, scores = metrics.curve(site, f"{part}_{task.headline}")
            ax.plot(rounds, scores, linewidth=1, label=site, color=f"C{number}")
        rounds, scores = metrics.curve(None, f"{part}_{task.headline}")
        ax.plot(rounds, scores, color="black", linewidth=2, label="all cases")
        ax.set_title(f"{part} {task.word}" + (f", {scores[-1]:.3f} at the end" if scores else ""))
        ax.set_ylim(0, 1)
        _finish(ax)


def draw_loss(ax: Axes, versions: RunVersions, sites: Sequence[str]) -> None:
    """The mean training loss over rounds of each of ``sites``."""
    for number, site in enumerate(sites):
        rounds, loss = versions.curve(site)
        ax.plot(rounds, loss, linewidth=1, label=site, color=f"C{number}")
    ax.set_title("training loss")
    _finish(ax)


def draw_legend(figure: Figure | SubFigure, curves: Axes) -> None:
    """One legend below the axes of a figure, which all show the same curves."""
    handles, names = curves.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=8, fontsize="small")


def draw_times(figure: Figure, timings: RunTimings) -> None:
    """Seconds by site and work, as stacked bars; the aggregator's own below them."""
    ax = figure.subplots()
    left = np.zeros(len(timings.by_who))
    for number, work in enumerate(WORKS):
        seconds = np.array([spent[work] for spent in timings.by_who.values()])
        colour = _WORK_COLOURS(number)
        ax.barh(list(timings.by_who), seconds, left=left, label=work, color=colour, height=0.6)
        left += seconds
    ax.invert_yaxis()
    ax.set_xlabel("seconds")
    ax.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(WORKS), fontsize="small")


def draw_slices(
    figure: Figure | SubFigure, previews: Mapping[str, Path], labels: Mapping[int, str]
) -> None:
    """A row for each site: its held-out slice, the truth on it, the prediction on it.

    previews: by site, the .npz file that the site drew for itself (``image``, ``truth``,
              ``prediction``; 2-D)
    """
    grid = figure.subplots(len(previews), len(_SLICE_TITLES), squeeze=False)
    for row, (site, file) in zip(grid, previews.items(), strict=True):
        _draw_row(row, site, file)
    for ax, title in zip(grid[0], _SLICE_TITLES, strict=True):
        ax.set_title(title, fontsize="medium")
    shown: list[Artist | tuple[Artist, ...]] = [
        Patch(color=_LABEL_COLOURS(n - 1), label=name) for n, name in labels.items()
    ]
    legend = figure.legend(handles=shown, loc="outside lower center", ncols=3, fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)  # a label is a name, whatever dollars are in it


def _finish(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)


def _draw_row(row: np.ndarray, site: str, file: Path) -> None:
    with np.load(file, allow_pickle=False) as preview:
        image, truth, prediction = (preview[name] for name in _SLICE_TITLES)
    low, high = np.percentile(image, [1, 99])
    for ax, labels in zip(row, (None, truth, prediction), strict=True):
        ax.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
        if labels is not None:
            ax.imshow(
                np.ma.masked_equal(labels, 0),
                cmap=_LABEL_COLOURS,
                vmin=1,
                vmax=_LABEL_COLOURS.N,
                alpha=0.6,
                interpolation="nearest",
            )
        ax.set_xticks([])
        ax.set_yticks([])
    row[0].set_ylabel(site)
