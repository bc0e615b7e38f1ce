"""What is foretold of a run, against what it then took."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto

from clients.app import app
from federation.config import Experiment, read_experiment
from federation.errors import ConfigError, DataError
from federation.grid import InProcessGrid
from federation.iodeep.signature import SigningKey
from federation.pacs import open_gateway
from federation.registry import Registry
from server.check import foresee
from server.cli import configs
from server.rounds import Rounds
from server.simulation import Simulation

FEW = 0.05  # of the bytes: manifests, headers, evaluations


def plan(*overrides: str) -> Experiment:
    few = ["rounds=2", 'federation.sites=["A","B"]', "federation.quorum=2", "training.steps=1"]
    return read_experiment(configs() / "phantom.toml", [*few, *overrides])


class Weighed(InProcessGrid):
    """A grid that adds up what crosses it, in Flower's own serialisation."""

    def __init__(self, client_app: ClientApp, sites: dict[str, dict[str, str]]) -> None:
        super().__init__(client_app, sites)
        self.down = self.up = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.down += sum(message_to_proto(one).ByteSize() for one in messages)
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.up += sum(message_to_proto(one).ByteSize() for one in replies)
        return replies


def stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix == ".dcm")


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("rounds=1", 'model.architecture.norm="BATCH"', "training.normalisation=reestimate"),
        ("rounds=1", 'model.architecture.norm="BATCH"', "training.normalisation=local"),
    ],
)
def test_what_is_foretold_is_what_it_takes(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    experiment = plan(*overrides)
    forecast = foresee(experiment)
    with Simulation(experiment, tmp_path / "run") as simulation:
        list(simulation.import_images())
        simulation.write_documents()
        before = {site: stored(tmp_path / "run" / "archives" / site) for site in "AB"}
        sites = {site: {"site": str(simulation.site(site) / "site.toml")} for site in "AB"}
        grid = Weighed(app, sites)
        with open_gateway(simulation.archive("aggregator")) as gateway:
            signer = SigningKey.read(tmp_path / "run" / "aggregator.key")
            registry = Registry(gateway, signer=signer)
            Rounds(experiment, grid=grid, registry=registry, branch="b").run()
    archives = tmp_path / "run" / "archives"
    for need in forecast.sites:
        grown = stored(archives / need.name) - before[need.name]
        assert grown == pytest.approx(need.stored, rel=FEW)
    aggregator = forecast.aggregator
    assert stored(archives / "aggregator") == pytest.approx(aggregator.stored, rel=FEW)
    assert grid.down == pytest.approx(aggregator.sent, rel=FEW)
    assert grid.up == pytest.approx(aggregator.received, rel=FEW)


def test_simulated_cases_are_counted_and_missing_ones_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "site,split,case,patient_id,subject,image,label,sha256_image,sha256_label\n"
        + "".join(f"{site},train,c{site},p{site},s,i.nii,l.nii,0,0\n" for site in "AB")
    )
    forecast = foresee(plan(f"data={tmp_path}"))
    assert [(need.cases, need.missing) for need in forecast.sites] == [(1, 1), (1, 1)]
    assert any("A: 1 of 1 cases lack a file" in remark for remark in forecast.remarks())
    with pytest.raises(DataError, match="no cases of site C"):
        foresee(plan(f"data={tmp_path}", 'federation.sites=["A","B","C"]'))
    with pytest.raises(ConfigError, match=r"manifest\.csv"):
        foresee(plan(f"data={tmp_path / 'nowhere'}"))


def test_among_hospitals_the_deadline_bounds_the_wait_and_no_data_is_looked_for() -> None:
    forecast = foresee(plan("federation.mode=deployment", "federation.deadline_s=60", "data=/no"))
    assert forecast.longest_s == 60 * (1 + 2 * 3)
    assert {need.cases for need in forecast.sites} == {None}


def test_sites_alone_have_an_aggregator_each() -> None:
    forecast = foresee(plan("strategy.name=local"))
    assert forecast.aggregator.archives == 2
    assert forecast.aggregator.stored == 2 * forecast.sites[0].stored
