"""Architectures in the original authors' layer JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from federation.iodeep.architecture import Architecture

UNET: dict[str, Any] = {
    "input_shape": {
        "input_shape0": 224,
        "input_shape1": 224,
        "input_shape2": 3,
        "label_shape": 1,
    },
    "architecture": {
        str(number): code
        for number, code in enumerate(
            [*["doubleConv", "Maxpool2d"] * 4, "ElbowUNet", *["Upsample", "UpDoubleConv"] * 3,
             "Upsample", "UpDoubleConv_out", "cnn2d"],
            start=1,
        )
    },
    "convolutional": {
        f"cn{number}": width
        for number, width in enumerate([64, 128, 256, 512, 1024, 512, 256, 128, 64, 1], start=1)
    },
    "kernel": {f"kernel{number}": 3 if number < 10 else 1 for number in range(1, 11)},
    "pooling": {f"pool{number}": 2 for number in range(1, 5)},
    "stride": {"stride": 1},
    "padding": {"padding": 1},
    "padding_conv": {"padding_conv": 0},
    "skip_connection": {"1": "16", "3": "14", "5": "12", "7": "10"},
    "data_format": {"data_format": "channels_last"},
    "backend": {"backend": "pytorch"},
}  # fmt: skip
"""The authors' published U-Net."""


def document(
    layers: Sequence[str], input_shape: Mapping[str, int], **sections: Any
) -> Architecture:
    """Layers numbered in order."""
    numbered = {str(number): code for number, code in enumerate(layers, start=1)}
    return Architecture(
        network="iodeep.layers",
        arguments={"input_shape": dict(input_shape), "architecture": numbered, **sections},
    )
