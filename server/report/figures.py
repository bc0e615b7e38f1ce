"""What is drawn of a run: Dice and loss over rounds, held-out slices, where the time went."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from server.report.summary import RunMetrics, RunTimings, RunVersions

matplotlib.use("agg")

_LABEL_COLOURS = ListedColormap(["#e6550d", "#3182bd", "#31a354", "#756bb1", "#fdd835", "#d81b60"])
_SLICE_TITLES = ("image", "truth", "prediction")


def draw_dice(axes: np.ndarray, metrics: RunMetrics) -> None:
    """Validation and test Dice over rounds, on two axes: each site's, and that over all cases."""
    for ax, part in zip(axes, ("validation", "test"), strict=True):
        for site in (*metrics.sites, None):
            rounds, dice = metrics.curve(site, f"{part}_dice_mean")
            if not dice:
                continue
            if site is None:
                label = f"all sites ({dice[-1]:.3f})"
                ax.plot(rounds, dice, color="black", linewidth=2, label=label)
            else:
                colour = f"C{metrics.sites.index(site)}"
                ax.plot(rounds, dice, linewidth=1, label=site, color=colour)
        ax.set_ylabel(f"{part} Dice")
        ax.set_ylim(0, 1)
        _finish(ax, "lower right")


def draw_loss(ax: Axes, versions: RunVersions) -> None:
    """The mean training loss of each site over rounds."""
    for number, site in enumerate(versions.sites):
        rounds, loss = versions.curve(site)
        ax.plot(rounds, loss, linewidth=1, label=site, color=f"C{number}")
    ax.set_ylabel("training loss")
    _finish(ax, "upper right")


def draw_times(ax: Axes, timings: RunTimings) -> None:
    """Seconds by site and work, as stacked bars; the aggregator's own below them."""
    rows = timings.by_who
    left = np.zeros(len(rows))
    for number, work in enumerate(timings.works):
        seconds = np.array([spent.get(work, 0.0) for spent in rows.values()])
        ax.barh(list(rows), seconds, left=left, label=work, color=f"C{number}")
        left += seconds
    ax.invert_yaxis()
    ax.set_xlabel("seconds")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=6, fontsize="small")


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
        ax.set_title(title)
    shown: list[Artist | tuple[Artist, ...]] = [
        Patch(color=_LABEL_COLOURS(n - 1), label=name) for n, name in labels.items()
    ]
    figure.legend(handles=shown, loc="outside lower center", ncols=3, fontsize="small")


def _finish(ax: Axes, place: Literal["lower right", "upper right"]) -> None:
    if ax.lines:
        ax.legend(loc=place, fontsize="small", ncols=2)
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
