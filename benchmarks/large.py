"""A model of 2.3 GB as DICOM records, as plain safetensors and as the original's form, in turns.

``python -m benchmarks.large SIDE write|read FOLDER`` does one of them with ``FOLDER/weights`` and
prints the seconds; its imports are over when it is told to begin. Reading means every byte, into
a SHA-256 a tensor. All sides begin with tensors that lie in a file, mapped where they are torch's;
what base64(torch.save) writes is in memory before, and not counted.
"""

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.codec import read_base64, write_base64
from benchmarks.measure import Times, alternate, begin_when_ready, when_told
from benchmarks.table import Row
from benchmarks.weights import make_weights, tensors_in
from federation.iodeep.codec import describe_weights, read_record, write_record
from federation.iodeep.header import Stamp
from federation.iodeep.labels import Line
from federation.iodeep.manifest import Reference, StateManifest

LARGE = 2_300_000_000
_SMALLER = 500_000_000
_TURNS = 3


def rows() -> Iterator[Row]:
    """Beside safetensors at full size; beside the original's form, at what fits the memory."""
    ours, plain = _compare(("ours", "safetensors"), LARGE)
    less, original = _compare(("ours", "base64"), _SMALLER)
    yield Row(
        what="2.3 GB: files / raw weights",
        value=ours.file_bytes / LARGE,
        bound=1.001,
        shown=f"{ours.file_bytes:,} of {LARGE:,} bytes; {plain.file_bytes / LARGE:.3f} as "
        f"safetensors, {original.file_bytes / _SMALLER:.3f} as base64(torch.save)",
    )
    for does in ("write", "read"):
        yield Row(
            what=f"2.3 GB: memory to {does}",
            value=ours.megabytes[does],
            bound=50,
            unit="MB",
            shown=f"{plain.megabytes[does]:,.0f} MB for safetensors; of 0.5 GB "
            f"{less.megabytes[does]:.0f} MB, and {original.megabytes[does]:,.0f} MB for "
            "base64(torch.save)",
        )
    bounds = {"write": ("safetensors.torch.save_file", 6.0), "read": ("safetensors.safe_open", 3.0)}
    for does, (call, bound) in bounds.items():
        ratio = ours.times(does).over(plain.times(does))
        digests = "with three SHA-256 of every byte, beside none" if does == "write" else (
            "attributes, parts and tensors verified, beside a SHA-256 of each tensor"
        )  # fmt: skip
        yield Row(
            what=f"2.3 GB: {does} / {call}",
            value=ratio.median,
            bound=bound,
            shown=f"{ratio}; {digests}",
        )
    for does in ("write", "read"):
        ratio = less.times(does).over(original.times(does))
        yield Row(
            what=f"0.5 GB: {does} / base64(torch.save) in DICOM",
            value=ratio.median,
            bound=0.5 if does == "write" else 1.0,
            shown=f"{ratio}; not at 2.3 GB, where that form would take about "
            f"{original.megabytes[does] / 1e3 * LARGE / _SMALLER:.0f} GB of memory",
        )


# --- the sides ----------------------------------------------------------------------------


def _state(path: Path, *, held: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The same tensors as torch's, mapped from the file, or held in memory.

    torch.save needs the latter: of a view it would write all that it is a view of.
    """
    whole = torch.from_file(str(path), shared=True, size=path.stat().st_size // 4)
    begin = 0
    for name, tensor in tensors_in(path).items():
        value = whole[begin : begin + tensor.elements].view(tensor.shape)
        yield name, value.clone() if held else value
        begin += tensor.elements


def _write_ours(folder: Path) -> None:
    weights, parts = describe_weights(tensors_in(folder / "weights"))
    manifest = StateManifest(
        line=Line.parse("MR/brain/-/large"), branch="bench", round=1, weights=weights, by="bench",
        of=Reference(uid="2.25.1", digest="0" * 64),
    )  # fmt: skip
    write_record(folder, manifest, parts, Stamp.now())


def _read_ours(folder: Path) -> None:
    read_record(folder.glob("*.dcm")).verify()


def _write_safetensors(folder: Path) -> None:
    save_file(_STATE, folder / "plain.safetensors")


def _read_safetensors(folder: Path) -> None:
    """A tensor at a time, as who has little memory would."""
    with safe_open(folder / "plain.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118  # it is no mapping
            _digest(file.get_tensor(name))


def _write_base64(folder: Path) -> None:
    write_base64(folder, _STATE)


def _read_base64(folder: Path) -> None:
    for value in read_base64(folder).values():
        _digest(value)


def _digest(value: torch.Tensor) -> str:
    return hashlib.sha256(value.view(-1).view(torch.uint8).numpy().data).hexdigest()


_SIDES: Mapping[str, Mapping[str, Callable[[Path], None]]] = {
    "ours": {"write": _write_ours, "read": _read_ours},
    "safetensors": {"write": _write_safetensors, "read": _read_safetensors},
    "base64": {"write": _write_base64, "read": _read_base64},
}


_STATE: dict[str, torch.Tensor] = {}
"""What the process that writes with torch has before it begins."""


# --- measuring ----------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class _Measured:
    """One side: seconds by what it does, turn by turn; the most memory; the files' size."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"write": [], "read": []})
    megabytes: dict[str, float] = field(default_factory=lambda: {"write": 0, "read": 0})
    file_bytes: int = 0

    def times(self, does: str) -> Times:
        return Times(seconds=self.seconds[does])


def _compare(sides: tuple[str, ...], nbytes: int) -> list[_Measured]:
    measured = {side: _Measured() for side in sides}
    with tempfile.TemporaryDirectory() as name:
        weights = Path(name) / "weights"
        make_weights(weights, nbytes)
        for side in alternate(sides, _TURNS):
            folder = Path(name) / side
            folder.mkdir()
            (folder / "weights").symlink_to(weights)
            one = measured[side]
            for does in ("write", "read"):
                seconds, grown = _once(side, does, folder)
                one.seconds[does].append(seconds)
                one.megabytes[does] = max(one.megabytes[does], grown / 1e6)
            (folder / "weights").unlink()
            one.file_bytes = 0
            for path in folder.iterdir():
                one.file_bytes += path.stat().st_size
                path.unlink()
            folder.rmdir()
    return list(measured.values())


def _once(side: str, does: str, folder: Path) -> tuple[float, int]:
    command = [sys.executable, "-m", "benchmarks.large", side, does, str(folder)]
    with begin_when_ready(command) as (process, growth):
        said, _ = process.communicate()
    return float(said), growth[0].bytes


def main(side: str, does: str, folder: str) -> None:
    """In the process that is measured."""
    if does == "write" and side != "ours":
        _STATE.update(_state(Path(folder) / "weights", held=side == "base64"))
    when_told()
    begin = time.perf_counter()
    _SIDES[side][does](Path(folder))
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    main(*sys.argv[1:])
