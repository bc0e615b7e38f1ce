"""What a site does for each policy of batch normalisation, over real archives."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.association import Association

from clients.training import Segmenter
from federation.config import read_experiment
from federation.iodeep.manifest import AGGREGATOR, StateManifest, VersionManifest
from federation.iodeep.weights import Tensor
from federation.pacs import open_gateway
from federation.registry import Registry
from server.report.summary import read_lines
from server.simulation import Simulation

CONFIGS = Path(__file__).parents[2] / "configs"
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs two rounds with a policy, on a branch of that name unless another is given."""
    folder = tmp_path_factory.mktemp("app") / "out"

    def run(policy: str, branch: str = "") -> Path:
        plan = read_experiment(
            CONFIGS / "phantom.toml",
            ["rounds=2", 'federation.sites=["A","B"]', "federation.quorum=2", "training.steps=3",
             'model.architecture.norm="BATCH"', f"training.normalisation={policy}",
             "simulation.workers=1"],
        )  # fmt: skip
        with Simulation(plan, folder, resume=folder.exists()) as simulation:
            list(simulation.import_images())
            simulation.run(branch or policy)
        return folder

    return run


def versions(folder: Path, archive: str, branch: str) -> list[dict[str, Tensor]]:
    """The weights of each round."""
    with open_gateway(f"folder:{folder}/archives/{archive}") as gateway:
        registry = Registry(gateway)
        found = []
        for version in registry.versions(line(folder), branch):
            assert isinstance(version, VersionManifest)
            with registry.pull(version) as record:
                found.append(
                    {
                        name: Tensor(
                            dtype=t.dtype, shape=t.shape, pieces=(memoryview(bytes(t.data)),)
                        )
                        for name, t in record.tensors().items()
                    }
                )
    return found


def line(folder: Path):
    return read_experiment(folder / "config.toml").line


def states(folder: Path, archive: str, branch: str) -> list[StateManifest]:
    with open_gateway(f"folder:{folder}/archives/{archive}") as gateway:
        entries = Registry(gateway).entries(line(folder), branch)
        return [e.manifest for e in entries if isinstance(e.manifest, StateManifest)]


def statistics(weights: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: bytes(t.data) for name, t in weights.items() if "running_" in name}


def test_local_layers_stay_in_the_site_s_own_archive(run: Run) -> None:
    folder = run("local")
    for site in ("A", "B"):
        kept = states(folder, site, "local")
        assert [(state.round, state.by) for state in kept] == [(1, site), (2, site)]
        with open_gateway(f"folder:{folder}/archives/{site}") as gateway:
            registry = Registry(gateway)
            outcomes = list(registry.verify(line(folder), "local"))
            assert [one.problem for one in outcomes] == [None] * len(outcomes)
            assert {one.kind for one in outcomes} == {"VERSION", "STATE", "EVALUATION"}
            with registry.pull(kept[0]) as one:
                names = {name.rpartition(".")[2] for name in one.tensors()}
        assert names == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert states(folder, AGGREGATOR, "local") == []


def test_frozen_statistics_are_those_of_the_start(run: Run) -> None:
    first, *_, last = versions(run("frozen"), AGGREGATOR, "frozen")
    assert statistics(first) == statistics(last)
    assert {name: bytes(t.data) for name, t in first.items()} != {
        name: bytes(t.data) for name, t in last.items()
    }


def test_reestimated_statistics_take_one_more_exchange(run: Run) -> None:
    _, once, _ = versions(run("average"), AGGREGATOR, "average")
    folder = run("reestimate")
    _, again, _ = versions(folder, AGGREGATOR, "reestimate")
    others = [name for name in once if "running_" not in name]
    assert others
    assert all(bytes(once[name].data) == bytes(again[name].data) for name in others)
    assert statistics(once) != statistics(again)
    asked = [one for one in read_lines(folder / "timings.jsonl") if one["work"] == "query"]
    assert [(one["round"], one["site"]) for one in asked] == [
        (1, "A"), (1, "B"), (2, "A"), (2, "B")
    ]  # fmt: skip


def test_no_association_is_open_while_a_site_works(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its own nor the aggregator's: archives have few, and this takes minutes."""
    kept: list[int] = []
    others = associations()  # of earlier tests in this process

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*args: Any, **options: Any) -> Any:
            kept.append(associations_after(2.0, others))
            return work(*args, **options)

        return watch

    for name in ("fit", "evaluate"):
        monkeypatch.setattr(Segmenter, name, watched(getattr(Segmenter, name)))
    run("average", "watched")
    assert kept
    assert set(kept) == {0}


def associations() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if isinstance(thread, Association)}


def associations_after(seconds: float, others: set[threading.Thread]) -> int:
    """How many are open in this process, at both ends; the end of one takes a moment."""
    deadline = time.monotonic() + seconds
    while (count := len(associations() - others)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return count
