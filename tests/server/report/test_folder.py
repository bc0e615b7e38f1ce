"""What the run's folder keeps when a run is interrupted and taken up again."""

from pathlib import Path

import pytest

from federation.errors import ConfigError
from server.report.summary import RunMetrics, RunTimings, read_lines
from tests.server.report.runs import plan, run
from tests.server.test_rounds import Sites

WRITTEN_AGAIN = ("metrics.jsonl", "metrics.csv", "versions.jsonl", "run.json", "config.toml")


@pytest.mark.parametrize("sites", ["['A', 'B', 'C', 'D']", "['D', 'B', 'A', 'C']"])
def test_a_taken_up_run_writes_its_folder_again(tmp_path: Path, sites: str) -> None:
    experiment = plan(f"federation.sites={sites}")
    some = Sites()
    some.deaf.add("B")
    folder = run(tmp_path, experiment, some)
    before = {name: (folder / name).read_bytes() for name in WRITTEN_AGAIN}
    assert RunMetrics.read(folder).sites == experiment.roster
    for name in WRITTEN_AGAIN:
        (folder / name).unlink()
    run(folder, experiment)
    assert {name: (folder / name).read_bytes() for name in WRITTEN_AGAIN} == before


def test_a_line_of_timings_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    folder = run(tmp_path, plan())
    whole = RunTimings.read(folder)
    with (folder / "timings.jsonl").open("a") as file:
        file.write('{"round": 2, "work": "tra')
    assert RunTimings.read(folder) == whole
    run(folder, plan())
    assert RunTimings.read(folder) == whole
    with (folder / "timings.jsonl").open("a") as file:
        file.write("{}\n")
    assert read_lines(folder / "timings.jsonl")[-1] == {}


def test_a_damaged_line_is_said(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"round": 0, "si\xff\n{}\n')
    with pytest.raises(ConfigError, match=r"metrics.jsonl holds a line that is no JSON"):
        RunMetrics.read(tmp_path)
