"""Small records for tests."""

from collections.abc import Mapping

import numpy as np

from federation.iodeep.architecture import Architecture, Preprocessing
from federation.iodeep.codec import Chunks, describe_weights
from federation.iodeep.labels import Line
from federation.iodeep.manifest import (
    EvaluationManifest,
    Lineage,
    Measured,
    OutputLabel,
    Receipt,
    Reference,
    VersionManifest,
)
from federation.iodeep.weights import PART_BYTES, Tensor

LINE = Line.parse("MR/hippocampus/-/unet")


def tensors(seed: int = 0) -> dict[str, Tensor]:
    """An odd number of bytes, two dtypes, one integer buffer."""
    random = np.random.default_rng(seed)
    return {
        "a.weight": _tensor(random.normal(size=(40, 50)).astype("<f4"), "F32"),
        "b.weight": _tensor(random.normal(size=(30, 20)).astype("<f4"), "F32"),
        "b.count": _tensor(np.array(seed, dtype="<i8"), "I64"),
        "b.flags": _tensor(np.ones(3, dtype="u1"), "U8"),
    }


def version(
    weights: Mapping[str, Tensor] | None = None,
    *,
    line: Line = LINE,
    branch: str = "main",
    round: int = 0,
    parent: Reference | None = None,
    part_bytes: int = PART_BYTES,
) -> tuple[VersionManifest, list[Chunks]]:
    """A version's manifest and its parts' bytes."""
    described, parts = describe_weights(tensors() if weights is None else weights, part_bytes)
    manifest = VersionManifest(
        line=line,
        branch=branch,
        round=round,
        architecture=Architecture(network="monai.UNet", arguments={"channels": [4, 8]}),
        preprocessing=Preprocessing(spacing_mm=(1, 1, 1), size=(16, 16, 16)),
        outputs=(OutputLabel.named(1, "anterior hippocampus"),),
        lineage=Lineage(
            parent=parent,
            config_digest="0" * 64,
            strategy="fedavg",
            receipts=(
                Receipt(site="A", examples=3, update_digest="1" * 64, metrics={"loss": 0.5}),
            ),
        ),
        weights=described,
    )
    return manifest, parts


def evaluation(of: VersionManifest, dice: float = 0.5) -> EvaluationManifest:
    """An evaluation of a version."""
    return EvaluationManifest(
        line=of.line,
        branch=of.branch,
        round=of.round,
        of=of.reference,
        by="A",
        measured=Measured(metrics={"test_dice_mean": dice}, cases={"test": 2}),
    )


def _tensor(values: np.ndarray, dtype: str) -> Tensor:
    return Tensor(dtype=dtype, shape=values.shape, pieces=(memoryview(values.tobytes()),))
