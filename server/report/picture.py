"""One picture of a run: its curves, and a held-out slice of each site."""

from pathlib import Path

from matplotlib.figure import Figure

from federation.config import read_experiment
from server.report.figures import draw_dice, draw_legend, draw_slices, find_previews
from server.report.summary import RunMetrics

_ROW_HEIGHT_IN = 2.3
_WIDTH_IN = 12.0


def draw_run(folder: Path) -> Path:
    """Draw Dice over rounds, and each site's slice with truth and prediction, as a PNG.

    Everything drawn is in the run's ``folder``, and so is the picture then. A site that drew no
    slice has its curves only.
    """
    metrics = RunMetrics.read(folder)
    previews = find_previews(folder, metrics.sites)
    rows = max(3, len(previews))
    figure = Figure(figsize=(_WIDTH_IN, _ROW_HEIGHT_IN * rows), layout="constrained")
    curves, slices = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.1, 1])[0]
    axes = curves.subplots(2, 1, sharex=True, sharey=True)
    draw_dice(axes, metrics)
    draw_legend(curves, axes[0])
    axes[-1].set_xlabel("round")
    if previews:
        draw_slices(slices, previews, read_experiment(folder / "config.toml").model.labels)
    path = folder / "picture.png"
    figure.savefig(path, dpi=110)
    return path
