"""A federation without us: a hand-written loop, and Flower's own simulation with Ray.

``python -m benchmarks.sides loop|ray FOLDER DATA ROUNDS THREADS`` prints what came of it. Both
start from our weights, use our cached cases, trainer, seeds and steps, and evaluate every round.
They need no archive: they find their cases in the cache, once a process.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from torch import nn

from benchmarks.ours import DONE, RUN, Outcome, experiment_of
from clients.data import LabelledData
from clients.data.dataset import load_examples
from clients.training import Segmenter, seed_for
from federation.config import Experiment, Site, read_site
from federation.fresh import outputs_of
from federation.iodeep.weights import Tensor, weights_digest
from federation.networks import build_network, load_tensors, tensors_of
from federation.pacs import open_gateway
from server.simulation import Simulation
from server.strategies import FedAvg

Weights = dict[str, Tensor]
Data = Mapping[str, LabelledData]

_READ: dict[str, LabelledData] = {}


def prepare(folder: Path, experiment: Experiment) -> None:
    """Archives, and every site's cases in its cache."""
    with Simulation(experiment, folder) as simulation:
        for _ in simulation.import_images():
            pass
        simulation.write_documents()
        for name in experiment.roster:
            site = read_site(simulation.site(name) / "site.toml")
            _load(experiment, site, site.archives.images)
    for name in experiment.roster:
        read_cases(folder, experiment, name)  # the census of the other sides, too


def loop(folder: Path, experiment: Experiment) -> Outcome:
    """FedAvg as one writes it by hand: one site after the other, all in memory."""
    data = {name: read_cases(folder, experiment, name) for name in experiment.roster}
    version = start_of(experiment)
    dice = evaluate_all(experiment, data, version)
    for round in range(1, experiment.rounds + 1):
        mean = FedAvg(version)
        for site, cases in data.items():
            mean.add(train(experiment, site, cases, version, round), len(cases.train))
        version = mean.finish()
        dice = evaluate_all(experiment, data, version)
    return Outcome(digest=weights_digest(version), dice=dice)


def ray(folder: Path, experiment: Experiment) -> Outcome:
    """A minimal Flower app in Flower's simulation, two clients at once."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
    from flwr.simulation import run_simulation

    def sent(version: Weights) -> ArrayRecord:
        return ArrayRecord(network_of(experiment, version).state_dict())

    def received(arrays: ArrayRecord) -> Weights:
        network = build_network(experiment.model.architecture)
        network.load_state_dict(arrays.to_torch_state_dict())
        return copied(tensors_of(network))

    def site_of(context: Context) -> str:
        return experiment.roster[int(str(context.node_config["partition-id"]))]

    app = ClientApp()

    @app.train()
    def _train(message: Message, context: Context) -> Message:
        site = site_of(context)
        cases = cases_of(folder, experiment, site)
        version = received(message.content.array_records["arrays"])
        round = int(str(message.content.config_records["config"]["server-round"]))
        update = train(experiment, site, cases, version, round)
        metrics = MetricRecord({"num-examples": len(cases.train)})
        content = RecordDict({"arrays": sent(update), "metrics": metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def _evaluate(message: Message, context: Context) -> Message:
        cases = cases_of(folder, experiment, site_of(context))
        version = received(message.content.array_records["arrays"])
        dice = evaluate(experiment, cases, version)
        metrics = MetricRecord({"num-examples": len(cases.test), "dice": dice})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    server = ServerApp()
    ended: list[Outcome] = []

    @server.main()
    def _main(grid: Grid, _: Context) -> None:
        strategy = FlowerFedAvg(fraction_train=1.0, fraction_evaluate=1.0, min_available_nodes=4)
        result = strategy.start(
            grid, sent(start_of(experiment)), num_rounds=experiment.rounds, timeout=3600
        )
        dice = result.evaluate_metrics_clientapp[experiment.rounds]["dice"]
        assert isinstance(dice, float)
        ended.append(Outcome(digest=weights_digest(received(result.arrays)), dice=dice))

    run_simulation(
        server_app=server,
        client_app=app,
        num_supernodes=len(experiment.roster),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": 2},
        },
    )
    return ended[0]


# --- the work that all of them do ---------------------------------------------------------


def cases_of(folder: Path, experiment: Experiment, name: str) -> LabelledData:
    """Read once a process, which works in one folder only."""
    if name not in _READ:
        _READ[name] = read_cases(folder, experiment, name)
    return _READ[name]


def read_cases(folder: Path, experiment: Experiment, name: str) -> LabelledData:
    """The cached cases of a site; the archive's index is read from its folder."""
    site = read_site(folder / "sites" / name / "site.toml")
    return _load(experiment, site, f"folder:{folder / 'archives' / name}", run=RUN)


def _load(experiment: Experiment, site: Site, address: str, run: str = "") -> LabelledData:
    preprocessing = experiment.model.preprocessing
    assert preprocessing is not None
    with open_gateway(address) as gateway:
        outputs = outputs_of(experiment.model.labels)
        return load_examples(gateway, site, experiment.line, preprocessing, outputs, run=run)


def start_of(experiment: Experiment) -> Weights:
    return copied(tensors_of(build_network(experiment.model.architecture, seed=experiment.seed)))


def network_of(experiment: Experiment, version: Weights) -> nn.Module:
    network = build_network(experiment.model.architecture)
    load_tensors(network, version)
    return network


def trainer_of(experiment: Experiment, version: Weights) -> Segmenter:
    network = network_of(experiment, version)
    return Segmenter(network, experiment.training, labels=len(experiment.model.labels))


def train(
    experiment: Experiment, site: str, cases: LabelledData, version: Weights, round: int
) -> Weights:
    trainer = trainer_of(experiment, version)
    seed = seed_for(experiment.seed, site, round)
    trainer.fit(cases.train, seed=seed, round=round, rounds=experiment.rounds)
    return copied(tensors_of(trainer.network))


def evaluate(experiment: Experiment, cases: LabelledData, version: Weights) -> float:
    """Validation and test; the mean Dice of the latter."""
    trainer = trainer_of(experiment, version)
    if cases.validation:
        trainer.evaluate(cases.validation)
    return trainer.evaluate(cases.test).dice_mean


def evaluate_all(experiment: Experiment, data: Data, version: Weights) -> float:
    """The mean test Dice over all cases."""
    dice = {name: evaluate(experiment, cases, version) for name, cases in data.items()}
    weights = {name: len(cases.test) for name, cases in data.items()}
    return sum(dice[name] * weights[name] for name in data) / sum(weights.values())


def copied(tensors: Mapping[str, Tensor]) -> Weights:
    return {
        name: Tensor(dtype=t.dtype, shape=t.shape, pieces=(memoryview(bytes(t.data)),))
        for name, t in tensors.items()
    }


def main(side: str, folder: str, data: str, rounds: str, threads: str) -> None:
    experiment = experiment_of(data, int(rounds), f"training.threads={threads}")
    sides: Mapping[str, Callable[[Path, Experiment], Outcome]] = {
        "loop": loop,
        "ray": ray,
    }
    outcome = sides[side](Path(folder), experiment)
    print(DONE + json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main(*sys.argv[1:])
