"""The sample of a census as a picture: a slice of each, with its labels over it."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from clients.census.overview import Sampled
from federation.whole import make_private

_COLUMNS = 4
_COLOURS = mpl.colormaps["tab10"]
_OPACITY = 0.45


def draw_samples(sample: Sequence[Sampled], names: Mapping[int, str], path: Path) -> None:
    """Write a PNG: no patient's name or ID is in it, but an image of them; it stays at the
    site, for nobody else's account to read.

    names: what the output labels mean
    """
    columns = min(_COLUMNS, len(sample))
    rows = -(-len(sample) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.4 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat:
        ax.set_axis_off()
    for ax, one in zip(grid.flat, sample, strict=False):
        _draw(ax, one)
    handles = [Patch(color=_COLOURS(n - 1), label=name) for n, name in sorted(names.items())]
    if handles:
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=4)
        for text in legend.get_texts():
            text.set_parse_math(False)
    make_private(path.parent)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=110, format=path.suffix[1:] or "png")
    with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:  # mode 0600
        file.write(drawn.getbuffer())
    Path(file.name).replace(path)


def _draw(ax: Axes, one: Sampled) -> None:
    low, _, high = one.values
    _, between_rows, between_columns = one.spacing_mm
    aspect = between_rows / between_columns
    ax.imshow(one.image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect)
    ax.imshow(
        np.ma.masked_equal(one.labels, 0),
        cmap=_COLOURS,
        vmin=1,
        vmax=_COLOURS.N,
        alpha=_OPACITY,
        interpolation="nearest",
        aspect=aspect,
    )
    ax.set_title(f"…{one.study[-8:]}  " + " x ".join(map(str, one.shape)), fontsize="small")
