"""An epoch through our data path, cached, beside a bare PyTorch loop on tensors in memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from monai.losses.dice import DiceCELoss

from benchmarks.measure import in_turns, profile
from benchmarks.table import Row
from clients.data.cache import Example, ExampleCache
from clients.data.dataset import Examples
from clients.training import Segmenter
from federation.config import TrainingTable, read_experiment
from federation.networks import build_network
from server.cli import configs

_CASES = 16
_TURNS = 9


def rows() -> Iterator[Row]:
    """The same network, cases, batches, loss and optimiser; nothing is changed at random.

    The bare loop is given what makes ours fast, channels last, and the same one thread; it does
    without our checks, our cache and deterministic algorithms.
    """
    experiment = read_experiment(configs() / "hippocampus.toml")
    settings = TrainingTable(
        epochs=1, batch_size=2, threads=1, optimizer=experiment.training.optimizer
    )
    random = torch.Generator().manual_seed(1)
    preprocessing = experiment.model.preprocessing
    assert preprocessing is not None
    images = torch.randn((_CASES, 1, *preprocessing.size), generator=random)
    labels = torch.randint(0, 3, images.shape, generator=random).to(torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        cache = ExampleCache(Path(folder))
        keys = [f"{number:064d}" for number in range(_CASES)]
        for key, image, label in zip(keys, images, labels, strict=True):
            cache.write(Example(key=key, image=image, label=label, spacing_mm=(1, 1, 1)))
        trainer = Segmenter(
            build_network(experiment.model.architecture, seed=1), settings, labels=2, device="cpu"
        )
        network = torch.nn.utils.convert_conv3d_weight_memory_format(
            build_network(experiment.model.architecture, seed=1), torch.channels_last_3d
        )

        def ours() -> None:
            trainer.fit(Examples(cache, keys), seed=1)

        def bare() -> None:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.0)
            loss_of = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
            network.train()
            for batch in torch.randperm(_CASES).view(-1, 2):
                optimizer.zero_grad()
                loss = loss_of(network(images[batch]), labels[batch].long())
                loss.item()
                loss.backward()
                optimizer.step()
            torch.set_num_threads(threads)

        through, loop = in_turns(ours, bare, turns=_TURNS)
        ratio = through.over(loop)
        yield Row(
            what="an epoch of cached cases / a bare loop in memory",
            value=ratio.median,
            bound=1.05,
            shown=f"{ratio}",
        ).explained(lambda: profile(ours))

        def load() -> None:
            for example in Examples(cache, keys):
                example.image.sum(), example.label.sum()  # every page of it

        loading, training = in_turns(load, ours, turns=_TURNS)
        share = loading.over(training)
        yield Row(
            what="loading the cached cases / an epoch",
            value=share.median,
            bound=0.05,
            shown=f"{share}",
        ).explained(lambda: profile(load))
