"""The codec with a network of 31 million parameters, beside what one would do without it."""

import base64
import io
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RawDataStorage, generate_uid
from safetensors.torch import load_file, save_file

from benchmarks.measure import Row, extra_bytes, in_turns, profile
from federation.config import read_experiment
from federation.fresh import fresh_version
from federation.iodeep.codec import (
    PartFile,
    describe_weights,
    read_manifest,
    read_record,
    write_record,
)
from federation.iodeep.header import Stamp
from federation.iodeep.weights import read_part
from federation.networks import build_network, load_tensors, tensors_of
from server.cli import configs

_TURNS = 7
_LARGE = [
    "model.architecture.channels=[64,128,256,512,1024]",
    "model.architecture.strides=[2,2,2,2]",
    "model.architecture.num_res_units=0",
    "model.preprocessing.size=[48,48,48]",
]


def rows() -> Iterator[Row]:
    """Size, writing, looking, loading."""
    experiment = read_experiment(configs() / "hippocampus.toml", _LARGE)
    network = build_network(experiment.model.architecture, seed=1)
    state = network.state_dict()
    raw = sum(t.numel() * t.element_size() for t in state.values())
    manifest, _ = fresh_version(experiment, "bench")
    stamp = Stamp.now()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def write() -> None:
            _, parts = describe_weights(tensors_of(network))
            write_record(folder, manifest, parts, stamp)

        def write_base64() -> None:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            _as_text(base64.b64encode(buffer.getvalue()).decode(), folder / "text")

        ours, theirs = in_turns(write, write_base64, turns=_TURNS)
        paths = sorted(folder.glob("*.dcm"))
        size = sum(path.stat().st_size for path in paths)
        shown = f"{size:,} of {raw:,} bytes, {manifest.weights.parameters:,} parameters"
        yield Row(what="file / raw weights", value=size / raw, bound=1.001, unit="x", shown=shown)
        yield Row(
            what="write / base64(torch.save) in DICOM",
            value=ours.median / theirs.median,
            bound=0.5,
            unit="x",
            shown=f"{ours} / {theirs}",
        )
        extra = extra_bytes(write) / 1e6
        yield Row(
            what="memory to write",
            value=extra,
            bound=20,
            unit="MB",
            shown=f"{extra_bytes(write_base64) / 1e6:.0f} MB for base64(torch.save)",
        )
        (looked,) = in_turns(lambda: read_manifest(paths[0]), turns=_TURNS)
        yield Row(
            what="read the manifest",
            value=looked.median * 1e3,
            bound=10,
            unit="ms",
            shown=f"{looked}",
        )
        files = read_record(paths).parts
        opened = [in_turns(partial(_open, part), turns=_TURNS)[0] for part in files]
        slowest = max(opened, key=lambda times: times.median)
        yield Row(
            what="open a part", value=slowest.median * 1e3, bound=5, unit="ms", shown=f"{slowest}"
        )
        save_file(state, folder / "plain.safetensors")

        def load() -> None:
            load_tensors(network, read_record(paths).tensors())

        def load_plain() -> None:
            network.load_state_dict(load_file(folder / "plain.safetensors"))

        ours, theirs = in_turns(load, load_plain, turns=3 * _TURNS)
        ratio = ours.median / theirs.median
        yield Row(
            what="load into the network / safetensors.torch.load_file",
            value=ratio,
            bound=1.1,
            unit="x",
            shown=f"{ours} / {theirs}",
            profile=profile(load) if ratio > 1.1 else "",
        )


def _open(part: PartFile) -> None:
    read_part(part.view())


def _as_text(text: str, path: Path) -> None:
    """The text as an Unlimited Text element of a DICOM file."""
    dataset = Dataset()
    dataset.SOPClassUID = RawDataStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.TextValue = text
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
