"""A federation among hospitals beside a plain Flower app: time of a round, bytes over the network.

Both on the same machines, real SuperLinks and SuperNodes, TLS and node keys; ours behind nginx,
with an archive at each place. The plain app sends weights down twice a round, and finds its cases
in a file.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import tomli_w
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from rich.console import Console

from benchmarks.measure import Times
from benchmarks.ours import experiment_of
from benchmarks.plain import EXPERIMENT, OUTCOME, write_cases
from benchmarks.sides import prepare, read_cases
from benchmarks.table import Row
from federation.config import Experiment
from federation.flower.bundle import digest_of
from server.cli import configs
from server.report.summary import read_lines
from tests.peers.deployment import AGGREGATOR, Federation, deployed

_PROJECT = Path(__file__).parents[1]
_BIN = Path(sys.executable).parent
_SITES = ("A", "B")
_PORT = 9443
_SETTINGS = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Seconds of each round; bytes that Flower counted, down and up; the last test Dice."""

    rounds: list[float]
    bytes: int
    dice: float


def rows(data: str, rounds: int = 5) -> Iterator[Row]:
    """Time of a round, and bytes over the network, of ours over plain Flower's."""
    sites = f"federation.sites={json.dumps(_SITES)}"
    experiment = experiment_of(data, rounds, sites, f"federation.quorum={len(_SITES)}")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = folder / "prepared"
        prepare(prepared, experiment)
        with deployed(folder, *_SITES, line=str(experiment.line)) as federation:
            for site in _SITES:
                _join(federation, site, prepared)
            ours = _ours(federation, data, experiment)
            for hospital in federation.hospitals.values():
                assert hospital.joined is not None
                hospital.joined.stop()
            assert federation.served is not None
            federation.served.stop()
            console.print(f"  ours: {[round(s) for s in ours.rounds]} s")
            plain = _plain(federation, prepared, experiment)
            console.print(f"  plain: {[round(s) for s in plain.rounds]} s")
    if abs(ours.dice - plain.dice) > 0.03:
        raise RuntimeError(f"not the same work: Dice {ours.dice} and {plain.dice}")
    ratio = Times(seconds=ours.rounds).over(Times(seconds=plain.rounds))
    yield Row(
        what="a round among hospitals / of a plain Flower app",
        value=median(ours.rounds) / median(plain.rounds),
        bound=1.05,
        shown=f"{ratio.ours} / {ratio.theirs}, {rounds} rounds of {len(_SITES)} sites",
    )
    yield Row(
        what=f"bytes over the network in {rounds} rounds / of a plain Flower app",
        value=ours.bytes / plain.bytes,
        bound=0.75,
        shown=f"{ours.bytes / 1e6:.1f} MB / {plain.bytes / 1e6:.1f} MB, as Flower counts them",
    )


def _join(federation: Federation, site: str, prepared: Path) -> None:
    """A hospital with the prepared archive, split and cache of a site."""
    hospital, fingerprint = federation.initialise(
        site, f"folder:{federation.home.parent / f'pacs-{site}'}"
    )
    shutil.copytree(prepared / "archives" / site, federation.home.parent / f"pacs-{site}")
    there = prepared / "sites" / site
    shutil.copytree(there / "work", hospital.folder / "work")
    shutil.copy(there / "split.key", hospital.folder / "split.key")

    def change(document: dict[str, Any]) -> None:
        document["data"] = tomllib.loads((there / "site.toml").read_text())["data"]
        document["policy"]["rounds"]["approval"] = False

    hospital.change(change)
    federation.approve(hospital, fingerprint)
    federation.join(hospital).wait_for(f"connected as {site}")


def _ours(federation: Federation, data: str, experiment: Experiment) -> Run:
    config = configs() / ("phantom.toml" if data == "phantom" else "hippocampus.toml")
    result = federation.run(
        config, f"rounds={experiment.rounds}", "training.threads=1",
        f"federation.sites={json.dumps(_SITES)}", f"federation.quorum={len(_SITES)}",
    )  # fmt: skip
    timings = read_lines(federation.home / "runs" / result["branch"] / "timings.jsonl")
    walls = [one["seconds"]["wall"] for one in timings if one["work"] == "round" and one["round"]]
    said = federation.type(AGGREGATOR, "server", "status", federation.home, "--json").stdout
    (run,) = (one for one in json.loads(said)["runs"] if one["run"] == result["branch"])
    moved = run["bytes_to_sites"] + run["bytes_from_sites"]
    return Run(rounds=walls, bytes=moved, dice=result["test_dice_mean"])


# --- plain Flower ---------------------------------------------------------------------------


def _plain(federation: Federation, prepared: Path, experiment: Experiment) -> Run:
    folder = federation.home.parent / "plain"
    folder.mkdir()
    (folder / "experiment.json").write_text(experiment.model_dump_json())
    env = {
        **os.environ, **_SETTINGS, "FLWR_HOME": str(folder / "flower"),
        "PYTHONPATH": str(_PROJECT), EXPERIMENT: str(folder / "experiment.json"),
        OUTCOME: str(folder / "outcome.json"),
        "PATH": f"{_BIN}:{os.environ['PATH']}",
    }  # fmt: skip
    tls = federation.home / "tls"
    machine = federation.machines[AGGREGATOR]
    with ExitStack() as stack:
        _start(stack, [
            *machine.enter, str(_BIN / "flower-superlink"),
            "--ssl-ca-certfile", str(tls / "ca.crt"), "--ssl-certfile", str(tls / "server.crt"),
            "--ssl-keyfile", str(tls / "server.key"), "--enable-supernode-auth",
            "--disable-runtime-dependency-installation", "--database", str(folder / "state.db"),
            "--host", machine.address, "--port", str(_PORT),
        ], folder / "superlink.log", env)  # fmt: skip
        _wait_for(folder / "superlink.log", "Application startup complete")
        for site in _SITES:
            _register(federation, site, env)
            key = federation.hospitals[site].folder / "keys" / "node.key"
            data = read_cases(prepared, experiment, site)
            cases = folder / f"{site}.pt"
            parts = {"train": data.train, "validation": data.validation, "test": data.test}
            write_cases(cases, {part: list(found) for part, found in parts.items()})
            _start(stack, [
                *federation.machines[site].enter, str(_BIN / "flower-supernode"),
                "--superlink", f"{machine.address}:{_PORT}",
                "--root-certificates", str(tls / "ca.crt"),
                "--auth-supernode-private-key", str(key),
                "--node-config", f'site="{site}" cases="{cases}"',
            ], folder / f"{site}.log", env)  # fmt: skip
            _wait_for(folder / f"{site}.log", "SuperNode ID")
        moved = json.loads(_on(federation, "run", env))
    outcome = json.loads((folder / "outcome.json").read_text())
    ended = outcome["ended"]
    walls = [after - before for before, after in pairwise(ended)]
    return Run(rounds=walls, bytes=moved, dice=outcome["dice"])


def _start(stack: ExitStack, command: list[str], log: Path, env: dict[str, str]) -> None:
    with log.open("ab") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=file)
    stack.callback(process.wait, 60)
    stack.callback(process.terminate)


def _wait_for(log: Path, text: str) -> None:
    until = time.monotonic() + 90
    while text not in log.read_text(errors="replace"):
        if time.monotonic() > until:
            raise RuntimeError(log.read_text(errors="replace")[-2000:])
        time.sleep(0.1)


def _register(federation: Federation, site: str, env: dict[str, str]) -> None:
    _on(federation, "register", env, site)


def _on(federation: Federation, work: str, env: dict[str, str], *words: str) -> str:
    """Do something at the plain SuperLink's control, on the aggregator's machine."""
    machine = federation.machines[AGGREGATOR]
    command = [sys.executable, "-m", __name__, work, str(federation.home), machine.address, *words]
    done = subprocess.run(
        [*machine.enter, *command], env=env, cwd=_PROJECT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def main(work: str, home: str, address: str, *words: str) -> None:
    """``register SITE``, or ``run``: start the app, wait for its end, print bytes moved."""
    client = ControlHttpClient.from_server_address(
        server_address=f"{address}:{_PORT}",
        insecure=False,
        root_certificates=(Path(home) / "tls" / "ca.crt").read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="benchmark")],
    )
    if work == "register":
        from cryptography.hazmat.primitives.serialization import load_ssh_public_key
        from flwr.proto.control_pb2 import RegisterNodeRequest
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        text = (Path(home).parent / words[0] / "keys" / "node.key.pub").read_bytes()
        key: Any = load_ssh_public_key(text)
        client.RegisterNode(RegisterNodeRequest(public_key=public_key_to_bytes(key), name=words[0]))
        return
    project = {
        "project": {"name": "plain", "version": "1.0.0", "license": "Apache-2.0"},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "benchmarks",
                    "components": {
                        "serverapp": "benchmarks.plain:server_app",
                        "clientapp": "benchmarks.plain:client_app",
                    },
                }
            }
        },
    }
    files = {"pyproject.toml": tomli_w.dumps(project).encode(), "LICENSE": b"Apache-2.0"}
    content = build_fab_from_files(files)[0]
    started = client.StartRun(
        StartRunRequest(fab=fab_to_proto(Fab(digest_of(content), content, {})))
    )
    while True:
        (run,) = client.ListRuns(ListRunsRequest(run_id=started.run_id)).run_dict.values()
        if run.status.status == "finished":
            break
        time.sleep(1)
    if run.status.sub_status != "completed":
        raise RuntimeError(run.status.details)
    print(run.bytes_sent + run.bytes_recv)


if __name__ == "__main__":
    main(*sys.argv[1:])
