"""Two hospitals learn whether there is a blob: one says so in a CSV, the other in reports."""

import json
from pathlib import Path

import pytest

from federation.config import Experiment, parse_experiment
from federation.iodeep.manifest import VersionManifest
from federation.pacs import Archive, open_gateway
from federation.registry import Registry
from server.cli import _simulate
from server.report.compare import compare
from server.report.summary import RunMetrics
from tests import classified

CASES = 24
ROUNDS = 4


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives A and B with images, of which every other has a blob; labels.csv and reports."""
    home = tmp_path_factory.mktemp("classification")
    rows = ["Patient_ID,label"]
    for number, site in enumerate("AB"):
        files = []
        for case in range(CASES):
            name, has_blob = f"{site}{case}", case % 2 == 1
            images = classified.write_series(
                home / "files", name, has_blob=has_blob, seed=100 * number + case
            )
            files += images
            if site == "A":
                rows.append(f"{classified.patient(name)},{'yes' if has_blob else 'no'}")
            else:
                value = classified.BLOB if has_blob else classified.NONE
                files.append(classified.write_report(images, value))
        with Archive(home / site), open_gateway(f"folder:{home / site}") as gateway:
            gateway.store(files)
    (home / "labels.csv").write_text("\n".join(rows) + "\n")
    return home


def plan(home: Path) -> Experiment:
    return parse_experiment(
        {
            "name": "blobs",
            "rounds": ROUNDS,
            "seed": 3,
            "model": {
                "line": "CT/lung/-/blobs",
                "task": "classification",
                "labels": {1: "mass"},
                "architecture": {
                    "network": "monai.DenseNet",
                    "out_channels": 2,
                    "init_features": 8,
                    "growth_rate": 8,
                    "block_config": [1, 1],
                    "bn_size": 2,
                    "norm": "INSTANCE",
                },
                "preprocessing": {
                    "spacing_mm": [1, 1, 1],
                    "size": [16, 16, 16],
                    "intensity": "window",
                    "window": [50, 200],
                },
            },
            "federation": {"sites": ["A", "B"], "quorum": 2},
            "training": {
                "steps": 20,
                "batch_size": 4,
                "optimizer": {"lr": 0.01},
                "augmentation": {"flip": [0, 1, 2]},
            },
            "simulation": {
                "workers": 1,
                "archives": {site: f"folder:{home / site}" for site in "AB"},
                "tables": {
                    "A": {
                        "labels": {
                            "source": "CSV",
                            "file": str(home / "labels.csv"),
                            "map": {"yes": 1, "no": 0},
                        },
                        "validation": 0.2,
                        "test": 0.3,
                    },
                    "B": {
                        "labels": {"source": "SR", "map": {"SCT:4147007": 1, "normal": 0}},
                        "validation": 0.2,
                        "test": 0.3,
                    },
                },
            },
        }
    )


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    result = _simulate(plan(home), home / "run", "main", resume=False)
    assert result["test_auc"] is not None
    return home / "run"


def test_it_learns_what_both_sites_say(run: Path) -> None:
    metrics = RunMetrics.read(run)
    last = metrics.last()
    assert last["round"] == ROUNDS
    assert last["test_auc"] > 0.8
    assert last["test_accuracy"] > 0.7
    assert metrics.of_site(None)[0]["test_loss"] > last["test_loss"]
    for line in metrics.of_round(ROUNDS):
        assert line["test_auc_1"] == pytest.approx(line["test_auc"])
        assert (line["left_out"], line["problem"]) == (0, None)
        assert "test_dice_mean" not in line


def test_the_mean_over_sites_is_weighted_by_cases(run: Path) -> None:
    *sites, every = RunMetrics.read(run).of_round(ROUNDS)
    cases = [site["test_cases"] for site in sites]
    for name in ("test_auc", "test_accuracy", "test_loss"):
        mean = sum(s[name] * n for s, n in zip(sites, cases, strict=True)) / sum(cases)
        assert every[name] == pytest.approx(mean)


def test_versions_say_the_task(run: Path) -> None:
    with open_gateway(f"folder:{run}/archives/aggregator") as gateway:
        registry = Registry(gateway)
        (branch,) = registry.branches()
        versions = registry.versions(branch.line, branch.name)
    assert [type(version) for version in versions] == [VersionManifest] * (ROUNDS + 1)
    assert {version.task for version in versions} == {"classification"}


def test_the_report_speaks_of_auc_and_names_no_patient(run: Path) -> None:
    report = (run / "report.html").read_text()
    assert "mean test AUC" in report
    assert "accuracy" in report
    assert "Dice" not in report
    assert (run / "picture.png").exists()
    log = "".join(path.read_text() for path in (run / "sites").rglob("*.log"))
    kept = "".join(path.read_text() for path in (run / "sites").rglob("cache/*.json"))
    metrics = (run / "metrics.jsonl").read_text()
    for text in (report, log, kept, metrics):
        assert "SECRET" not in text.upper()
        assert "Doe" not in text


def test_runs_are_compared_by_auc(run: Path, home: Path) -> None:
    other = home / "copy"
    other.mkdir()
    for name in ("config.toml", "metrics.jsonl", "versions.jsonl"):
        (other / name).write_bytes((run / name).read_bytes())
    rows = {row[""]: row for row in compare([run, other]).result_table()}
    assert (
        rows["test AUC"]["run"]
        == json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["test_auc"]
    )
    assert rows["weights"]["copy"] == f"the same in all {ROUNDS + 1}"
