"""A whole federation from the command line, and what is left of it when things go wrong."""

import csv
import fcntl
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from federation.config import read_experiment
from tests.peers import shared_data

ROOT = Path(__file__).parents[1]
IODEEP = str(Path(sys.executable).parent / "iodeep")
LINE = "MR/brain/-/phantom-unet"
SMALL = ["rounds=2", 'federation.sites=["A","B"]', "federation.quorum=2", "training.steps=15"]
PNG = b"\x89PNG\r\n\x1a\n"


def iodeep(*arguments: str, timeout_s: float = 280) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [IODEEP, *arguments], capture_output=True, text=True, check=False, timeout=timeout_s
    )


def phantom(out: Path, *overrides: str) -> Sequence[str]:
    return ["run", str(ROOT / "configs" / "phantom.toml"), *overrides, "--out", str(out), "--json"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two sites and two rounds."""
    out = tmp_path_factory.mktemp("run") / "out"
    done = iodeep(*phantom(out, *SMALL))
    assert done.returncode == 0, done.stderr
    (out.parent / "stdout.json").write_text(done.stdout)
    return out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_result_on_stdout_is_json_alone(run: Path) -> None:
    result = json.loads((run.parent / "stdout.json").read_text())
    assert result["round"] == 2
    assert result["line"] == LINE
    assert (run / "picture.png").read_bytes().startswith(PNG)


def test_every_round_lies_in_every_archive_with_the_same_digest(run: Path) -> None:
    histories = {}
    for name in ("aggregator", "A", "B"):
        asked = iodeep("model", "history", LINE, f"folder:{run}/archives/{name}", "--json")
        assert asked.returncode == 0, asked.stderr
        histories[name] = json.loads(asked.stdout)
    told = lines(run / "versions.jsonl")
    for history in histories.values():
        assert [
            (row["round"], row["version"], row["weights_digest"], row["parent"]) for row in history
        ] == [(v["round"], v["version"], v["weights_digest"], v["parent"]) for v in told]
        assert [row["parent"] for row in history] == [None, *(r["version"] for r in history[:-1])]
        assert all(0 <= row["test_dice_mean"] <= 1 for row in history)
    assert len({row["weights_digest"] for row in histories["A"]}) == 3


def test_metrics_have_a_line_for_each_round_and_site_and_one_over_all(run: Path) -> None:
    found = lines(run / "metrics.jsonl")
    assert [(line["round"], line["site"]) for line in found] == [
        (round, site) for round in range(3) for site in ("A", "B", None)
    ]
    told = {v["round"]: v for v in lines(run / "versions.jsonl")}
    for line in found:
        assert line["version"] == told[line["round"]]["version"]
        assert line["weights_digest"] == told[line["round"]]["weights_digest"]
        for key in ("validation_dice_mean", "test_dice_mean", "test_dice_1", "test_dice_2",
                    "validation_dice_1", "validation_dice_2"):  # fmt: skip
            assert key in line
    last = {line["site"]: line for line in found[-3:]}
    cases = [last[site]["test_cases"] for site in ("A", "B")]
    mean = sum(last[s]["test_dice_mean"] * n for s, n in zip("AB", cases, strict=True)) / sum(cases)
    assert last[None]["test_dice_mean"] == pytest.approx(mean)
    with (run / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(found)


def test_the_resolved_configuration_runs_again_to_the_same_digest(run: Path) -> None:
    experiment = read_experiment(run / "config.toml")
    assert experiment.digest == json.loads((run / "run.json").read_text())["config_digest"]
    assert experiment.rounds == 2


def test_training_learns(run: Path) -> None:
    means = [ln["test_dice_mean"] for ln in lines(run / "metrics.jsonl") if ln["site"] is None]
    assert means[-1] > means[0] + 0.2


def test_listing_showing_and_verifying(run: Path) -> None:
    archive = f"folder:{run}/archives/B"
    (branch,) = json.loads(iodeep("model", "list", archive, "--json").stdout)
    assert (branch["versions"], branch["latest_round"]) == (3, 2)
    shown = json.loads(iodeep("model", "show", LINE, archive, "--json").stdout)
    assert shown["manifest"]["architecture"]["network"] == "monai.UNet"
    verified = iodeep("model", "verify", LINE, archive, "--json")
    assert verified.returncode == 0
    assert all(row["ok"] for row in json.loads(verified.stdout))
    for command in ("list", "show", "history", "verify"):
        words = ["model", command, *([] if command == "list" else [LINE]), archive]
        assert iodeep(*words).stdout.strip()


def test_verify_fails_and_names_the_version_on_one_changed_byte(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "archive"
    shutil.copytree(run / "archives" / "A", copy)
    (version,) = [v for v in lines(run / "versions.jsonl") if v["round"] == 1]
    files = list(copy.glob("instances/*/*.dcm"))
    (part,) = [p for p in files if version["digest"].encode() in p.read_bytes()
               and b'"kind":"VERSION"' not in p.read_bytes()
               and b'"kind":"EVALUATION"' not in p.read_bytes()
               and f'"digest":"{version["digest"]}"'.encode() not in p.read_bytes()]  # fmt: skip
    content = bytearray(part.read_bytes())
    content[-100] ^= 1
    part.write_bytes(content)
    verified = iodeep("model", "verify", LINE, f"folder:{copy}")
    assert verified.returncode == 1
    assert version["version"] in verified.stderr
    assert "Traceback" not in verified.stderr


def test_no_patient_is_in_what_leaves_or_stays_for_all_to_see(run: Path) -> None:
    """Neither the run's own files nor the aggregator's archive hold a patient of a site."""
    patients = read_test_patients(run)
    assert patients
    shared = [path for path in run.iterdir() if path.is_file()]
    shared += [path for path in (run / "archives" / "aggregator").rglob("*") if path.is_file()]
    for path in shared:
        content = path.read_bytes()
        assert not [patient for patient in patients if patient.encode() in content], path


def read_test_patients(run: Path) -> list[str]:
    import tomllib

    document = tomllib.loads((run / "sites" / "A" / "site.toml").read_text())
    patients: list[str] = document["data"]["brain"]["split"]["test"]
    return patients


def test_a_folder_in_use_is_not_written_over(run: Path) -> None:
    again = iodeep(*phantom(run, *SMALL))
    assert again.returncode == 1
    assert "not empty" in again.stderr


# --- what goes wrong ----------------------------------------------------------------------


def only_sentence(done: "subprocess.CompletedProcess[str]") -> str:
    """The last line on stderr, of a command that failed without a traceback."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_missing_data_folder_is_one_sentence(tmp_path: Path) -> None:
    done = iodeep(*phantom(tmp_path / "out", f"data={tmp_path / 'nowhere'}"))
    assert "nowhere" in only_sentence(done)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_a_damaged_manifest_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("site,split\nA,train\n")
    done = iodeep(*phantom(tmp_path / "out", f"data={tmp_path}"))
    assert "manifest.csv" in only_sentence(done)


def test_a_wrong_key_is_one_sentence(tmp_path: Path) -> None:
    done = iodeep(*phantom(tmp_path / "out", "training.epocs=1"))
    assert "did you mean 'epochs'" in only_sentence(done)


def test_wrong_usage_ends_with_2() -> None:
    assert iodeep("run").returncode == 2
    assert iodeep("nonsense").returncode == 2


def test_ctrl_c_in_mid_round_leaves_finished_rounds_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [IODEEP, *phantom(out, *SMALL, "rounds=50")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not metrics.exists() or '"round": 1, "site": null' not in metrics.read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "iodeep model history" in said
    finished = {line["weights_digest"] for line in lines(metrics) if line["site"] is None}
    for name in ("aggregator", "A", "B"):
        archive = f"folder:{out}/archives/{name}"
        assert iodeep("model", "verify", LINE, archive).returncode == 0
        rows = json.loads(iodeep("model", "history", LINE, archive, "--json").stdout)
        assert finished <= {row["weights_digest"] for row in rows}


@pytest.mark.parametrize(
    "kills", [1, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])]
)
def test_killed_and_resumed_it_ends_as_if_undisturbed(
    run: Path, tmp_path: Path, kills: int
) -> None:
    """At random moments, sites in one process or in parallel by turns."""
    expected = [(v["round"], v["weights_digest"]) for v in lines(run / "versions.jsonl")]
    moments = random.Random(kills)
    for kill in range(kills):
        out = tmp_path / str(kill)
        carried = f"simulation.workers={1 + kill % 2}"
        process = subprocess.Popen(
            [IODEEP, *phantom(out, *SMALL, carried)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started = out / "archives" / "aggregator"
        while not started.exists():
            time.sleep(0.01)
        time.sleep(moments.uniform(10, 30) if kills == 1 else moments.uniform(0, 40))
        process.kill()
        process.wait()
        resumed = iodeep(*phantom(out, *SMALL), "--resume")
        assert resumed.returncode == 0, resumed.stderr
        told = [(v["round"], v["weights_digest"]) for v in lines(out / "versions.jsonl")]
        assert told == expected, f"killed in run {kill}"
        assert lines(out / "metrics.jsonl")[-1].keys() == lines(run / "metrics.jsonl")[-1].keys()
        for name in ("aggregator", "A", "B"):
            archive = f"folder:{out}/archives/{name}"
            assert iodeep("model", "verify", LINE, archive).returncode == 0
            rows = json.loads(iodeep("model", "history", LINE, archive, "--json").stdout)
            assert [(row["round"], row["weights_digest"]) for row in rows] == expected
        shutil.rmtree(out)


def test_yardsticks_make_the_same_steps_with_pooled_data_and_alone(tmp_path: Path) -> None:
    few = [*SMALL, "rounds=1", "training.steps=3"]
    pooled = iodeep(*phantom(tmp_path / "c", *few, "strategy.name=centralised"))
    assert pooled.returncode == 0, pooled.stderr
    alone = iodeep(*phantom(tmp_path / "l", *few, "strategy.name=local"))
    assert alone.returncode == 0, alone.stderr
    own = {
        site: lines(tmp_path / "l" / site / "metrics.jsonl")[-1]
        for site in json.loads(alone.stdout)
    }
    of_all = lines(tmp_path / "c" / "metrics.jsonl")[-1]
    for part in ("validation_cases", "test_cases"):
        assert of_all[part] == sum(line[part] for line in own.values())
    first = {lines(tmp_path / "l" / s / "versions.jsonl")[0]["weights_digest"] for s in own}
    assert first == {lines(tmp_path / "c" / "versions.jsonl")[0]["weights_digest"]}
    last = {lines(tmp_path / "l" / s / "versions.jsonl")[-1]["weights_digest"] for s in own}
    assert len(last) == 2


def test_nothing_to_resume_is_one_sentence(tmp_path: Path) -> None:
    done = iodeep(*phantom(tmp_path / "out", *SMALL), "--resume")
    assert "no run to resume" in only_sentence(done)


def test_two_runs_in_one_folder_are_refused(run: Path) -> None:
    with (run / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = iodeep(*phantom(run, *SMALL), "--resume")
    assert "another run is working" in only_sentence(done)


def test_a_site_whose_archive_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """One hospital of three has no disk left: it is named, the others finish."""
    from server.report.summary import RunMetrics
    from server.simulation import Simulation

    plan = read_experiment(
        ROOT / "configs" / "phantom.toml",
        ["rounds=1", 'federation.sites=["A","B","C"]', "federation.quorum=2", "training.steps=5"],
    )
    simulation = Simulation(plan, tmp_path / "out")
    with simulation:
        list(simulation.import_images())
        full = simulation.out / "archives" / "B" / "incoming"
        full.rmdir()
        full.write_text("no folder")
        simulation.run("test-full")
    metrics = RunMetrics.read(tmp_path / "out")
    last = {line["site"]: line for line in metrics.lines if line["round"] == 1}
    assert "(archive)" in last["B"]["problem"]
    assert last["B"]["test_dice_mean"] is None
    assert last["A"]["test_dice_mean"] is not None
    log = (tmp_path / "out" / "sites" / "B" / "work" / "client.log").read_text()
    assert "0xA700" in log


# --- real images --------------------------------------------------------------------------


def test_a_federation_on_real_mr(tmp_path: Path) -> None:
    """Four cases a site out of the real ones, one of them with a file that is wrong."""
    data = shared_data("hippocampus")
    bad = shared_data("hippocampus-bad")
    small = tmp_path / "data"
    for name in ("images", "labels", "bad"):
        (small / name).mkdir(parents=True)
    with (data / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [
        row
        for site in ("A", "B")
        for split, count in (("train", 6), ("test", 2))
        for row in [r for r in rows if (r["site"], r["split"]) == (site, split)][:count]
    ]
    for row in chosen:
        for kind in ("image", "label"):
            shutil.copy(data / row[kind], small / row[kind])
    wrong = next(iter(sorted((bad / "labels").iterdir())))
    shutil.copy(wrong, small / "bad" / wrong.name)
    chosen[0] = {**chosen[0], "label": f"bad/{wrong.name}"}
    with (small / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(chosen)
    out = tmp_path / "out"
    done = iodeep(
        "run", str(ROOT / "configs" / "hippocampus.toml"), f"data={small}", "rounds=1",
        'federation.sites=["A","B"]', "federation.quorum=2", "training.steps=5",
        "--out", str(out), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert chosen[0]["case"] in done.stderr
    (left_out,) = lines(out / "sites" / "A" / "not-imported.jsonl")
    assert left_out["case"] == chosen[0]["case"]
    last = [line for line in lines(out / "metrics.jsonl") if line["site"] is None][-1]
    assert last["test_cases"] == 4
