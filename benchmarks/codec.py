"""The codec with a network of 31 million parameters, beside what one would do without it.

``python -m benchmarks.codec ours|base64`` prints the memory that writing takes, in a process
that has done nothing before.
"""

import base64
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RawDataStorage, generate_uid
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.measure import extra_bytes, in_turns, profile, run_process
from benchmarks.table import Row
from federation.config import read_experiment
from federation.fresh import fresh_version
from federation.iodeep.codec import describe_weights, read_manifest, read_record, write_record
from federation.iodeep.header import Stamp
from federation.iodeep.manifest import VersionManifest
from federation.networks import build_network, load_tensors, tensors_of
from server.cli import configs

_TURNS = 15
_SMALL_PARTS = 16 * 2**20
_LARGE = [
    "model.architecture.channels=[64,128,256,512,1024]",
    "model.architecture.strides=[2,2,2,2]",
    "model.architecture.num_res_units=0",
    "model.preprocessing.size=[48,48,48]",
]


def rows() -> Iterator[Row]:
    """Size, writing, looking, loading."""
    version, network = large_version()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield from _writing(folder, version, network)
        yield from _looking(folder / "parts", version, network)
        yield _loading(folder, network)


def _writing(folder: Path, version: VersionManifest, network: nn.Module) -> Iterator[Row]:
    raw = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    ours = partial(write, folder, version, network)
    times, theirs = in_turns(
        ours, partial(write_base64, folder, network.state_dict()), turns=_TURNS // 2
    )
    size = sum(path.stat().st_size for path in folder.glob("*.dcm"))
    yield Row(
        what="file / raw weights",
        value=size / raw,
        bound=1.001,
        shown=f"{size:,} of {raw:,} bytes, {version.weights.parameters:,} parameters",
    )
    ratio = times.over(theirs)
    yield Row(
        what="write / base64(torch.save) in DICOM", value=ratio.median, bound=0.5, shown=f"{ratio}"
    ).explained(lambda: profile(ours))
    extra = {side: _extra_megabytes(side) for side in ("ours", "base64")}
    yield Row(
        what="memory to write",
        value=extra["ours"],
        bound=20,
        unit="MB",
        shown=f"{extra['base64']:.0f} MB for base64(torch.save)",
    ).explained(lambda: profile(ours))


def _looking(folder: Path, version: VersionManifest, network: nn.Module) -> Iterator[Row]:
    """From the file's name to the manifest; and to all tensors of a part, not one byte read."""
    folder.mkdir()
    paths = sorted(write(folder, version, network, _SMALL_PARTS))

    def look() -> None:
        read_manifest(paths[0])

    def open_all() -> None:
        read_record(paths).tensors()

    looked, opened = in_turns(look, open_all, turns=_TURNS)
    parts = len(paths) - 1
    yield Row(
        what="read the manifest", value=looked.median * 1e3, bound=10, unit="ms", shown=f"{looked}"
    ).explained(lambda: profile(look))
    yield Row(
        what="open a part",
        value=opened.median / parts * 1e3,
        bound=5,
        unit="ms",
        shown=f"a record of {parts} parts with its manifest: {opened}",
    ).explained(lambda: profile(open_all))


def _loading(folder: Path, network: nn.Module) -> Row:
    """Every byte into the network: without that, both sides only map their file."""
    paths = sorted(folder.glob("*.dcm"))
    save_file(network.state_dict(), folder / "plain.safetensors")

    def load() -> None:
        load_tensors(network, read_record(paths).tensors())

    def load_plain() -> None:
        network.load_state_dict(load_file(folder / "plain.safetensors"))

    ours, theirs = in_turns(load, load_plain, turns=3 * _TURNS)
    ratio = ours.over(theirs)
    return Row(
        what="load into the network / load_state_dict(safetensors.torch.load_file)",
        value=ratio.median,
        bound=1.1,
        shown=f"{ratio}",
    ).explained(lambda: profile(load))


def large_version() -> tuple[VersionManifest, nn.Module]:
    """An untrained U-Net with a manifest."""
    experiment = read_experiment(configs() / "hippocampus.toml", _LARGE)
    version, _ = fresh_version(experiment, "bench")
    return version, build_network(experiment.model.architecture, seed=experiment.seed)


def write(
    folder: Path, version: VersionManifest, network: nn.Module, part_bytes: int = 2**28
) -> list[Path]:
    """The network as a record, digests included."""
    weights, parts = describe_weights(tensors_of(network), part_bytes)
    described = version.model_copy(update={"weights": weights})
    return write_record(folder, described, parts, Stamp.now())


def write_base64(folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    """A network's state as text in an Unlimited Text element of a DICOM file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    dataset = Dataset()
    dataset.SOPClassUID = RawDataStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.TextValue = base64.b64encode(buffer.getvalue()).decode()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(folder / "text", enforce_file_format=True)


def read_base64(folder: Path) -> Mapping[str, torch.Tensor]:
    """What :func:`write_base64` wrote."""
    text = dcmread(folder / "text").TextValue
    state: Mapping[str, torch.Tensor] = torch.load(
        io.BytesIO(base64.b64decode(text)), weights_only=True
    )
    return state


def _extra_megabytes(side: str) -> float:
    command = [sys.executable, "-m", "benchmarks.codec", side]
    return float(run_process(command).printed) / 1e6


def main(side: str) -> None:
    version, network = large_version()
    with tempfile.TemporaryDirectory() as name:
        sides: dict[str, Callable[[], object]] = {
            "ours": partial(write, Path(name), version, network),
            "base64": partial(write_base64, Path(name), network.state_dict()),
        }
        print(extra_bytes(sides[side]))


if __name__ == "__main__":
    main(*sys.argv[1:])
