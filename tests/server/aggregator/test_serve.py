"""`iodeep server serve` at work: what it keeps up with, and what does not end it."""

import json
import os
import shutil
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

import pytest
from flwr.app import Array
from flwr.common.constant import NOOP_FLWR_AID, SubStatus
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager

from server.aggregator import storage
from server.aggregator.home import Home
from server.aggregator.operate import status
from server.aggregator.provision import create_home, renew
from server.aggregator.sites import approve
from server.aggregator.storage import database_bytes
from tests.peers import peer
from tests.peers.process import free_port, running
from tests.server.aggregator.test_sites import Hospital

MIB = 1 << 20
NOW = datetime.now(UTC)
SERVE = "from federation.cli import main; main()"
SHORT_OF_ROOM = (
    "from server.aggregator import storage\n"
    "storage.FULL_BYTES = storage.LOW_BYTES = 1 << 60\n" + SERVE
)


class Served:
    """An aggregator's folder while it is served."""

    def __init__(self, home: Home, log: Path, process: "subprocess.Popen[bytes]") -> None:
        self.home = home
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def metrics(self) -> dict[str, float]:
        """Those without labels."""
        port = self.home.document.loopback.health
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        plain = (line.split() for line in lines if "{" not in line and line[0] != "#")
        return {name: float(value) for name, value in plain}


def until(condition: Callable[[], bool], within_s: float = 30) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def new_home(folder: Path) -> Home:
    port = free_port()
    home = create_home(
        folder / "aggregator",
        name="example", address=f"localhost:{port}", listen=f"127.0.0.1:{port}",
        lines=["*"], now=NOW,
    )  # fmt: skip
    document = home.path / "aggregator.toml"
    text = document.read_text()
    for usual in ("8470", "8471"):
        text = text.replace(usual, str(free_port()))
    document.write_text(text)
    return home


@contextmanager
def serving(home: Home, code: str = SERVE) -> Iterator[Served]:
    peer("nginx")
    log, port = home.path / "serve.log", home.document.loopback.health

    def is_ready() -> bool:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health") as answer:
            return bool(json.load(answer)["ready"])
        return False

    words = [sys.executable, "-c", code, "server", "serve", str(home.path)]
    with running(words, log=log, answers=is_ready) as process:
        yield Served(home, log, process)


def leave_behind(home: Home, tensor_bytes: int) -> None:
    """What Flower keeps of a run that has finished, and of an answer that nobody took."""
    home.superlink.mkdir(mode=0o700)
    database = str(home.database)
    factory = LinkStateFactory(database, NoOpFederationManager(), ObjectStoreFactory(database))
    state = factory.state()
    number = state.create_run(
        None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
    )
    tensor = Array("U8", (tensor_bytes,), "raw", os.urandom(tensor_bytes))
    state.object_store.preregister(number, get_object_tree(tensor))
    for name, part in get_all_nested_objects(tensor).items():
        state.object_store.put(name, part.deflate())
    (run,) = state.get_run_info(run_ids=[number])
    assert run.primary_task_id is not None
    state.finish_task(run.primary_task_id, SubStatus.FAILED, "")


def objects(home: Home) -> int:
    with closing(sqlite3.connect(home.database)) as database:
        (count,) = database.execute("SELECT count(*) FROM objects").fetchone()
    return int(count)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = new_home(tmp_path_factory.mktemp("served"))
    leave_behind(home, 80 * MIB)
    assert objects(home) > 0
    assert database_bytes(home) > 80 * MIB
    with serving(home) as made:
        yield made


def test_what_finished_runs_left_is_deleted_and_the_disk_gets_its_room(served: Served) -> None:
    until(lambda: objects(served.home) == 0)
    until(lambda: database_bytes(served.home) < 8 * MIB)


def test_the_room_that_there_is_can_be_watched(served: Served) -> None:
    until(lambda: database_bytes(served.home) < 8 * MIB)  # and changes no more
    found = served.metrics()
    assert found["iodeep_database_bytes"] == pytest.approx(database_bytes(served.home), abs=MIB)
    free = shutil.disk_usage(served.home.path).free
    assert found["iodeep_disk_free_bytes"] == pytest.approx(free, rel=0.2)


def test_status_warns_of_a_disk_that_is_nearly_full(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status(served.home.path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(storage, "LOW_BYTES", 1 << 60)
    status(served.home.path)
    assert "what sites send is refused: free space on it" in capsys.readouterr().err
    monkeypatch.setattr(storage, "LARGE_BYTES", 1)
    status(served.home.path, json=True)
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert len(warnings) == 2
    assert f"{served.home.database} has " in warnings[1]


def test_a_file_that_is_no_record_changes_nothing_until_it_has_gone(
    served: Served, tmp_path: Path
) -> None:
    home = served.home
    first, second = (Hospital(home, tmp_path, name, now=NOW) for name in ("first", "second"))
    approve(home, first.request(), now=NOW)
    until(lambda: "first is let in" in served.said)
    copy = home.sites / "first copy.json"
    shutil.copy(home.sites / "first.json", copy)
    until(lambda: "'first copy' cannot be a site's name" in served.said)
    record = (home.sites / "first.json").read_bytes()
    (home.sites / "first.json").write_bytes(record[:100])
    copy.unlink()
    until(lambda: "first.json is no record of a site" in served.said)
    time.sleep(5)  # it has looked twice
    assert served.process.poll() is None
    assert served.said.count("until then the same sites are let in as before") == 2
    assert "first is let in no more" not in served.said
    (home.sites / "first.json").write_bytes(record)
    approve(home, second.request(), now=NOW)
    until(lambda: "second is let in" in served.said)
    assert "first is let in no more" not in served.said


def test_nginx_sees_a_renewed_certificate_with_its_key_only(served: Served, tmp_path: Path) -> None:
    home = served.home
    before = shown(home)
    key = home.private_key("server").read_bytes()
    shutil.copy(new_home(tmp_path).private_key("server"), home.private_key("server"))
    time.sleep(5)  # it has looked twice
    assert "mismatch" not in (home.nginx / "nginx.log").read_text()
    assert shown(home) == before
    home.private_key("server").write_bytes(key)
    renew(home, now=NOW)
    until(lambda: shown(home) == home.certificate("server").read_text())


def shown(home: Home) -> str:
    host, _, port = home.document.address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=str(home.certificate("ca")))


def test_a_full_disk_is_said_and_takes_no_tensors(tmp_path: Path) -> None:
    home = new_home(tmp_path)
    with serving(home, SHORT_OF_ROOM) as short:
        assert "what sites send is refused: free space on it" in short.said
        assert (home.nginx / "room.conf").read_text() == "return 507;\n"
        time.sleep(5)  # it has looked twice
        assert short.said.count("is refused") == 1
