"""Hospitals and an aggregator on machines of their own: SuperLink, SuperNodes, nginx, Orthanc.

One federation is set up, trains, and is then looked at and attacked from all sides.
"""

import json
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.config import read_experiment
from federation.iodeep.labels import Line
from federation.pacs import open_gateway
from federation.registry import Registry
from federation.samples.importer import write_case
from federation.samples.phantom import phantom_cases
from server.report.summary import read_lines
from server.simulation import PHANTOM_CASES, PHANTOM_TEST_CASES
from tests.peers.deployment import (
    AGGREGATOR,
    PORT,
    Federation,
    Hospital,
    deployed,
    embedded_archive,
    orthanc_at,
)

pytestmark = pytest.mark.timeout(900)  # the first test waits for the federation to train

CONFIG = Path(__file__).parents[1] / "configs" / "phantom.toml"
SETTINGS = (
    "rounds=2", 'federation.sites=["A","B"]', "federation.quorum=2", "training.steps=6",
)  # fmt: skip


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a simulation of the same experiment."""
    folder = tmp_path_factory.mktemp("simulated") / "run"
    code = "from federation.cli import main; main()"
    words = ["run", CONFIG, *SETTINGS, "--out", folder]
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def federation(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """An aggregator, hospital A with Orthanc and B with an embedded archive, both joined."""
    folder = tmp_path_factory.mktemp("deployed")
    with deployed(folder, "A", "B", "stranger") as made:
        orthanc = made.stack.enter_context(orthanc_at(folder / "orthanc", made.machines["A"]))
        embedded = made.stack.enter_context(embedded_archive(folder / "pacs"))
        for name, archive in (("A", orthanc), ("B", embedded)):
            hospital, fingerprint = made.initialise(name, archive)
            fill(made, hospital)
            answer_like(hospital, simulated / "sites" / name)
            made.approve(hospital, fingerprint)
            made.join(hospital)
        for hospital in made.hospitals.values():
            assert hospital.joined is not None
            hospital.joined.wait_for(f"connected as {hospital.name}")
        yield made


@pytest.fixture(scope="module")
def trained(federation: Federation) -> dict[str, Any]:
    """What `iodeep run` says of two rounds."""
    return federation.run(CONFIG, *SETTINGS)


def fill(federation: Federation, hospital: Hospital) -> None:
    """Its archive gets the images and labels that the simulated site of its name has."""
    tree = federation.home.parent / f"images-{hospital.name}"
    seed = read_experiment(CONFIG).seed
    for number, case in enumerate(
        phantom_cases(hospital.name, PHANTOM_CASES, PHANTOM_TEST_CASES, seed)
    ):
        (tree / str(number)).mkdir(parents=True)
        write_case(case, tree / str(number))
    federation.type(hospital.name, "import", "folder", tree, hospital.archive)


def answer_like(hospital: Hospital, site: Path) -> None:
    """The same data and the same split as of a simulated site, and no approval to wait for."""
    simulated = tomllib.loads((site / "site.toml").read_text())

    def change(document: dict[str, Any]) -> None:
        document["data"] = simulated["data"]
        document["policy"]["rounds"]["approval"] = False

    hospital.change(change)
    shutil.copy(site / "split.key", hospital.folder / "split.key")


def weights(folder: Path) -> list[str]:
    return [line["weights_digest"] for line in read_lines(folder / "versions.jsonl")]


def audit(federation: Federation, name: str) -> list[dict[str, Any]]:
    return read_lines(federation.hospitals[name].folder / "audit.jsonl")


def test_it_trains_to_the_weights_of_the_simulation(
    federation: Federation, trained: dict[str, Any], simulated: Path
) -> None:
    assert trained["round"] == 2
    found = weights(federation.home / "runs" / trained["branch"])
    assert len(found) == 3
    assert found == weights(simulated)


def test_every_hospital_has_every_round_in_its_own_archive(
    federation: Federation, trained: dict[str, Any]
) -> None:
    for name, hospital in federation.hospitals.items():
        said = federation.type(
            name, "model", "verify", trained["line"], hospital.archive,
            "--branch", trained["branch"], "--json",
        ).stdout  # fmt: skip
        rows = json.loads(said)
        assert sum(row["kind"] == "VERSION" for row in rows) == 3
        assert not any(row["problem"] for row in rows)


def test_a_check_says_what_the_run_then_needed(
    federation: Federation, trained: dict[str, Any]
) -> None:
    said = federation.type(
        AGGREGATOR, "run", CONFIG, *SETTINGS, "federation.mode=deployment", "--check", "--json",
    ).stdout  # fmt: skip
    forecast = json.loads(said)
    assert forecast["versions"] == 3
    assert [need["name"] for need in forecast["sites"]] == ["A", "B"]
    with open_gateway(federation.hospitals["B"].archive) as gateway:
        stored = Registry(gateway).stored_bytes()
    assert stored >= forecast["sites"][1]["stored"]
    assert stored < 1.1 * forecast["sites"][1]["stored"]


def test_the_audit_logs_verify_and_match_the_lineage(
    federation: Federation, trained: dict[str, Any]
) -> None:
    versions = read_lines(federation.home / "runs" / trained["branch"] / "versions.jsonl")
    with open_gateway(f"folder:{federation.home / 'archive'}") as gateway:
        last = Registry(gateway).latest(Line.parse(trained["line"]), trained["branch"])
    receipts = {one.site: one.update_digest for one in last.lineage.receipts}
    assert receipts.keys() == {"A", "B"}
    for name, hospital in federation.hospitals.items():
        report = json.loads(
            federation.type(name, "site", "audit", hospital.document, "--json").stdout
        )
        assert report["problems"] == []
        entries = audit(federation, name)
        given = [one["facts"].get("weights") for one in entries if one["event"] == "out"]
        assert [digest for digest in given if digest][-1] == receipts[name]
        asked = {one["facts"].get("version") for one in entries if one["event"] == "in"}
        assert {line["version"] for line in versions} <= asked


def test_nobody_outside_is_called_and_no_name_resolved(
    federation: Federation, trained: dict[str, Any]
) -> None:
    if not federation.machines.are_apart:
        pytest.skip("network namespaces are not permitted here")
    assert federation.machines.outsiders() == set()


SCAN = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def is_open(port):
    with socket.socket() as sock:
        sock.settimeout(5)
        return sock.connect_ex((sys.argv[1], port)) == 0
with ThreadPoolExecutor(64) as pool:
    ports = range(1, 65536)
    print([port for port, found in zip(ports, pool.map(is_open, ports)) if found])
"""


def test_one_port_is_open_at_the_aggregator(federation: Federation) -> None:
    if not federation.machines.are_apart:
        pytest.skip("network namespaces are not permitted here: loopback has all ports of all")
    done = subprocess.run(
        [*federation.machines["stranger"].enter, sys.executable, "-c", SCAN, federation.address],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [PORT]


CALL = """
import json, ssl, sys
from http.client import HTTPSConnection
address, port, ca, *paths = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
found = {}
for path in paths:
    connection = HTTPSConnection(address, int(port), context=context, timeout=20)
    connection.putrequest("POST", path, skip_accept_encoding=True)
    connection.putheader("Content-Type", "application/protobuf")
    connection.putheader("Content-Length", "0")
    connection.endheaders()
    found[path] = connection.getresponse().status
    connection.close()
print(json.dumps(found))
"""


def call(federation: Federation, *paths: str) -> dict[str, int]:
    """What the exposed port answers to a stranger who has the authority's certificate."""
    ca = federation.home / "tls" / "ca.crt"
    done = subprocess.run(
        [*federation.machines["stranger"].enter, sys.executable, "-c", CALL,
         federation.address, str(PORT), str(ca), *paths],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_control_and_runtime_are_forbidden_in_every_spelling(federation: Federation) -> None:
    paths = [
        "/v1/control/list-runs", "/v1/control/start-run", "/v1/control/register-node",
        "/v1/runtime/pull-task-input", "/v1/runtime/pull-object", "/", "/docs", "/openapi.json",
        "//v1/control/list-runs", "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs", "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/fleet//../../v1/control/list-runs", "/V1/CONTROL/list-runs",
        "/v1/control/list-runs?x=/v1/fleet/pull-messages", "/v1/./control/list-runs",
        "/v1/fleet/pull-messages/../../control/list-runs", "/v1%2fcontrol/list-runs",
    ]  # fmt: skip
    assert call(federation, *paths) == dict.fromkeys(paths, 403)


def test_the_fleet_api_answers_nobody_without_a_key(federation: Federation) -> None:
    paths = ["/v1/fleet/pull-messages", "/v1/fleet/activate-node", "/v1/fleet/pull-object"]
    assert set(call(federation, *paths).values()) <= {400, 401, 403, 422}


def test_old_versions_of_tls_are_refused(federation: Federation) -> None:
    code = (
        "import socket, ssl, sys\n"
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n"
        "context.check_hostname, context.verify_mode = False, ssl.CERT_NONE\n"
        "context.set_ciphers('ALL:@SECLEVEL=0')\n"
        "context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1\n"
        "sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "context.wrap_socket(sock)\n"
    )
    done = subprocess.run(
        [*federation.machines["stranger"].enter, sys.executable, "-W", "ignore", "-c", code,
         federation.address, str(PORT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "SSL" in done.stderr


SHOWN = """
import ssl, sys
pem = ssl.get_server_certificate((sys.argv[1], int(sys.argv[2])), ca_certs=sys.argv[3])
print(pem)
"""


def test_a_renewed_certificate_is_shown_without_a_restart(federation: Federation) -> None:
    def shown() -> str:
        return subprocess.run(
            [*federation.machines["A"].enter, sys.executable, "-c", SHOWN, federation.address,
             str(PORT), str(federation.home / "tls" / "ca.crt")],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    before = shown()
    federation.type(AGGREGATOR, "server", "renew", federation.home, "--days", "90")
    until = time.monotonic() + 30
    while shown() == before:
        assert time.monotonic() < until
        time.sleep(0.5)
    assert shown().strip() == (federation.home / "tls" / "server.crt").read_text().strip()


HOSTILE = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab
from federation.flower.bundle import digest_of
from server.aggregator.control import Control
from server.aggregator.home import Home

home, marks, experiment = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_text()
code = "from pathlib import Path\\nimport os\\n" + \\
    f"Path({{marks!r}}, __name__ + str(os.getpid())).write_text('ran')\\n"
project = '''
[project]
name = "hostile"
version = "9.9.9"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "iodeep"
[tool.flwr.app.components]
serverapp = "hostile.server:app"
clientapp = "hostile.client:app"
[tool.flwr.app.config]
experiment = ""
branch = ""
archive = "folder:/etc"
key = "/etc/passwd"
site = "/etc/passwd"
work = ""
run-folder = ""
'''
names = ("hostile/__init__", "hostile/server", "hostile/client", "clients/__init__", "clients/app",
         "server/__init__", "server/app", "federation/__init__", "sitecustomize", "usercustomize",
         "json/__init__", "torch/__init__", "server/aggregator/__init__")
files = {{f"{{name}}.py": code.encode() for name in names}}
files |= {{"pyproject.toml": project.encode(), "LICENSE": b"Apache-2.0"}}
content = build_fab_from_files(files)[0]
with Control(Home(home)) as control:
    config = {{"experiment": experiment, "branch": "hostile", "work": "rounds",
               "archive": "folder:/etc", "key": "/etc/passwd", "run-folder": "/etc"}}
    control._client.StartRun(StartRunRequest(
        fab=fab_to_proto(Fab(digest_of(content), content, {{}})),
        override_config=user_config_to_proto(config),
    ))
print(digest_of(content))
"""


def test_a_hostile_bundle_does_nothing_at_either_end_and_is_noted(
    federation: Federation, trained: dict[str, Any], tmp_path: Path
) -> None:
    """Even one that the aggregator's own machine starts, as whoever took it over would."""
    marks = tmp_path / "marks"
    marks.mkdir()
    experiment = tmp_path / "experiment.json"
    plan = read_experiment(CONFIG, [*SETTINGS, "rounds=1", "training.steps=1"])
    experiment.write_text(plan.model_dump_json())
    code = HOSTILE.format(root=str(Path(__file__).parents[1]))
    done = subprocess.run(
        [*federation.machines[AGGREGATOR].enter, sys.executable, "-c", code,
         str(federation.home), str(marks), str(experiment)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    digest = done.stdout.split()[-1]
    until_finished(federation, "hostile")
    assert list(marks.iterdir()) == []
    assert (federation.home / "runs" / "hostile" / "metrics.jsonl").exists()  # ours did the work
    for name, hospital in federation.hospitals.items():
        noted = [one for one in audit(federation, name) if one["event"] == "bundle"]
        assert noted
        assert {one["facts"]["bundle"] for one in noted} == {digest}
        assert not list((hospital.folder / "work" / "flower").rglob("*hostile*"))
        assert "hostile" not in (hospital.folder / "work" / "supernode.log").read_text()


def until_finished(federation: Federation, branch: str) -> dict[str, Any]:
    for _ in range(180):
        said = json.loads(
            federation.type(AGGREGATOR, "server", "status", federation.home, "--json").stdout
        )
        run: dict[str, Any] = next(run for run in said["runs"] if run["run"] == branch)
        if run["state"] in ("completed", "failed", "stopped"):
            return run
        time.sleep(1)
    raise AssertionError(f"{branch} does not end: {run}")


def test_a_site_that_is_not_approved_is_not_let_in(
    federation: Federation, trained: dict[str, Any]
) -> None:
    hospital, _ = federation.initialise("stranger", "folder:none")
    try:
        joined = federation.join(hospital)
        joined.wait_for("does not let this site in")
        joined.stop()
    finally:
        del federation.hospitals["stranger"]
    assert "stranger" not in online(federation)


def online(federation: Federation) -> set[str]:
    return {site["name"] for site in status(federation)["sites"] if site["online"]}


def status(federation: Federation) -> dict[str, Any]:
    said = federation.type(AGGREGATOR, "server", "status", federation.home, "--json").stdout
    found: dict[str, Any] = json.loads(said)
    return found


def test_a_run_with_an_unknown_site_is_refused_before_it_starts(federation: Federation) -> None:
    said = federation.run(CONFIG, *SETTINGS, 'federation.sites=["A","Z"]', code=1)
    assert "Z, who are not approved here; approved: A, B" in said["error"]


def test_a_census_tells_no_small_numbers(federation: Federation, trained: dict[str, Any]) -> None:
    def change(document: dict[str, Any]) -> None:
        document["policy"]["census"] = {"least": 1000}

    federation.hospitals["B"].change(change)
    said = federation.type(
        AGGREGATOR, "server", "census", federation.home, CONFIG, *SETTINGS, "--json"
    ).stdout
    sites = json.loads(said)["sites"]
    assert sites["A"]["studies"] == PHANTOM_CASES
    assert sites["B"]["studies"] is None


def test_a_release_is_offered_and_policy_takes_it_or_not(
    federation: Federation, trained: dict[str, Any]
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["policy"]["releases"] = True

    federation.hospitals["B"].change(change)
    federation.type(
        AGGREGATOR, "model", "promote", trained["line"], f"folder:{federation.home / 'archive'}",
        "--branch", trained["branch"], "--key", federation.home / "keys" / "aggregator.key",
    )  # fmt: skip
    said = federation.type(
        AGGREGATOR, "server", "offer", federation.home, trained["line"], "--json"
    ).stdout
    sites = json.loads(said)["sites"]
    assert {name: site["accepted"] for name, site in sites.items()} == {"A": False, "B": True}
    chosen = federation.type(
        "B", "model", "released", trained["line"], federation.hospitals["B"].archive,
        "--signer", federation.home / "keys" / "aggregator.key.pub", "--json",
    ).stdout  # fmt: skip
    assert trained["version"] in chosen


TAKE = """
import json, os, subprocess, sys
import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
ports = {line.split()[3].rpartition(":")[2] for line in listening.splitlines()}
os.setuid(65534)
found = {}
for port in ports:
    client = RuntimeHttpClient.from_server_address(
        f"127.0.0.1:{port}", True, None, [RuntimeVersionHttpInterceptor(component_name="it")])
    try:
        client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-clientapp"]))
    except httpx.HTTPStatusError as error:
        found[port] = error.response.status_code
    except Exception as error:
        found[port] = type(error).__name__
    else:
        found[port] = "taken"
print(json.dumps(found))
"""


def test_another_account_of_a_hospital_s_machine_can_take_no_message(
    federation: Federation, trained: dict[str, Any]
) -> None:
    done = subprocess.run(
        [*federation.machines["B"].enter, sys.executable, "-c", TAKE],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert "taken" not in found.values()
    assert 401 in found.values(), found


def test_health_is_told_on_loopback_alone(federation: Federation) -> None:
    code = (
        "import urllib.request\n"
        "for what in ('health', 'metrics'):\n"
        "    print(urllib.request.urlopen(f'http://127.0.0.1:8471/{what}').read().decode())\n"
    )
    done = subprocess.run(
        [*federation.machines[AGGREGATOR].enter, sys.executable, "-c", code],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert '"ready": true' in done.stdout
    assert 'iodeep_site_online{site="A"} 1.0' in done.stdout
    assert 'iodeep_program_running{program="nginx"} 1.0' in done.stdout


def test_a_revoked_site_is_let_in_no_more(federation: Federation, trained: dict[str, Any]) -> None:
    """Its SuperNode ends, and is told why when it asks again."""
    joined = federation.hospitals["B"].joined
    assert joined is not None
    federation.type(AGGREGATOR, "server", "revoke", federation.home, "B")
    joined.wait_for("does not let this site in")
    assert online(federation) == {"A"}
