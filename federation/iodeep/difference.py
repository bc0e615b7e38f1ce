"""What differs between two versions: what they are for, how they are built, and their weights.

Tensors are compared a block of values at a time, in the order of their bytes, so that memory does
not grow with the model. Norms are L2, in float64 whatever the dtype, over finite values. No torch.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import rfc8785
from numpy.typing import NDArray
from pydantic import JsonValue

from federation.iodeep.codec import Record
from federation.iodeep.manifest import OutputLabel, VersionManifest
from federation.iodeep.weights import FLOATING, ITEM_BYTES, Tensor

_BLOCK = 2**17  # values compared at a time: 1 MiB of float64

# bfloat16, which numpy lacks, is the upper half of a float32: see _widen.
_NUMPY = {"BOOL": "u1", "U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_NUMPY |= {"F16": "<f2", "F32": "<f4", "F64": "<f8"}

Change = Literal["removed", "added", "shape", "dtype", "values", "same"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """What two manifests say of one thing, such as ``architecture``, ``arguments.channels``.

    only: the side that says anything at all, where the other does not; its value is None
    """

    section: str
    name: str
    before: JsonValue
    after: JsonValue
    only: Literal["before", "after"] | None = None

    @property
    def same(self) -> bool:
        # By their canonical form, as in Python True == 1.
        return self.only is None and rfc8785.dumps(self.before) == rfc8785.dumps(self.after)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSummary:
    """One tensor of one version.

    norm:       L2 norm of its finite values; None for integers, and ``inf`` above float64's range
    not_finite: how many values are infinite or not a number
    """

    dtype: str
    shape: tuple[int, ...]
    norm: float | None
    not_finite: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorDifference:
    """One tensor in two versions; a side is None where its version lacks it.

    Values are compared where the shapes are equal and both are floating or both are not;
    otherwise ``differing`` and ``difference`` are None.

    differing:  how many values differ: in any bit, or between two dtypes in what they stand for
    difference: L2 norm of after - before over the pairs in which both are finite, for floating
                tensors; ``inf`` above float64's range
    """

    name: str
    before: TensorSummary | None
    after: TensorSummary | None
    differing: int | None = None
    difference: float | None = None

    @property
    def change(self) -> Change:
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        if self.before.shape != self.after.shape:
            return "shape"
        if self.before.dtype != self.after.dtype:
            return "dtype"
        return "values" if self.differing else "same"

    @property
    def elements(self) -> int:
        side = self.after or self.before
        return math.prod(side.shape) if side else 0

    @property
    def not_finite(self) -> int:
        """How many values are not finite, in both versions together."""
        return sum(side.not_finite for side in (self.before, self.after) if side)

    @property
    def relative(self) -> float | None:
        """Norm of the difference over norm before; for integers, the share of differing values.

        None where nothing was compared, and where a floating tensor was all 0 and no longer is.
        """
        if self.differing is None:
            return None
        if self.difference is None or self.before is None or self.before.norm is None:
            return self.differing / self.elements if self.elements else 0.0
        return _ratio(self.difference, self.before.norm)


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Sums over the tensors of two versions.

    tensors:   how many there are of each :data:`Change`
    values:    how many values were compared, of which ``differing`` differ
    before, after, difference: L2 norms over all floating tensors that were compared
    """

    tensors: Mapping[Change, int]
    values: int
    differing: int
    before: float
    after: float
    difference: float
    not_finite_before: int
    not_finite_after: int

    @property
    def relative(self) -> float | None:
        """Norm of the difference over norm before; None where all was 0 and no longer is."""
        return _ratio(self.difference, self.before)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What differs between two versions: facts in the manifests' order, biggest changes first."""

    before: VersionManifest
    after: VersionManifest
    facts: tuple[Fact, ...]
    tensors: tuple[TensorDifference, ...]
    totals: Totals

    def __repr__(self) -> str:
        sides = (f"{v.branch}:{v.round} {v.digest[:12]}" for v in (self.before, self.after))
        changed = sum(1 for tensor in self.tensors if tensor.change != "same")
        return f"Difference({' → '.join(sides)}, {changed} of {len(self.tensors)} tensors)"


def compare_versions(before: Record, after: Record) -> Difference:
    """Compare two versions that were read and verified.

    Raises :class:`~federation.errors.CodecError` where their weights cannot be read.
    """
    tensors = compare_weights(before.tensors(), after.tensors())
    return Difference(
        before=before.version,
        after=after.version,
        facts=compare_manifests(before.version, after.version),
        tensors=tensors,
        totals=_total(tensors),
    )


# --- manifests ----------------------------------------------------------------------------


def compare_manifests(before: VersionManifest, after: VersionManifest) -> tuple[Fact, ...]:
    """Every fact of two versions, the same and the differing, section by section."""
    ours, theirs = _facts(before), _facts(after)
    facts: list[Fact] = []
    for section in ours:
        for name in ours[section] | theirs[section]:
            in_both = name in ours[section] and name in theirs[section]
            facts.append(
                Fact(
                    section=section,
                    name=name,
                    before=ours[section].get(name),
                    after=theirs[section].get(name),
                    only=None if in_both else "before" if name in ours[section] else "after",
                )
            )
    return tuple(facts)


def _facts(version: VersionManifest) -> dict[str, dict[str, JsonValue]]:
    line, lineage, weights = version.line, version.lineage, version.weights
    arguments = version.architecture.arguments
    return {
        "labels": {
            "modality": line.modality,
            "region": str(line.region),
            "disease": str(line.disease) if line.disease else None,
            "slug": line.slug,
            **_outputs(version.outputs),
        },
        "architecture": {
            "network": version.architecture.network,
            **{f"arguments.{name}": arguments[name] for name in sorted(arguments)},
        },
        "preprocessing": (
            version.preprocessing.model_dump(mode="json") if version.preprocessing else {}
        ),
        "task": {"task": version.task},
        "lineage": {
            "branch": version.branch,
            "round": version.round,
            "parent": lineage.parent.uid if lineage.parent else None,
            "config_digest": lineage.config_digest,
            "strategy": lineage.strategy,
            **{f"examples of {receipt.site}": receipt.examples for receipt in lineage.receipts},
        },
        "weights": {
            "digest": weights.digest,
            "parameters": weights.parameters,
            "bytes": sum(part.bytes for part in weights.parts),
            "parts": len(weights.parts),
        },
    }


def _outputs(labels: Sequence[OutputLabel]) -> dict[str, JsonValue]:
    """What each output value means, with codes; a number that comes twice has both."""
    spelled: dict[str, str] = {}
    for label in labels:
        key = f"output {label.number}"
        coded = ", ".join(str(c) for c in (label.concept, label.modifier) if c) or "not coded"
        text = f"{label.name}: {coded}"
        spelled[key] = f"{spelled[key]}; {text}" if key in spelled else text
    return dict(spelled)


# --- weights ------------------------------------------------------------------------------


def compare_weights(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> tuple[TensorDifference, ...]:
    """Every tensor of two versions: first what changed and is not finite or cannot be compared,
    then floating ones by relative change, then integers (counters), then those that are the same.
    """
    compared = [
        _compare(name, before.get(name), after.get(name)) for name in before.keys() | after.keys()
    ]
    return tuple(sorted(compared, key=_rank))


def _rank(tensor: TensorDifference) -> tuple[int, float, str]:
    if tensor.change == "same":
        return 4, 0.0, tensor.name
    if tensor.differing is None or tensor.not_finite:
        return 0 if tensor.not_finite else 1, 0.0, tensor.name
    relative = math.inf if tensor.relative is None else tensor.relative
    return 3 if tensor.difference is None else 2, -relative, tensor.name


def _compare(name: str, before: Tensor | None, after: Tensor | None) -> TensorDifference:
    if before is None or after is None or not _comparable(before, after):
        return TensorDifference(name=name, before=_summarise(before), after=_summarise(after))
    sides = _Summing(before), _Summing(after)
    floating = before.dtype in FLOATING
    differing = 0
    difference = 0.0
    for ours, theirs in zip(_blocks(before), _blocks(after), strict=True):
        values = _widen(ours, before.dtype), _widen(theirs, after.dtype)
        if before.dtype == after.dtype:
            differing += int(np.count_nonzero(ours != theirs))
        else:
            both_nan = (values[0] != values[0]) & (values[1] != values[1])
            differing += int(np.count_nonzero((values[0] != values[1]) & ~both_nan))
        if floating:
            finite = [side.add(block) for side, block in zip(sides, values, strict=True)]
            pairs = finite[0] & finite[1]
            # Halved: the difference of two finite numbers need not be one.
            ours, theirs = (_pick(block, pairs) for block in values)
            difference = _extend(difference, theirs / 2 - ours / 2)
    return TensorDifference(
        name=name,
        before=sides[0].summary(),
        after=sides[1].summary(),
        differing=differing,
        difference=2 * difference if floating else None,
    )


def _comparable(before: Tensor, after: Tensor) -> bool:
    same_kind = (before.dtype in FLOATING) == (after.dtype in FLOATING)
    return before.shape == after.shape and same_kind


def _summarise(tensor: Tensor | None) -> TensorSummary | None:
    if tensor is None:
        return None
    summing = _Summing(tensor)
    if tensor.dtype in FLOATING:
        for block in _blocks(tensor):
            summing.add(_widen(block, tensor.dtype))
    return summing.summary()


class _Summing:
    """Norm and count of one tensor, while its blocks pass."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._norm = 0.0
        self._not_finite = 0

    def add(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Take in a block; returns which of its values are finite."""
        finite = np.isfinite(values)
        self._not_finite += values.size - int(np.count_nonzero(finite))
        self._norm = _extend(self._norm, _pick(values, finite))
        return finite

    def summary(self) -> TensorSummary:
        dtype = self._tensor.dtype
        return TensorSummary(
            dtype=dtype,
            shape=self._tensor.shape,
            norm=self._norm if dtype in FLOATING else None,
            not_finite=self._not_finite,
        )


def _pick(values: NDArray[np.float64], wanted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Picking copies, which takes longer than all the rest; most often all are wanted."""
    return values if wanted.all() else values[wanted]


def _extend(norm: float, values: NDArray[np.float64]) -> float:
    """The norm of what had ``norm`` together with ``values``.

    Scaled by the largest, so that no square overflows or vanishes on the way.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not largest:
        return norm
    return math.hypot(norm, largest * float(np.linalg.norm(values / largest)))


def _blocks(tensor: Tensor) -> Iterator[NDArray[Any]]:
    """The bits of a tensor's values as unsigned integers, a block at a time, whatever pieces its
    bytes lie in."""
    size = ITEM_BYTES[tensor.dtype]
    full = _BLOCK * size
    held = bytearray()
    for chunk in tensor.chunks():
        for begin in range(0, chunk.nbytes, full):
            held += chunk[begin : begin + full]
            if len(held) >= full:
                yield np.frombuffer(bytes(held[:full]), f"<u{size}")
                del held[:full]
    if held:
        yield np.frombuffer(bytes(held), f"<u{size}")


def _widen(bits: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The values that bits stand for: float64, or int64."""
    if dtype not in FLOATING:
        return bits.view(_NUMPY[dtype]).astype(np.int64)
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        if dtype == "BF16":
            return (bits.astype("<u4") << 16).view("<f4").astype(np.float64)
        return bits.view(_NUMPY[dtype]).astype(np.float64)


def _total(tensors: Sequence[TensorDifference]) -> Totals:
    counts: dict[Change, int] = {}
    for tensor in tensors:
        counts[tensor.change] = counts.get(tensor.change, 0) + 1
    compared = [tensor for tensor in tensors if tensor.differing is not None]
    return Totals(
        tensors=counts,
        values=sum(tensor.elements for tensor in compared),
        differing=sum(tensor.differing or 0 for tensor in compared),
        before=_norm(compared, lambda tensor: tensor.before.norm if tensor.before else None),
        after=_norm(compared, lambda tensor: tensor.after.norm if tensor.after else None),
        difference=_norm(compared, lambda tensor: tensor.difference),
        not_finite_before=sum(t.before.not_finite for t in tensors if t.before),
        not_finite_after=sum(t.after.not_finite for t in tensors if t.after),
    )


def _norm(
    tensors: Sequence[TensorDifference], of: Callable[[TensorDifference], float | None]
) -> float:
    return math.hypot(*(of(tensor) or 0.0 for tensor in tensors))


def _ratio(difference: float, before: float) -> float | None:
    """None where it is no number: from 0, or beyond float64."""
    if not difference:
        return 0.0
    ratio = difference / before if before else math.inf
    return ratio if math.isfinite(ratio) else None
