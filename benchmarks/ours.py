"""A federation as `iodeep run` does it, but for the report.

``python -m benchmarks.ours FOLDER DATA ROUNDS`` prints what came of it. Every round goes into five
archives. Like the command, this imports nothing that is slow before its workers start.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from federation.config import Experiment, read_experiment
from server.cli import configs
from server.report.summary import RunMetrics
from server.simulation import Simulation

DONE = "outcome: "  # before the JSON; Ray prints lines of its own
RUN = "bench"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The last round's weights, and their mean test Dice over all sites' cases."""

    digest: str
    dice: float


def experiment_of(data: str, rounds: int, *overrides: str) -> Experiment:
    """The hippocampus recipe, or the phantom's where there is no data."""
    name = "phantom" if data == "phantom" else "hippocampus"
    ours = [f"data={data}", f"rounds={rounds}", "training.threads=1", "simulation.workers=2"]
    return read_experiment(configs() / f"{name}.toml", [*ours, *overrides])


def ours(folder: Path, experiment: Experiment) -> Outcome:
    """Our simulation, two sites at a time."""
    with Simulation(experiment, folder, resume=True) as simulation:
        simulation.run(f"{RUN}-{experiment.rounds}")
    last = RunMetrics.read(folder).last()
    return Outcome(digest=last["weights_digest"], dice=last["test_dice_mean"])


def main(folder: str, data: str, rounds: str) -> None:
    outcome = ours(Path(folder), experiment_of(data, int(rounds)))
    print(DONE + json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main(*sys.argv[1:])
