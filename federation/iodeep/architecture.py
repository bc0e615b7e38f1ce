"""What a network is, as data: nothing here is ever executed."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, PositiveFloat, PositiveInt

from federation.values import Value

NETWORK_OF_LAYERS = "iodeep.layers"
"""A network in the original authors' layer JSON, which says its input's shape itself."""


class Architecture(Value):
    """A network by its name on the allow-list, and the arguments it is built with.

    :func:`federation.networks.build_network` turns it into a module and refuses every name
    and argument it does not know.
    """

    network: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,64}$")]
    arguments: dict[str, JsonValue]


class Preprocessing(Value):
    """How voxels become the network's input, in this order.

    orientation: axis codes of the array's three axes, in the RAS convention of NIfTI
    spacing_mm:  voxel size after resampling, per axis
    intensity:   ``zscore`` (per volume, over its non-zero voxels) or ``none``
    size:        voxels per axis after centred crop or zero padding
    """

    orientation: Annotated[str, Field(pattern=r"^[RLAPSI]{3}$")] = "RAS"
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    intensity: Literal["zscore", "none"] = "zscore"
    size: tuple[PositiveInt, PositiveInt, PositiveInt]
