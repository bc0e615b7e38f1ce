"""48 broken studies among hundreds, or among 1,910: the run goes on without them, and says so."""

import json
from collections import Counter
from pathlib import Path

import pytest

from federation.config import read_experiment
from federation.pacs import Archive, open_gateway
from server.report.summary import read_lines
from server.simulation import Simulation
from tests.many import FAULTS, write_studies

CONFIGS = Path(__file__).parents[1] / "configs"
BROKEN = 48


def shares() -> dict[str, int]:
    """The broken ones, over all kinds."""
    counts = dict.fromkeys(FAULTS, BROKEN // len(FAULTS))
    for name in list(FAULTS)[: BROKEN % len(FAULTS)]:
        counts[name] += 1
    return counts


@pytest.mark.parametrize(
    "studies", [400, pytest.param(1910, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_a_run_leaves_out_what_is_broken_and_trains_on_the_rest(
    tmp_path: Path, studies: int
) -> None:
    broken = shares()
    home = f"folder:{tmp_path}/hospital"
    Archive(tmp_path / "hospital").close()
    with open_gateway(home) as gateway:
        for paths in write_studies(studies, broken, tmp_path / "study"):
            gateway.store(paths)
            for path in paths:
                path.unlink()
    plan = read_experiment(
        CONFIGS / "phantom.toml",
        ["rounds=1", 'federation.sites=["A"]', "federation.quorum=1", "training.steps=4",
         "model.architecture.channels=[2,4]", "model.architecture.strides=[2]",
         "model.preprocessing.size=[8,8,4]", "simulation.workers=1",
         f'simulation.archives.A="{home}"'],
    )  # fmt: skip
    folder = tmp_path / "out"
    with Simulation(plan, folder) as simulation:
        simulation.site("A").mkdir(parents=True)
        simulation.run("many")

    (*_, measured) = [line for line in read_lines(folder / "metrics.jsonl") if line["site"] == "A"]
    (*_, version) = read_lines(folder / "versions.jsonl")
    assert version["sites"]["A"] + measured["validation_cases"] == studies - BROKEN
    reasons: Counter[str] = Counter()
    for name, count in broken.items():
        reasons.update({str(reason): count for reason in FAULTS[name][0]})
    assert measured["quarantined"] == dict(reasons)
    quarantine = folder / "sites" / "A" / "work" / "quarantine.jsonl"
    entries = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert len({entry["study"] for entry in entries}) == BROKEN
    assert "PATIENT-" not in quarantine.read_text()
