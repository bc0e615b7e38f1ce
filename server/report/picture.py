"""One picture of a run: its curves, and a held-out slice of each site."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from server.report.summary import RunMetrics

matplotlib.use("agg")

_LABEL_COLOURS = ListedColormap(["#e6550d", "#3182bd", "#31a354", "#756bb1", "#fdd835", "#d81b60"])
_ROW_HEIGHT_IN = 2.3
_WIDTH_IN = 12.0
_SLICE_TITLES = ("image", "truth", "prediction")


def draw_run(
    metrics: RunMetrics, labels: Mapping[int, str], previews: Mapping[str, Path], path: Path
) -> Path:
    """Draw Dice over rounds, and each site's slice with truth and prediction, as a PNG.

    labels:   what each output value means
    previews: by site, the .npz file that the site drew for itself (``image``, ``truth``,
              ``prediction``; 2-D); a site without one has its curves only
    """
    drawn = {site: file for site, file in previews.items() if file.exists()}
    rows = max(3, len(drawn))
    figure = Figure(figsize=(_WIDTH_IN, _ROW_HEIGHT_IN * rows), layout="constrained")
    parts = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.1, 1])
    curves, slices = parts[0]
    axes = curves.subplots(2, 1, sharex=True, sharey=True)
    for ax, part in zip(axes, ("validation", "test"), strict=True):
        _draw_curves(ax, metrics, part)
    axes[-1].set_xlabel("round")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if drawn:
        grid = slices.subplots(len(drawn), len(_SLICE_TITLES), squeeze=False)
        for row, (site, file) in zip(grid, drawn.items(), strict=True):
            _draw_slices(row, site, file)
        for ax, title in zip(grid[0], _SLICE_TITLES, strict=True):
            ax.set_title(title)
        shown = [Patch(color=_LABEL_COLOURS(n - 1), label=name) for n, name in labels.items()]
        slices.legend(handles=shown, loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=110)
    return path


def _draw_curves(ax: Axes, metrics: RunMetrics, part: str) -> None:
    for site in (*metrics.sites, None):
        rounds, dice = metrics.curve(site, f"{part}_dice_mean")
        if not dice:
            continue
        if site is None:
            ax.plot(rounds, dice, color="black", linewidth=2, label=f"all sites ({dice[-1]:.3f})")
        else:
            colour = f"C{metrics.sites.index(site)}"
            ax.plot(rounds, dice, linewidth=1, label=site, color=colour)
    if ax.lines:
        ax.legend(loc="lower right", fontsize="small", ncols=2)
    ax.set_ylabel(f"{part} Dice")
    ax.set_ylim(0, 1)
    ax.grid(alpha=0.3)


def _draw_slices(row: np.ndarray, site: str, file: Path) -> None:
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
