"""A hospital on its own: predicting, fine-tuning, choosing among many networks."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pydicom
import torch
from monai.losses.dice import DiceCELoss

from benchmarks.measure import Times, in_turns, profile
from benchmarks.table import Row
from clients.data import LabelledData
from clients.data.cache import Example
from clients.data.volumes import read_volume
from clients.finetuning import finetune
from clients.hospital import Hospital
from clients.inference.results import Results, write_results
from clients.inference.worker import Worker
from clients.training import Segmenter
from clients.training.metrics import dice_per_label
from federation.config import Experiment, FinetuneTable, read_experiment, read_site
from federation.fresh import fresh_version
from federation.iodeep.labels import Line
from federation.iodeep.manifest import VersionManifest
from federation.iodeep.regions import REGIONS
from federation.networks import build_network, tensors_of
from federation.pacs import Archive, Gateway, open_gateway
from federation.registry import Registry
from federation.releases import promote
from federation.samples.importer import write_case
from federation.samples.phantom import phantom_cases
from federation.selection import ImageFacts, ReleasedModels, select
from server.cli import configs

_TURNS = 7
_MODELS = 1000
_EPOCHS = 6


def rows() -> Iterator[Row]:
    """A study from request to stored SEG; a fine-tuning; a choice among a thousand networks."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _predicting(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield _finetuning(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield from _choosing(Path(folder))


# --- predicting ---------------------------------------------------------------------------


def _predicting(folder: Path) -> Iterator[Row]:
    """Phantoms of the size of a hippocampus image, each predicted on once by either side."""
    experiment = _phantom()
    with _served(folder / "pacs") as address, open_gateway(address) as gateway:
        version = _release(gateway, experiment)
        studies = iter(_store_studies(gateway, folder, 2 * (_TURNS + 2)))
        document = _site(folder, address)
        with Hospital(read_site(document)) as hospital:
            worker = Worker(hospital)
            bare = _Bare(version, gateway, folder)

            def ours() -> None:
                (outcome,) = worker.predict(next(studies))
                if outcome.state != "stored":
                    raise RuntimeError(outcome.detail)

            ours()
            through, without = in_turns(ours, lambda: bare.predict(next(studies)), turns=_TURNS)
    yield Row(
        what="a study from request to stored SEG and SR, warm",
        value=through.median,
        bound=2.0,
        unit="s",
        shown=f"{through}; 36 x 40 x 32 voxels, an archive over associations",
    )
    ratio = through.over(without)
    yield Row(
        what="it / the bare network, fetching, writing and storing",
        value=ratio.median,
        bound=1.2,
        shown=f"{ratio}",
    )


@dataclass
class _Bare:
    """What one writes by hand for one network and one kind of image: nothing is checked."""

    version: VersionManifest
    gateway: Gateway
    folder: Path

    def __post_init__(self) -> None:
        self._network = build_network(self.version.architecture).eval()
        self._number = 0

    def predict(self, study: str) -> None:
        self._number += 1
        home = self.folder / f"bare{self._number}"
        home.mkdir()
        (series,) = (
            str(row.SeriesInstanceUID)
            for row in self.gateway.find(
                "SERIES", {"StudyInstanceUID": study, "SeriesInstanceUID": "", "Modality": "MR"}
            )
        )
        paths = self.gateway.fetch(home, study=study, series=series)
        volume = read_volume(paths)
        turned = np.ascontiguousarray(_to_ras(volume.voxels, volume.affine))
        turned = (turned - turned[turned != 0].mean()) / turned[turned != 0].std()
        assert self.version.preprocessing is not None
        room = np.zeros(self.version.preprocessing.size, np.float32)
        first = [(a - b) // 2 for a, b in zip(room.shape, turned.shape, strict=True)]
        inside = tuple(slice(at, at + n) for at, n in zip(first, turned.shape, strict=True))
        room[inside] = turned
        with torch.inference_mode():
            labels = self._network(torch.from_numpy(room)[None, None]).argmax(1)[0]
        drawn = _from_ras(labels.numpy()[inside].astype(np.uint8), volume.affine)
        results = Results.of(self.version, series, volume.instances)
        written, _ = write_results(volume, drawn, paths, self.version, results, home)
        self.gateway.store(written)
        self.gateway.confirm(written)


def _to_ras(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    order, signs = _turn(affine)
    turned: np.ndarray = np.flip(
        voxels.transpose(order), tuple(axis for axis in range(3) if signs[axis] < 0)
    )
    return turned


def _from_ras(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    order, signs = _turn(affine)
    flipped = np.flip(voxels, tuple(axis for axis in range(3) if signs[axis] < 0))
    return np.ascontiguousarray(flipped.transpose(np.argsort(order)))


def _turn(affine: np.ndarray) -> tuple[list[int], list[float]]:
    order = [int(np.abs(affine[axis, :3]).argmax()) for axis in range(3)]
    return order, [float(np.sign(affine[axis, order[axis]])) for axis in range(3)]


# --- fine-tuning --------------------------------------------------------------------------


def _finetuning(folder: Path) -> Row:
    """As many epochs, evaluated as often, on the same cases in memory."""
    experiment = read_experiment(configs() / "hippocampus.toml")
    table = FinetuneTable(epochs=_EPOCHS, patience=_EPOCHS)
    version, _ = fresh_version(experiment, "main")
    cases = _cases(experiment, 20)
    data = LabelledData(
        train=cases[:14], validation=cases[14:17], test=cases[17:],
        studies=20, unusable=0, quarantined={},
    )  # fmt: skip
    number = 0

    def ours() -> None:
        nonlocal number
        number += 1
        network = build_network(version.architecture, seed=1)
        trainer = Segmenter(network, table.training, labels=2, device="cpu")
        finetune(trainer, data, version, table, site="A", folder=folder / str(number))

    def bare() -> None:
        torch.set_num_threads(1)
        network = torch.nn.utils.convert_conv3d_weight_memory_format(
            build_network(version.architecture, seed=1), torch.channels_last_3d
        )
        loss_of = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4, weight_decay=0.0)
        _evaluate(network, data.validation)
        for _ in range(2):
            _evaluate(network, data.test)
        for _ in range(_EPOCHS):
            network.train()
            for batch in torch.randperm(len(data.train)).view(-1, 2):
                image = torch.stack([data.train[n].image for n in batch])
                label = torch.stack([data.train[n].label for n in batch])
                optimizer.zero_grad()
                loss = loss_of(network(image), label.long())
                loss.item()
                loss.backward()
                optimizer.step()
            _evaluate(network, data.validation)
        _evaluate(network, data.validation)
        for _ in range(2):
            _evaluate(network, data.test)

    through, loop = in_turns(ours, bare, turns=_TURNS)
    ratio = through.over(loop)
    return Row(
        what="a fine-tuning / a bare loop in memory",
        value=ratio.median,
        bound=1.10,
        shown=f"{ratio}; {_EPOCHS} epochs of 14 cases, 3 to validate and 3 to test",
    ).explained(lambda: profile(ours))


def _evaluate(network: torch.nn.Module, cases: Sequence[Example]) -> float:
    network.eval()
    dice = []
    with torch.inference_mode():
        for one in cases:
            found = network(one.image[None]).argmax(1).to(torch.uint8)
            dice.append(dice_per_label(found, one.label, labels=2))
    return float(np.nanmean(dice))


def _cases(experiment: Experiment, count: int) -> list[Example]:
    assert experiment.model.preprocessing is not None
    random = torch.Generator().manual_seed(1)
    shape = (count, 1, *experiment.model.preprocessing.size)
    images = torch.randn(shape, generator=random)
    labels = torch.randint(0, 3, shape, generator=random).to(torch.uint8)
    return [
        Example(key=f"{n:064d}", image=images[n], label=labels[n], spacing_mm=(1, 1, 1))
        for n in range(count)
    ]


# --- choosing -----------------------------------------------------------------------------


def _choosing(folder: Path) -> Iterator[Row]:
    """A thousand released lines of all regions in one archive; manifests alone are read."""
    with _served(folder / "pacs") as address, open_gateway(address) as gateway:
        experiment = _phantom()
        manifest, parts = fresh_version(experiment, "main")
        kept = [[b"".join(part)] for part in parts]
        registry = Registry(gateway)
        for line in _lines():
            version = manifest.model_copy(update={"line": line})
            registry.publish(version, kept)
            promote(registry, version)
        facts = ImageFacts(modality="MR", images=40, is_projection=False, body_part="BRAIN")
        cold: list[float] = []
        warm: list[float] = []
        for _ in range(3):
            anew = Registry(gateway)
            for times in (cold, warm):
                begin = time.perf_counter()
                models = ReleasedModels(anew)
                select(facts, models.lines_for(facts.modality), models.of)
                times.append(time.perf_counter() - begin)
    for name, times in (("first", cold), ("again", warm)):
        yield Row(
            what=f"a choice among {_MODELS} networks in an archive, {name}",
            value=median(times),
            bound=1.0,
            unit="s",
            shown=f"{Times(seconds=times)}",
        )


def _lines() -> list[Line]:
    codes = list(REGIONS)
    modalities = ("MR", "CT", "PT", "DX", "US")
    return [
        Line.parse(f"{modalities[n % 5]}/{codes[n // 5 % len(codes)]}/-/network-{n}")
        for n in range(_MODELS)
    ]


# --- what they share ----------------------------------------------------------------------


def _phantom() -> Experiment:
    preprocessing = "model.preprocessing={spacing_mm=[1,1,1],size=[40,40,32]}"
    return read_experiment(configs() / "phantom.toml", [preprocessing])


def _release(gateway: Gateway, experiment: Experiment) -> VersionManifest:
    manifest, parts = fresh_version(experiment, "main", tensors_of(_network(experiment)))
    registry = Registry(gateway)
    registry.publish(manifest, parts)
    promote(registry, manifest)
    return manifest


def _network(experiment: Experiment) -> torch.nn.Module:
    return build_network(experiment.model.architecture, seed=1)


def _store_studies(gateway: Gateway, folder: Path, count: int) -> list[str]:
    studies = []
    for number, case in enumerate(phantom_cases("A", count, 0)):
        home = folder / f"study{number}"
        home.mkdir()
        *images, _ = write_case(case, home)
        gateway.store(images)
        header = pydicom.dcmread(images[0], stop_before_pixels=True)
        studies.append(str(header.StudyInstanceUID))
    return studies


def _site(folder: Path, address: str) -> Path:
    document = folder / "site.toml"
    document.write_text(
        f'name = "A"\n[archives]\nimages = "{address}"\n[data]\n'
        '[[policy.trust]]\nlines = ["*"]\nunsigned = true\n'
    )
    return document


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The address of an embedded archive in a process of its own."""
    Archive(folder).close()
    code = "from federation.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "pacs", "serve", str(folder), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
