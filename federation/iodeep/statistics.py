"""Which tensors are statistics that batch normalisation keeps, by torch's names for them."""

_MEAN, _VARIANCE = "running_mean", "running_var"


def is_statistic(name: str) -> bool:
    """Whether a tensor is a running mean or variance."""
    return name.rpartition(".")[2] in (_MEAN, _VARIANCE)


def mean_of(name: str) -> str | None:
    """The name of the mean that a running variance belongs to; None for other tensors."""
    layer, _, kind = name.rpartition(".")
    return f"{layer}.{_MEAN}".lstrip(".") if kind == _VARIANCE else None
