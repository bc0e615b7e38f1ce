"""One picture of a run: its curves, and a held-out slice of each site."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from server.report.figures import draw_dice, draw_slices
from server.report.summary import RunMetrics

_ROW_HEIGHT_IN = 2.3
_WIDTH_IN = 12.0


def draw_run(
    metrics: RunMetrics, labels: Mapping[int, str], previews: Mapping[str, Path], path: Path
) -> Path:
    """Draw Dice over rounds, and each site's slice with truth and prediction, as a PNG.

    labels:   what each output value means
    previews: by site, the file that the site drew for itself; a site without one has its
              curves only
    """
    rows = max(3, len(previews))
    figure = Figure(figsize=(_WIDTH_IN, _ROW_HEIGHT_IN * rows), layout="constrained")
    curves, slices = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.1, 1])[0]
    axes = curves.subplots(2, 1, sharex=True, sharey=True)
    draw_dice(axes, metrics)
    axes[-1].set_xlabel("round")
    if previews:
        draw_slices(slices, previews, labels)
    figure.savefig(path, dpi=110)
    return path
