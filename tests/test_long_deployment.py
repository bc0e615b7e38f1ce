"""The long tests of a federation among hospitals: real MR, newcomers, kills, revoked sites."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from federation.config import read_experiment
from federation.iodeep.labels import Line
from federation.pacs import open_gateway
from federation.registry import Registry
from server.report.summary import read_lines
from tests.peers import shared_data
from tests.peers.deployment import (
    AGGREGATOR,
    PORT,
    Federation,
    Hospital,
    deployed,
    orthanc_at,
)
from tests.peers.deployment import embedded_archive as embedded
from tests.test_deployment import fill

pytestmark = pytest.mark.soak

CONFIGS = Path(__file__).parents[1] / "configs"
ROUNDS = 5


def simulate(config: Path, out: Path, *overrides: str) -> Path:
    code = "from federation.cli import main; main()"
    words = ["run", config, *overrides, "--out", out]
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True)
    return out


def take_part(
    federation: Federation, name: str, archive: str, simulated: Path | None = None
) -> Hospital:
    """A hospital from its invitation to its approval; its data and split as of a simulated one."""
    hospital, fingerprint = federation.initialise(name, archive)

    def change(document: dict[str, Any]) -> None:
        document["policy"]["rounds"]["approval"] = False
        document["policy"]["min_studies"] = 2
        if simulated is not None:
            site = tomllib.loads((simulated / "sites" / name / "site.toml").read_text())
            document["data"] = site["data"]
        else:
            labels = document["data"][next(iter(document["data"]))]["labels"]
            labels["map"] = {"inner structure": 1, "outer structure": 2}

    hospital.change(change)
    if simulated is not None:
        shutil.copy(simulated / "sites" / name / "split.key", hospital.folder / "split.key")
    federation.approve(hospital, fingerprint)
    return hospital


def weights(folder: Path) -> list[str]:
    return [line["weights_digest"] for line in read_lines(folder / "versions.jsonl")]


def test_hippocampus_trains_to_the_weights_of_the_simulation(tmp_path: Path) -> None:
    """Three machines, TLS, node keys, nginx; Orthanc at one hospital, our archive at the other."""
    data = shared_data("hippocampus")
    config = CONFIGS / "hippocampus.toml"
    settings = (
        f"rounds={ROUNDS}", f"data={data}", 'federation.sites=["A","B"]', "federation.quorum=2",
    )  # fmt: skip
    simulated = simulate(config, tmp_path / "simulated", *settings)
    with (
        deployed(tmp_path, "A", "B", line="MR/hippocampus/*") as federation,
        orthanc_at(tmp_path / "orthanc", federation.machines["A"]) as orthanc,
        embedded(tmp_path / "pacs") as pacs,
    ):
        for name, archive in (("A", orthanc), ("B", pacs)):
            federation.type(name, "import", "msd", data, archive, "--site", name)
            take_part(federation, name, archive, simulated)
            federation.join(federation.hospitals[name]).wait_for(f"connected as {name}")
        result = federation.run(config, *settings)
        found = weights(federation.home / "runs" / result["branch"])
        assert len(found) == ROUNDS + 1
        assert found == weights(simulated)
        for name, hospital in federation.hospitals.items():
            federation.type(name, "site", "audit", hospital.document)
        if federation.machines.are_apart:
            assert federation.machines.outsiders() == set()


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """An aggregator, and hospitals A and B with phantoms, joined; C's machine is there."""
    with deployed(tmp_path, "A", "B", "C", line="MR/brain/*") as made:
        for name in ("A", "B"):
            archive = made.stack.enter_context(embedded(tmp_path / f"pacs-{name}"))
            hospital = take_part(made, name, archive)
            fill(made, hospital)
            made.join(hospital).wait_for(f"connected as {name}")
        yield made


SETTINGS = ("training.steps=6", "federation.quorum=2", "federation.deadline_s=300")


def begin(federation: Federation, rounds: int, *sites: str) -> str:
    """Begin a run of phantoms and do not follow it; its branch."""
    said = federation.type(
        AGGREGATOR, "run", CONFIGS / "phantom.toml", f"rounds={rounds}", *SETTINGS,
        f"federation.sites={json.dumps(sites)}", "federation.mode=deployment",
        "--aggregator", federation.home, "--detach", "--json",
    ).stdout  # fmt: skip
    branch: str = json.loads(said)["run"]
    return branch


def versions(federation: Federation, branch: str) -> list[dict[str, Any]]:
    path = federation.home / "runs" / branch / "versions.jsonl"
    return read_lines(path) if path.exists() else []


def wait_for_round(federation: Federation, branch: str, round: int) -> dict[str, Any]:
    until = time.monotonic() + 600
    while time.monotonic() < until:
        for line in versions(federation, branch):
            if line["round"] == round:
                return line
        time.sleep(0.5)
    raise AssertionError(versions(federation, branch))


def test_a_hospital_joins_a_running_federation_with_two_commands(
    federation: Federation, tmp_path: Path
) -> None:
    with embedded(tmp_path / "pacs-C") as archive:
        hospital = take_part(federation, "C", archive)  # `site init`
        fill(federation, hospital)
        branch = begin(federation, 8, "A", "B", "C")
        wait_for_round(federation, branch, 1)
        federation.join(hospital).wait_for("connected as C")  # `site join`
        at = max(line["round"] for line in versions(federation, branch))
        wait_for_round(federation, branch, at + 2)
        sites = {line["round"]: line["sites"] for line in versions(federation, branch)}
        assert "C" not in sites[1]
        assert set(sites[at + 2]) == {"A", "B", "C"}
        federation.type(AGGREGATOR, "server", "stop", federation.home, branch)


def test_a_site_that_is_revoked_is_out_at_once(federation: Federation) -> None:
    federation.type(AGGREGATOR, "server", "revoke", federation.home, "B", "--reason", "a test")
    joined = federation.hospitals["B"].joined
    assert joined is not None
    joined.wait_for("does not let this site in", within_s=180)
    said = federation.run(
        CONFIGS / "phantom.toml", "rounds=1", *SETTINGS, 'federation.sites=["A","B"]', code=1
    )
    assert "B, who are not approved here" in said["error"]


def test_a_copied_key_works_at_one_place_at_a_time(federation: Federation) -> None:
    hospital = federation.hospitals["A"]
    copied = hospital.folder.parent / "copied"
    shutil.copytree(hospital.folder, copied, ignore=shutil.ignore_patterns("work"))
    second = federation.background("C", "copied.log", "site", "join", copied / "site.toml")
    second.wait_for("another process is connected with the same key")
    second.stop()


def test_a_supernode_that_is_killed_is_back_and_the_run_goes_on(federation: Federation) -> None:
    branch = begin(federation, 4, "A", "B")
    wait_for_round(federation, branch, 1)
    joined = federation.hospitals["B"].joined
    assert joined is not None
    for child in psutil.Process(joined.process.pid).children(recursive=True):
        if "clients.joining.supernode" in " ".join(child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)
            break
    else:
        raise AssertionError("no SuperNode runs")
    done = federation.type(
        AGGREGATOR, "run", "--attach", branch, "--aggregator", federation.home, "--json", code=None
    )
    if done.returncode != 0:  # the round it was killed in lacked the quorum
        assert "sites trained" in done.stderr or "sites evaluated" in done.stderr
        resume(federation, branch, 4)
    assert versions(federation, branch)[-1]["round"] == 4


def test_an_aggregator_that_is_killed_goes_on_with_the_run(federation: Federation) -> None:
    branch = begin(federation, 3, "A", "B")
    wait_for_round(federation, branch, 1)
    assert federation.served is not None
    federation.served.stop(signal.SIGKILL)
    time.sleep(3)
    federation.serve()
    until = time.monotonic() + 180
    while state(federation, branch) not in ("completed", "failed", "stopped"):
        assert time.monotonic() < until
        time.sleep(2)
    resume(federation, branch, 3)
    found = versions(federation, branch)
    assert [line["round"] for line in found] == [0, 1, 2, 3]
    said = federation.type(
        AGGREGATOR, "model", "verify", read_experiment(CONFIGS / "phantom.toml").line,
        f"folder:{federation.home / 'archive'}", "--branch", branch, "--json",
    ).stdout  # fmt: skip
    assert not any(row["problem"] for row in json.loads(said))


def test_a_run_that_is_ended_while_sites_train_holds_up_no_later_one(
    federation: Federation,
) -> None:
    for _ in range(3):
        joined = federation.hospitals["B"].joined
        assert joined is not None
        asked = joined.said.count("asked to train")
        branch = begin(federation, 4, "A", "B")
        until = time.monotonic() + 180
        while joined.said.count("asked to train") == asked:
            assert time.monotonic() < until
            time.sleep(0.1)
        federation.type(AGGREGATOR, "server", "stop", federation.home, branch)
    result = federation.run(
        CONFIGS / "phantom.toml", "rounds=2", *SETTINGS, 'federation.sites=["A","B"]'
    )
    assert set(versions(federation, result["branch"])[-1]["sites"]) == {"A", "B"}


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("garbage", "cannot be read"),
        ("other", "cannot be read"),
        ("stall", "no whole answer came"),
        ("forge", "no whole answer came"),
    ],
)
def test_a_site_that_answers_what_it_should_not_is_left_out_and_the_run_goes_on(
    federation: Federation, tmp_path: Path, how: str, problem: str
) -> None:
    hospital = take_part(federation, "C", f"folder:{tmp_path / 'none'}")
    key, ca = hospital.folder / "keys" / "node.key", hospital.folder / "certs" / "ca.crt"
    log = tmp_path / "rogue.log"
    with log.open("wb") as file:
        rogue = subprocess.Popen(
            [*federation.machines["C"].enter, sys.executable, "-m", "tests.peers.rogue",
             f"{federation.address}:{PORT}", ca, key, how, node_of(federation, "B")],
            cwd=CONFIGS.parent, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while "connected" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        begun = time.monotonic()
        result = federation.run(
            CONFIGS / "phantom.toml", "rounds=1", "training.steps=6", "federation.quorum=2",
            "federation.deadline_s=60", 'federation.sites=["A","B","C"]',
        )  # fmt: skip
        assert time.monotonic() - begun < 4 * 60  # three deadlines, and the work
    finally:
        rogue.terminate()
        rogue.wait(30)
    assert set(versions(federation, result["branch"])[-1]["sites"]) == {"A", "B"}
    with open_gateway(f"folder:{federation.home / 'archive'}") as gateway:
        (evaluation,) = (
            one
            for one in Registry(gateway).evaluations(Line.parse(result["line"]), result["branch"])
            if one.by == "aggregator" and one.round == result["round"]
        )
    assert problem in evaluation.missing["C"]
    if how == "forge":
        assert f"{how}: 403" in log.read_text()


def node_of(federation: Federation, name: str) -> str:
    """The number that Flower gave a site's node, as its SuperNode says."""
    text = (federation.hospitals[name].folder / "work" / "supernode.log").read_text()
    return re.findall(r"SuperNode ID: (\d+)", text)[-1]


def state(federation: Federation, branch: str) -> str:
    done = federation.type(AGGREGATOR, "server", "status", federation.home, "--json", code=None)
    if done.returncode != 0:
        return "unknown"
    found: str = next(
        run["state"] for run in json.loads(done.stdout)["runs"] if run["run"] == branch
    )
    return found


def resume(federation: Federation, branch: str, rounds: int) -> None:
    federation.type(
        AGGREGATOR, "run", CONFIGS / "phantom.toml", f"rounds={rounds}", *SETTINGS,
        'federation.sites=["A","B"]', "federation.mode=deployment",
        "--aggregator", federation.home, "--resume", "--out", federation.home / "runs" / branch,
    )  # fmt: skip
