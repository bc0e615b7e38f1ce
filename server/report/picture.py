"""One picture of a run: its curves, and a held-out slice of each site."""

from pathlib import Path

from matplotlib.figure import Figure

from federation.config import read_experiment
from server.report.figures import draw_legend, draw_scores, draw_slices, find_previews
from server.report.summary import RunMetrics

_ROW_HEIGHT_IN = 2.3
_WIDTH_IN = 12.0


def draw_run(folder: Path) -> Path:
    """Draw Dice, or AUC, over rounds, and each site's slice with truth and prediction, as a PNG.

    Everything drawn is in the run's ``folder``, and so is the picture then. A site that drew no
    slice has its curves only.
    """
    metrics = RunMetrics.read(folder)
    previews = find_previews(folder, metrics.sites)
    rows = max(3, len(previews))
    widths = [1.1, 1] if previews else [1]
    size = (_WIDTH_IN * sum(widths) / 2.1, _ROW_HEIGHT_IN * rows)
    figure = Figure(figsize=size, layout="constrained")
    curves, *slices = figure.subfigures(1, len(widths), squeeze=False, width_ratios=widths)[0]
    axes = curves.subplots(2, 1, sharex=True, sharey=True)
    draw_scores(axes, metrics)
    draw_legend(curves, axes[0])
    axes[-1].set_xlabel("round")
    if previews:
        draw_slices(slices[0], previews, read_experiment(folder / "config.toml").model.labels)
    path = folder / "picture.png"
    figure.savefig(path, dpi=110)
    return path
