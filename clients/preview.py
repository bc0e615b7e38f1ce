"""One held-out slice with truth and prediction, for people at the site to look at."""

import os
from pathlib import Path

import numpy as np

from clients.data import Example
from clients.training import Segmenter
from federation.whole import SECRET, make_private

PREVIEW = "preview.npz"


def write_preview(folder: Path, example: Example, trainer: Segmenter) -> Path:
    """Write the slice with most labelled voxels as ``preview.npz`` into a site's folder.

    image: float32 (rows, columns); truth, prediction: uint8 (rows, columns); a plane through
    the third axis, shown with the second axis upwards. Stays at the site.
    """
    truth = example.label[0].numpy()
    index = int(np.argmax((truth > 0).sum(axis=(0, 1))))
    prediction = trainer.predict(example.image)[0].numpy()
    make_private(folder)
    unfinished = folder / f"{PREVIEW}.{os.getpid()}.part"
    private = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, SECRET)
    with os.fdopen(private, "wb") as file:
        np.savez(
            file,
            image=_upright(example.image[0].numpy()[:, :, index]),
            truth=_upright(truth[:, :, index]),
            prediction=_upright(prediction[:, :, index]),
        )
    unfinished.replace(folder / PREVIEW)
    return folder / PREVIEW


def _upright(plane: np.ndarray) -> np.ndarray:
    return np.flipud(plane.T)
