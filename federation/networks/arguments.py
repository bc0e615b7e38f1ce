"""The arguments of MONAI's networks, with the bounds of each.

An architecture comes out of a DICOM file that somebody else wrote, so it is read here like
any foreign document: unknown names, wrong types and values out of bounds end here, before
anything is built. Arguments have MONAI's names and meanings. Their defaults are written
here as well, so that a file means the same network whatever MONAI's defaults become.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from federation.task import TaskName
from federation.values import Value

MAX_LEVELS = 8

Channels = Annotated[int, Field(ge=1, le=1024)]
Classes = Annotated[int, Field(ge=2, le=256)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Blocks = Annotated[int, Field(ge=1, le=8)]
Kernel = Literal[1, 3, 5, 7]
KernelPerAxis = tuple[Kernel, Kernel] | tuple[Kernel, Kernel, Kernel]
Stride = Literal[1, 2, 3, 4]
StridePerAxis = tuple[Stride, Stride] | tuple[Stride, Stride, Stride]
Levels = Field(min_length=2, max_length=MAX_LEVELS)
ThreeLevels = Field(min_length=3, max_length=MAX_LEVELS)
Activation = Literal["PRELU", "RELU", "LEAKYRELU", "ELU", "GELU", "SWISH", "MISH"]


class NetworkArguments(Value):
    """The arguments of one network on the list; every one of its types is checked strictly."""

    model_config = ConfigDict(strict=True)


class VolumeArguments(NetworkArguments):
    """What MONAI's networks here have in common: volumes, or slices with two ``spatial_dims``, in;
    one score a class out, for each voxel or, of those for classification, for the whole image.
    """

    task: ClassVar[TaskName] = "segmentation"

    spatial_dims: Literal[2, 3] = 3
    in_channels: Annotated[int, Field(ge=1, le=64)] = 1
    out_channels: Classes

    def _check_axes(self, *sizes: int | tuple[int, ...]) -> None:
        """Whether what is given per axis is given for all of them."""
        for size in sizes:
            if isinstance(size, tuple) and len(size) != self.spatial_dims:
                raise ValueError(
                    f"{len(size)} numbers for the {self.spatial_dims} axes of spatial_dims = "
                    f"{self.spatial_dims}"
                )


class AffineOption(Value):
    """Options of a normalisation that has only these."""

    model_config = ConfigDict(strict=True)

    affine: bool = True


class GroupOption(AffineOption):
    """Options of group normalisation; ``num_groups`` must divide every level's channels."""

    num_groups: Channels


Norm = (
    Literal["INSTANCE", "BATCH"]
    | tuple[Literal["INSTANCE", "BATCH"], AffineOption]
    | tuple[Literal["GROUP"], GroupOption]
)


class UNetArguments(VolumeArguments):
    """``monai.UNet``: Kerfoot et al., *Left-ventricle quantification using residual U-Net*, 2018.

    One stride fewer than channels; a stride is a number, or one per axis.
    """

    channels: Annotated[tuple[Channels, ...], Levels]
    strides: Annotated[tuple[Stride | StridePerAxis, ...], Field(max_length=MAX_LEVELS)]
    kernel_size: Kernel | KernelPerAxis = 3
    up_kernel_size: Kernel | KernelPerAxis = 3
    num_res_units: Annotated[int, Field(ge=0, le=8)] = 0
    act: Activation = "PRELU"
    norm: Norm = "INSTANCE"
    dropout: Dropout = 0.0
    bias: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.strides) != len(self.channels) - 1:
            raise ValueError(
                f"{len(self.channels)} channels need {len(self.channels) - 1} strides, "
                f"seen {len(self.strides)}"
            )
        self._check_axes(*self.strides, self.kernel_size, self.up_kernel_size)
        return self


class SegResNetArguments(VolumeArguments):
    """``monai.SegResNet``: Myronenko, *3D MRI brain tumor segmentation*, 2018; no VAE."""

    init_filters: Channels = 8
    dropout_prob: Dropout | None = None
    act: Activation = "RELU"
    norm: Norm = ("GROUP", GroupOption(num_groups=8))
    use_conv_final: bool = True
    blocks_down: Annotated[tuple[Blocks, ...], Levels] = (1, 2, 2, 4)
    blocks_up: Annotated[tuple[Blocks, ...], Field(min_length=1, max_length=MAX_LEVELS)] = (1, 1, 1)
    upsample_mode: Literal["nontrainable", "deconv", "pixelshuffle"] = "nontrainable"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ValueError(
                f"{len(self.blocks_down)} blocks_down need {len(self.blocks_down) - 1} blocks_up, "
                f"seen {len(self.blocks_up)}"
            )
        return self


class DynUNetArguments(VolumeArguments):
    """``monai.DynUNet``: the network of nnU-Net (Isensee et al., Nature Methods 2021).

    ``kernel_size``, ``strides`` and ``filters`` have one entry a level,
    ``upsample_kernel_size`` one fewer (nnU-Net: the strides without the first).
    """

    kernel_size: Annotated[tuple[Kernel | KernelPerAxis, ...], ThreeLevels]
    strides: Annotated[tuple[Stride | StridePerAxis, ...], ThreeLevels]
    upsample_kernel_size: Annotated[
        tuple[Stride | StridePerAxis, ...], Field(max_length=MAX_LEVELS)
    ]
    filters: Annotated[tuple[Channels, ...], ThreeLevels]
    dropout: Dropout | None = None
    norm_name: Norm = ("INSTANCE", AffineOption(affine=True))
    act_name: Activation = "LEAKYRELU"
    res_block: bool = False
    trans_bias: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        levels = len(self.filters)
        lengths = (len(self.kernel_size), len(self.strides), len(self.upsample_kernel_size) + 1)
        if lengths != (levels, levels, levels):
            raise ValueError(
                f"{levels} filters need {levels} kernel sizes and strides and {levels - 1} "
                f"upsample kernel sizes, seen {lengths[0]}, {lengths[1]} and {lengths[2] - 1}"
            )
        self._check_axes(*self.kernel_size, *self.strides, *self.upsample_kernel_size)
        return self


class DenseNetArguments(VolumeArguments):
    """``monai.DenseNet``: Huang et al., *Densely connected convolutional networks*, CVPR 2017.

    ``block_config`` has the number of layers of each block; each layer adds ``growth_rate``
    channels, out of ``bn_size`` times as many. Its defaults are DenseNet-121.
    """

    task: ClassVar[TaskName] = "classification"

    init_features: Channels = 64
    growth_rate: Annotated[int, Field(ge=1, le=256)] = 32
    block_config: Annotated[
        tuple[Annotated[int, Field(ge=1, le=64)], ...],
        Field(min_length=1, max_length=MAX_LEVELS),
    ] = (6, 12, 24, 16)
    bn_size: Annotated[int, Field(ge=1, le=16)] = 4
    act: Activation = "RELU"
    norm: Norm = "BATCH"
    dropout_prob: Dropout = 0.0


def keywords(arguments: NetworkArguments) -> dict[str, Any]:
    """The arguments as the keywords of the network's class, defaults included."""
    return arguments.model_dump()
