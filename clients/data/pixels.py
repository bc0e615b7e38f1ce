"""What an image's stored values stand for (PS3.3 Sections C.7.6.3 and C.11.1)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut

from clients.data.decoding import decode_frame
from clients.data.quarantine import Reason, Unusable

_INVERTED, _PLAIN = "MONOCHROME1", "MONOCHROME2"


def check_kind(dataset: Dataset) -> None:
    """Whether each pixel is one number that means something.

    Raises :class:`Unusable` for colour and palettes.
    """
    if int(dataset.SamplesPerPixel) != 1:
        raise Unusable(Reason.IMAGE_UNSUPPORTED, "images of several samples a pixel (colour)")
    if dataset.PhotometricInterpretation not in (_INVERTED, _PLAIN):
        raise Unusable(Reason.IMAGE_UNSUPPORTED, "images that are not greyscale")


def read_pixels(
    dataset: Dataset, frame: int, transformation: Dataset, *, is_projection: bool
) -> NDArray[np.float32]:
    """One frame (H, W), counted from 0, as the real values that it stands for.

    transformation: where slope and intercept are: the data set itself, or a frame's own
                    Pixel Value Transformation (PS3.3 Section C.7.6.16.2.9)

    ``float32(stored) * float32(slope) + float32(intercept)``, or by the Modality LUT. Raises
    :class:`Unusable` for pixels that cannot be decoded.

    MONOCHROME1 says that the smallest value is shown white (PS3.3 Section C.7.6.3.1.2). That is
    about display, so values that mean something, as those of CT, MR and PT, stay. A projection's
    mean darkness, more or less: it is turned over within its range.
    """
    try:
        stored = decode_frame(dataset, frame)
        slope = np.float32(float(transformation.get("RescaleSlope", 1)))
        intercept = np.float32(float(transformation.get("RescaleIntercept", 0)))
        inverted = is_projection and dataset.PhotometricInterpretation == _INVERTED
        if inverted and stored.dtype.kind in "iu":
            stored = _turned_over(stored, dataset)
        if "ModalityLUTSequence" in dataset:
            return np.asarray(apply_modality_lut(stored, dataset), np.float32)
    except Exception as error:  # decoders raise their own kinds
        raise Unusable(Reason.IMAGE_UNDECODABLE, "pixels that cannot be decoded") from error
    if slope == 0 or stored.ndim != 2:
        raise Unusable(Reason.IMAGE_UNDECODABLE, "pixels without a usable scale or shape")
    values = stored.astype(np.float32)
    values *= slope
    values += intercept
    return values


def _turned_over(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """The largest value that the bits can hold for the smallest, and so on."""
    if dataset.PixelRepresentation:
        return np.asarray(np.invert(stored))  # -1 - x
    return np.asarray(2 ** int(dataset.BitsStored) - 1 - stored.astype(np.int64), stored.dtype)
