"""Flower's programs with our apps in them: what that rests on, and that nothing else runs."""

import os
import subprocess
import sys
import time
from pathlib import Path
from subprocess import Popen
from types import ModuleType

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResultStatus

from federation.errors import ConfigError
from federation.flower import executor as executor_module
from federation.flower.bundle import bundle, digest_of
from federation.flower.executor import InstalledExecutor
from federation.flower.lock import replace
from federation.flower.programs import environment, module_command

ROOT = Path(__file__).parents[2]

LOCKS = {
    "clients.joining.locked": (
        "flwr.supernode.runtime.run_clientapp",
        {"install_from_fab", "install_app_dependencies", "get_load_client_app_fn"},
    ),
    "clients.joining.supernode": (
        "flwr.supernode.start_client_internal",
        {"get_fused_config_from_fab", "_pull_and_store_message", "_push_messages"},
    ),
    "server.aggregator.locked": (
        "flwr.superlink.runtime.run_serverapp",
        {"install_from_fab", "install_app_dependencies", "run_"},
    ),
    "server.aggregator.superlink": (
        "flwr.superlink.servicer.fleet.fleet_handlers",
        {"push_messages"},
    ),
    "federation.flower.waiting": ("flwr.superlink.grid.http_grid", {"pull_objects"}),
}


@pytest.mark.parametrize("ours", LOCKS)
def test_flower_has_what_is_replaced(ours: str) -> None:
    """The canary: another Flower may have moved its private functions, and then nothing runs."""
    theirs, names = LOCKS[ours]
    code = (
        f"import importlib; theirs = importlib.import_module('{theirs}')\n"
        "before = dict(vars(theirs))\n"
        f"importlib.import_module('{ours}').lock()\n"
        "changed = [n for n, v in vars(theirs).items() if v is not before.get(n)]\n"
        "print(*sorted(changed))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert names <= set(done.stdout.split())


def test_where_flower_has_moved_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = ModuleType("moved")
    moved.install_app = print  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "moved", moved)
    with pytest.raises(ConfigError, match=r"no install_from_fab in moved"):
        replace("moved", {"install_app": len, "install_from_fab": len})
    assert moved.install_app is print  # nothing by halves


def specification(kind: TaskType, address: str = "127.0.0.1:1") -> ExecutionSpec:
    return ExecutionSpec(
        task_type=kind, runtime_api_address=address, token="the-token", insecure=True,
        root_certificates_path=None, runtime_dependency_install=True, parent_pid=os.getpid(),
        suppress_output=False, task_id=1,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in TaskType if kind != TaskType.CLIENT_APP])
def test_other_work_than_ours_fails(kind: TaskType) -> None:
    """A run can ask for other programs than the one that is wanted."""
    executor = InstalledExecutor(TaskType.CLIENT_APP, "clients.joining.locked")
    assert executor.launch(specification(kind)).status is LaunchResultStatus.FAILED


def test_a_token_is_not_among_the_arguments_of_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shows.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom federation.flower.executor import take_token\n"
        "seen = Path('/proc/self/cmdline').read_text()\ntake_token()\n"
        f"Path({str(tmp_path / 'seen')!r}).write_text(seen + '|' + sys.argv[-1])\n"
    )
    monkeypatch.setattr(
        executor_module.subprocess, "Popen",
        lambda words, **further: Popen(
            [word for word in words if word != "-I"], cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, **further,
        ),
    )  # fmt: skip
    InstalledExecutor(TaskType.CLIENT_APP, "shows").launch(specification(TaskType.CLIENT_APP))
    until = time.monotonic() + 60
    while not (tmp_path / "seen").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    arguments, token = (tmp_path / "seen").read_text().split("|")
    assert "the-token" not in arguments
    assert token == "the-token"


def test_a_module_in_the_way_is_not_imported(tmp_path: Path) -> None:
    """Neither from the working folder nor from PYTHONPATH, as a bundle or a shell may have it."""
    there = tmp_path / "there"
    for name in ("clients", "federation", "flwr", "json", "sitecustomize", "usercustomize"):
        (there / name).mkdir(parents=True)
        (there / name / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    env = environment(tmp_path / "home") | {"PYTHONPATH": str(there)}
    done = subprocess.run(
        module_command("clients.joining.locked", "--help"), cwd=there, env=env, input="",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "--runtime-api-address" in done.stdout, done.stderr
    assert not (tmp_path / "ran").exists()


def test_the_environment_keeps_flower_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    for name in ("HTTPS_PROXY", "https_proxy", "SSLKEYLOGFILE"):
        monkeypatch.setenv(name, "/elsewhere")
    env = environment(tmp_path / "home", MORE="1")
    assert "PYTHONPATH" not in env
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert env["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert env["MORE"] == "1"
    assert not env.keys() & {"HTTPS_PROXY", "https_proxy", "SSLKEYLOGFILE"}


def test_the_bundle_is_the_same_everywhere_and_holds_no_code() -> None:
    code = "from federation.flower.bundle import *; print(digest_of(bundle()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest_of(bundle())
    assert b".py" not in bundle().replace(b"pyproject", b"")
