"""The report and the comparison of runs, over run folders that the round loop wrote."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from federation.cli import build
from federation.config import Experiment, read_experiment
from federation.errors import ConfigError
from federation.grid import InProcessGrid
from federation.pacs import Archive, open_gateway
from federation.registry import Registry
from server.report.compare import compare
from server.report.folder import RunFolder
from server.report.html import write_report
from server.report.summary import RunMetrics, RunTimings
from server.rounds import Rounds
from tests.server.test_rounds import CONFIGS, Sites

EVIL = "<script>alert(1)</script>"


def plan(*overrides: str) -> Experiment:
    return read_experiment(
        CONFIGS / "phantom.toml",
        ["rounds=2", "federation.quorum=3", f"model.labels.1='{EVIL}'", *overrides],
    )


def run(folder: Path, experiment: Experiment, sites: Sites | None = None) -> Path:
    grid = InProcessGrid((sites or Sites()).app, {name: {"name": name} for name in "ABCD"})
    archive = folder / "archives" / "aggregator"
    with Archive(archive), open_gateway(f"folder:{archive}") as gateway:
        Rounds(
            experiment,
            grid=grid,
            registry=Registry(gateway),
            branch="test-1234",
            observers=(RunFolder(folder),),
        ).run()
    return folder


def report_of(folder: Path, experiment: Experiment, previews: dict[str, Path]) -> str:
    return write_report(folder, experiment.model.labels, experiment.rounds, previews).read_text(
        encoding="utf-8"
    )


@pytest.fixture
def preview(tmp_path: Path) -> Path:
    path = tmp_path / "preview.npz"
    labels = np.eye(8, dtype=np.uint8)
    np.savez(path, image=np.random.default_rng(0).random((8, 8)), truth=labels, prediction=labels)
    return path


def test_a_report_says_what_the_folder_holds(tmp_path: Path, preview: Path) -> None:
    experiment = plan()
    sites = Sites()
    sites.deaf.add("B")
    folder = run(tmp_path / "run", experiment, sites)
    text = report_of(folder, experiment, {"A": preview})
    metrics = RunMetrics.read(folder)
    assert f"{metrics.last()['test_dice_mean']:.4f}" in text
    assert experiment.digest in text
    for line in metrics.of_site(None):
        assert line["weights_digest"] in text
        assert line["version"] in text
    for heading in ("Results", "Data", "Curves", "held-out slice", "Time", "Lineage", "Configurat"):
        assert heading in text
    assert re.search(r"B: the site(&#39;|')s archive refused or failed", text)
    assert "A (1), C (3), D (4)" in text


def test_a_report_is_one_file_and_runs_nothing(tmp_path: Path, preview: Path) -> None:
    experiment = plan()
    text = report_of(run(tmp_path / "run", experiment), experiment, {"A": preview})
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    for source in sources:
        if source.startswith("data:image/svg"):
            assert b"<script" not in base64.b64decode(source.partition(",")[2])


def test_a_report_without_slices_or_timings_has_the_rest(tmp_path: Path) -> None:
    experiment = plan()
    folder = run(tmp_path / "run", experiment)
    (folder / "timings.jsonl").unlink()
    text = report_of(folder, experiment, {})
    assert "No timings were kept" in text
    assert "held-out slice" not in text


def test_a_line_of_timings_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", plan())
    whole = RunTimings.read(folder)
    with (folder / "timings.jsonl").open("a") as file:
        file.write('{"round": 2, "work": "tra')
    assert RunTimings.read(folder) == whole
    assert set(whole.by_who) == {"A", "B", "C", "D", "aggregator"}
    assert set(whole.by_round) == {0, 1, 2}


def test_a_taken_up_run_writes_its_folder_again(tmp_path: Path) -> None:
    experiment = plan()
    folder = run(tmp_path / "run", experiment)
    names = ("metrics.jsonl", "metrics.csv", "versions.jsonl", "run.json", "config.toml")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    run(folder, experiment)
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_runs_are_compared(tmp_path: Path) -> None:
    one = run(tmp_path / "one", plan())
    same = run(tmp_path / "same", plan("data=elsewhere"))
    other = run(tmp_path / "other", plan("seed=9"))
    compared = compare([one, same, other])
    assert compared.first_change == [None, None, 0]
    assert compared.differences == {
        "seed": [1, 1, 9],
        "data": ["phantom", "elsewhere", "phantom"],
    }
    assert [result["round"] for result in compared.results] == [2, 2, 2]
    assert compared.results[0]["A"] == pytest.approx(0.1)
    words = ["compare", str(one), str(other)]
    said = CliRunner().invoke(build(), words).stdout
    assert "others from round 0 on" in said
    told = json.loads(CliRunner().invoke(build(), [*words, "--json"]).stdout)
    assert told["first_change"] == [None, 0]


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run"):
        compare([tmp_path, tmp_path])
