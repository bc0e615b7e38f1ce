"""Runs side by side, over folders that the round loop wrote."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from federation.cli import build
from federation.errors import ConfigError
from server.report.compare import compare
from tests.server.report.runs import plan, run


def test_equal_runs_have_equal_weights_and_others_from_their_first_change(tmp_path: Path) -> None:
    one = run(tmp_path / "one", plan())
    same = run(tmp_path / "same", plan("data=elsewhere"))
    other = run(tmp_path / "other", plan("seed=9"))
    compared = compare([one, same, other])
    assert [r.differs_from for r in compared.results] == [None, None, 0]
    assert [r.common_rounds for r in compared.results] == [3, 3, 3]
    assert compared.differences == {
        "seed": [1, 1, 9],
        "data": ["phantom", "elsewhere", "phantom"],
    }
    result = compared.results[0]
    assert (result.run, result.rounds, result.planned, result.strategy) == ("one", 2, 2, "fedavg")
    assert result.test == pytest.approx(0.3)
    assert result.validation is None
    assert result.of_sites == {s: pytest.approx(0.1 * n) for n, s in enumerate("ABCD", start=1)}
    assert result.wall_s is not None


def test_a_change_after_the_start_is_found(tmp_path: Path) -> None:
    one = run(tmp_path / "one", plan())
    fewer = run(tmp_path / "fewer", plan("federation.sites=['A', 'B']"))
    assert compare([one, fewer]).results[1].differs_from == 1


def test_other_lines_rosters_and_lengths_stand_side_by_side(tmp_path: Path) -> None:
    one = run(tmp_path / "a" / "run", plan())
    changes = ("federation.sites=['C', 'B']", "model.line='MR/hippocampus/-/other'")
    other = run(tmp_path / "b" / "run", plan("rounds=1", *changes))
    (other / "timings.jsonl").unlink()
    compared = compare([one, other])
    rows = {row[""]: list(row.values())[1:] for row in compared.result_table()}
    assert [str(folder) for folder in (one, other)] == list(compared.result_table()[0])[1:]
    assert rows["line"] == ["MR/brain/-/phantom-unet", "MR/hippocampus/-/other"]
    assert rows["rounds"] == ["2 of 2", "1 of 1"]
    assert rows["test Dice, A"] == [pytest.approx(0.1), None]
    assert rows["test Dice, C"] == [pytest.approx(0.3), pytest.approx(0.3)]
    assert rows["wall time"][1] is None
    assert compared.results[1].common_rounds == 2


def test_runs_without_a_common_round_are_not_called_the_same(tmp_path: Path) -> None:
    one = run(tmp_path / "one", plan())
    late = run(tmp_path / "late", plan())
    versions = late / "versions.jsonl"
    versions.write_text(
        "".join(
            json.dumps(json.loads(line) | {"round": 7}) + "\n"
            for line in versions.read_text(encoding="utf-8").splitlines()
        ),
        encoding="utf-8",
    )
    rows = {row[""]: row for row in compare([one, late]).result_table()}
    assert rows["weights"]["late"] == "no common round"


def test_the_command_prints_a_table_and_json(tmp_path: Path) -> None:
    one = run(tmp_path / "one", plan())
    other = run(tmp_path / "other [red]", plan("training.optimizer.lr=1e-5"))
    words = ["compare", str(one), str(other)]
    said = CliRunner().invoke(build(), words).stdout
    assert "other [red]" in said
    assert "the same in all 3" in said
    assert "1e-05" in said
    assert max(map(len, said.splitlines())) <= 100
    assert "\x1b" not in said
    told = json.loads(CliRunner().invoke(build(), [*words, "--json"]).stdout)
    assert [result["differs_from"] for result in told["results"]] == [None, None]
    assert told["differences"] == {"training.optimizer.lr": [0.005, 1e-05]}


def test_what_cannot_be_compared_is_said_in_a_sentence(tmp_path: Path) -> None:
    one = run(tmp_path / "runs" / "one", plan("rounds=1"))
    with pytest.raises(ConfigError, match=r"nowhere holds no run with a finished round$"):
        compare([one, tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match=r"runs holds no run .*there are runs in its folders one"):
        compare([one, tmp_path / "runs"])
    for few in ([one], [one, tmp_path / "runs" / ".." / "runs" / "one"]):
        with pytest.raises(ConfigError, match="two runs or more, each given once"):
            compare(few)
