"""What a network is, as data: nothing here is ever executed."""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, PositiveFloat, PositiveInt, model_validator

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
    """How voxels become the network's input, in this order. ``size`` has three axes, or two where
    the network takes slices.

    orientation: axis codes of the volume's axes, in the RAS convention of NIfTI; slices lie across
                 the first. A projection keeps its rows and columns
    spacing_mm:  voxel size after resampling, per axis; of slices, between rows and columns
    intensity:   ``zscore`` (per volume, over its non-zero voxels), ``window`` or ``none``
    window:      the values that become 0 and 1; what is beyond is cut off
    size:        voxels per axis that the network takes at once
    fit:         to that size by ``crop`` (centred, or zero padding), or by ``patches`` of it:
                 training takes them at random, evaluation slides a window over everything
    """

    orientation: Annotated[str, Field(pattern=r"^[RLAPSI]{3}$")] = "RAS"
    spacing_mm: Annotated[tuple[PositiveFloat, ...], Field(min_length=2, max_length=3)]
    intensity: Literal["zscore", "window", "none"] = "zscore"
    window: tuple[float, float] | None = None
    size: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=3)]
    fit: Literal["crop", "patches"] = "crop"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.spacing_mm) != len(self.size):
            raise ValueError(
                f"spacing_mm has {len(self.spacing_mm)} axes and size {len(self.size)}; both have "
                "three, or two for slices"
            )
        if (self.window is not None) != (self.intensity == "window"):
            raise ValueError('intensity = "window" and window = [lowest, highest] go together')
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError("window begins with the lower of its two values")
        return self

    @property
    def takes_slices(self) -> bool:
        return len(self.size) == 2


class Postprocessing(Value):
    """What becomes of a segmentation's labels before they are shown, in this order.

    least_mm3: parts of a label that are smaller go
    largest:   labels of which only the largest part stays
    filled:    labels whose holes are filled
    """

    least_mm3: PositiveFloat | None = None
    largest: tuple[PositiveInt, ...] = ()
    filled: tuple[PositiveInt, ...] = ()
