"""One federation done three ways: ours, a hand-written loop, Flower's own simulation with Ray.

``python -m benchmarks.sides ours|loop|ray FOLDER DATA ROUNDS`` prints what came of it as JSON.
All three start from the same weights, use the same cached cases, trainer, seeds and steps, and
evaluate every round; ours also keeps every round in five archives.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clients.data import LabelledData
from clients.data.dataset import load_examples
from clients.training import Trainer, seed_for
from federation.config import Experiment, read_experiment, read_site
from federation.iodeep.weights import Tensor, weights_digest
from federation.networks import build_network, load_tensors, tensors_of
from federation.pacs import open_gateway
from server.cli import configs
from server.simulation import Simulation
from server.strategies import FedAvg

Weights = dict[str, Tensor]


def experiment_of(data: str, rounds: int) -> Experiment:
    """The hippocampus recipe, or the phantom's where there is no data."""
    name = "phantom" if data == "phantom" else "hippocampus"
    overrides = [f"data={data}", f"rounds={rounds}", "training.threads=1", "simulation.workers=2"]
    return read_experiment(configs() / f"{name}.toml", overrides)


def prepare(folder: Path, experiment: Experiment) -> None:
    """Archives, and every site's cases in its cache."""
    with Simulation(experiment, folder) as simulation:
        for _ in simulation.import_images():
            pass
        simulation.write_documents()
        for name in experiment.roster:
            site = read_site(simulation.site(name) / "site.toml")
            with open_gateway(site.archives.images) as gateway:
                load_examples(gateway, site, experiment.line, experiment.model.preprocessing)


def ours(folder: Path, experiment: Experiment) -> str:
    """Our simulation, two sites at a time, to the digest of the last round's weights."""
    with Simulation(experiment, folder, resume=True) as simulation:
        simulation.run(f"bench-{experiment.rounds}")
    lines = (folder / "versions.jsonl").read_text(encoding="utf-8").splitlines()
    digest: str = json.loads(lines[-1])["weights_digest"]
    return digest


def loop(folder: Path, experiment: Experiment) -> str:
    """FedAvg as one writes it by hand: one site after the other, all in memory."""
    data = read_cases(folder, experiment)
    version = start_of(experiment)
    evaluate_all(experiment, data, version)
    for round in range(1, experiment.rounds + 1):
        mean = FedAvg(version)
        for site, cases in data.items():
            mean.add(train(experiment, site, cases, version, round), len(cases.train))
        version = mean.finish()
        evaluate_all(experiment, data, version)
    return weights_digest(version)


def ray(folder: Path, experiment: Experiment) -> str:
    """A minimal Flower app in Flower's simulation, two clients at once."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
    from flwr.simulation import run_simulation

    def network_of(version: Weights | None) -> Any:
        network = build_network(experiment.model.architecture)
        if version is not None:
            load_tensors(network, version)
        return network

    def sent(version: Weights) -> ArrayRecord:
        return ArrayRecord(network_of(version).state_dict())

    def received(arrays: ArrayRecord) -> Weights:
        network = network_of(None)
        network.load_state_dict(arrays.to_torch_state_dict())
        return copied(tensors_of(network))

    app = ClientApp()
    ended: list[str] = []

    def cases_of(context: Context) -> tuple[str, LabelledData]:
        site = experiment.roster[int(str(context.node_config["partition-id"]))]
        return site, read_cases(folder, experiment, only=site)[site]

    @app.train()
    def _train(message: Message, context: Context) -> Message:
        site, cases = cases_of(context)
        version = received(message.content.array_records["arrays"])
        round = int(str(message.content.config_records["config"]["server-round"]))
        update = train(experiment, site, cases, version, round)
        metrics = MetricRecord({"num-examples": len(cases.train)})
        content = RecordDict({"arrays": sent(update), "metrics": metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def _evaluate(message: Message, context: Context) -> Message:
        _, cases = cases_of(context)
        version = received(message.content.array_records["arrays"])
        dice = evaluate(experiment, cases, version)
        metrics = MetricRecord({"num-examples": len(cases.test), "dice": dice})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    server = ServerApp()

    @server.main()
    def _main(grid: Grid, _: Context) -> None:
        strategy = FlowerFedAvg(fraction_train=1.0, fraction_evaluate=1.0, min_available_nodes=4)
        result = strategy.start(
            grid, sent(start_of(experiment)), num_rounds=experiment.rounds, timeout=3600
        )
        ended.append(weights_digest(received(result.arrays)))

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


def read_cases(
    folder: Path, experiment: Experiment, only: str | None = None
) -> Mapping[str, LabelledData]:
    """The cached cases of the sites; the archive's index is read from its folder."""
    cases = {}
    for name in [only] if only else experiment.roster:
        site = read_site(folder / "sites" / name / "site.toml")
        with open_gateway(f"folder:{folder / 'archives' / name}") as gateway:
            cases[name] = load_examples(
                gateway, site, experiment.line, experiment.model.preprocessing, run="bench"
            )
    return cases


def start_of(experiment: Experiment) -> Weights:
    return copied(tensors_of(build_network(experiment.model.architecture, seed=experiment.seed)))


def trainer_of(experiment: Experiment, version: Weights) -> Trainer:
    network = build_network(experiment.model.architecture)
    load_tensors(network, version)
    return Trainer(network, experiment.training, labels=len(experiment.model.labels))


def train(
    experiment: Experiment, site: str, cases: LabelledData, version: Weights, round: int
) -> Weights:
    trainer = trainer_of(experiment, version)
    seed = seed_for(experiment.seed, site, round)
    trainer.fit(cases.train, seed=seed, round=round, rounds=experiment.rounds)
    return copied(tensors_of(trainer.network))


def evaluate(experiment: Experiment, cases: LabelledData, version: Weights) -> float:
    trainer = trainer_of(experiment, version)
    if cases.validation:
        trainer.evaluate(cases.validation)
    return trainer.evaluate(cases.test).dice_mean


def evaluate_all(
    experiment: Experiment, data: Mapping[str, LabelledData], version: Weights
) -> None:
    for cases in data.values():
        evaluate(experiment, cases, version)


def copied(tensors: Mapping[str, Tensor]) -> Weights:
    return {
        name: Tensor(dtype=t.dtype, shape=t.shape, data=memoryview(bytes(t.data)))
        for name, t in tensors.items()
    }


def main(side: str, folder: str, data: str, rounds: str) -> None:
    experiment = experiment_of(data, int(rounds))
    sides: Mapping[str, Any] = {"ours": ours, "loop": loop, "ray": ray}
    print(json.dumps({"digest": sides[side](Path(folder), experiment)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
