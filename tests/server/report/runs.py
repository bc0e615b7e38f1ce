"""Short runs over a real archive, for what is made of their folders."""

from pathlib import Path

import numpy as np

from federation.config import Experiment, read_experiment
from federation.grid import InProcessGrid
from federation.messages import TrainAnswer, TrainRequest
from federation.pacs import Archive, open_gateway
from federation.registry import Registry
from server.report.folder import RunFolder
from server.rounds import Rounds
from tests.server.test_rounds import BRANCH, CONFIGS, Sites, Trained, Update


def plan(*overrides: str) -> Experiment:
    return read_experiment(
        CONFIGS / "phantom.toml", ["rounds=2", "federation.quorum=1", *overrides]
    )


def run(folder: Path, experiment: Experiment, sites: Sites | None = None) -> Path:
    """Run an experiment to its end, or take up what ``folder`` holds of it."""
    grid = InProcessGrid((sites or Sites()).app, {name: {"name": name} for name in "ABCD"})
    archive = folder / "archives" / "aggregator"
    with Archive(archive), open_gateway(f"folder:{archive}") as gateway:
        Rounds(
            experiment,
            grid=grid,
            registry=Registry(gateway),
            branch=BRANCH,
            observers=(RunFolder(folder),),
        ).run()
    return folder


def losing(request: TrainRequest, answer: TrainAnswer, update: Update) -> Trained:
    """A site that tells its loss: 0.5 in the first round, 0.25 in the second."""
    return answer.model_copy(update={"metrics": {"loss": 0.5**request.round}}), update


def draw_preview(folder: Path, site: str) -> None:
    """The slice that a site of a simulation leaves in its work folder."""
    path = folder / "sites" / site / "work" / "preview.npz"
    path.parent.mkdir(parents=True)
    image = np.random.default_rng(0).random((8, 8))
    labels = np.eye(8, dtype=np.uint8)
    np.savez(path, image=image, truth=labels, prediction=labels)
