"""A plain Flower app, as one writes it: the same network, trainer, seeds and cases, and no archive.

Each site's cases lie in a file of tensors that is loaded for every message, as each message is a
process of its own. What it needs to know is in the environment, as one would put it into the app.
"""

import json
import os
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from clients.data.cache import Example
from clients.training import Segmenter, seed_for
from federation.config import Experiment, parse_experiment
from federation.networks import build_network

EXPERIMENT, OUTCOME = "PLAIN_EXPERIMENT", "PLAIN_OUTCOME"
PARTS = ("train", "validation", "test")

client_app = ClientApp()
server_app = ServerApp()


def write_cases(file: Path, parts: dict[str, list[Example]]) -> None:
    """The cases of a site, as :func:`_cases` loads them."""
    torch.save(
        {name: [(one.image, one.label) for one in found] for name, found in parts.items()}, file
    )


def _cases(context: Context) -> dict[str, list[Example]]:
    parts = torch.load(str(context.node_config["cases"]), weights_only=True)
    return {
        name: [
            Example(key=f"{n:064d}", image=image, label=label, spacing_mm=(1, 1, 1))
            for n, (image, label) in enumerate(parts[name])
        ]
        for name in PARTS
    }


def _experiment() -> Experiment:
    return parse_experiment(json.loads(Path(os.environ[EXPERIMENT]).read_text()))


def _trainer(message: Message) -> Segmenter:
    experiment = _experiment()
    network = build_network(experiment.model.architecture)
    network.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    return Segmenter(network, experiment.training, labels=len(experiment.model.labels))


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One round at a site."""
    experiment, cases, trainer = _experiment(), _cases(context), _trainer(message)
    site = str(context.node_config["site"])
    round = int(str(message.content.config_records["config"]["server-round"]))
    seed = seed_for(experiment.seed, site, round)
    trainer.fit(cases["train"], seed=seed, round=round, rounds=experiment.rounds)
    metrics = MetricRecord({"num-examples": len(cases["train"])})
    arrays = ArrayRecord(trainer.network.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Dice on validation and test cases of a site."""
    cases, trainer = _cases(context), _trainer(message)
    if cases["validation"]:
        trainer.evaluate(cases["validation"])
    dice = trainer.evaluate(cases["test"]).dice_mean
    metrics = MetricRecord({"num-examples": len(cases["test"]), "dice": dice})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@server_app.main()
def main(grid: Grid, _: Context) -> None:
    """All rounds; when each of them ended goes into a file."""
    experiment = _experiment()
    sites = len(experiment.roster)
    network = build_network(experiment.model.architecture, seed=experiment.seed)
    ended = []

    def note(_round: int, _arrays: ArrayRecord) -> MetricRecord:
        ended.append(time.time())
        return MetricRecord({"at": time.time()})

    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=1.0, min_available_nodes=sites)
    result = strategy.start(
        grid, ArrayRecord(network.state_dict()), num_rounds=experiment.rounds, timeout=3600,
        evaluate_fn=note,
    )  # fmt: skip
    dice = result.evaluate_metrics_clientapp[experiment.rounds]["dice"]
    Path(os.environ[OUTCOME]).write_text(json.dumps({"ended": ended, "dice": dice}))
