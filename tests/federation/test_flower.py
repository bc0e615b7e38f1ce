"""Flower's programs with our apps in them: what that rests on, and that nothing else runs."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from flwr.supercore.constant import TaskType

from federation.errors import ConfigError
from federation.flower.bundle import bundle, digest_of
from federation.flower.lock import replace
from federation.flower.programs import COMMANDS, environment, program, write_programs

LOCKS = {
    "flwr-clientapp": ("clients.joining.locked", "flwr.supernode.runtime.run_clientapp"),
    "flwr-serverapp": ("server.aggregator.locked", "flwr.superlink.runtime.run_serverapp"),
}


@pytest.mark.parametrize("command", LOCKS)
def test_flower_has_what_is_replaced(command: str) -> None:
    """The canary: another Flower may have moved its private functions, and then nothing runs."""
    ours, theirs = LOCKS[command]
    code = (
        f"import importlib; theirs = importlib.import_module('{theirs}')\n"
        "before = dict(vars(theirs))\n"
        f"importlib.import_module('{ours}').lock()\n"
        "changed = [n for n, v in vars(theirs).items() if v is not before.get(n)]\n"
        "print(*sorted(changed))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install_from_fab" in done.stdout.split()
    assert "install_app_dependencies" in done.stdout.split()


def test_where_flower_has_moved_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = ModuleType("moved")
    moved.install_app = print  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "moved", moved)
    with pytest.raises(ConfigError, match=r"no install_from_fab in moved"):
        replace("moved", {"install_app": len, "install_from_fab": len})
    assert moved.install_app is print  # nothing by halves


def test_every_kind_of_work_that_flower_knows_has_a_program_of_ours(tmp_path: Path) -> None:
    """A run can ask for other programs than the one that is wanted."""
    write_programs(tmp_path, "flwr-clientapp", "clients.joining.locked")
    assert {path.name for path in tmp_path.iterdir()} == {kind.value for kind in TaskType}
    assert set(COMMANDS) == {kind.value for kind in TaskType}
    for name in COMMANDS - {"flwr-clientapp"}:
        done = subprocess.run([tmp_path / name], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "only flwr-clientapp runs here" in done.stderr
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in tmp_path.iterdir())


def test_a_module_in_the_way_is_not_imported(tmp_path: Path) -> None:
    """Neither from the working folder nor from PYTHONPATH, as a bundle or a shell may have it."""
    programs, there = tmp_path / "programs", tmp_path / "there"
    write_programs(programs, "flwr-clientapp", "clients.joining.locked")
    for name in ("clients", "federation", "flwr", "json", "sitecustomize", "usercustomize"):
        (there / name).mkdir(parents=True)
        (there / name / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    env = environment(programs, tmp_path / "home") | {"PYTHONPATH": str(there)}
    done = subprocess.run(
        [programs / "flwr-clientapp", "--help"], cwd=there, env=env, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert "--runtime-api-address" in done.stdout, done.stderr
    assert not (tmp_path / "ran").exists()


def test_the_environment_keeps_flower_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    env = environment(tmp_path / "programs", tmp_path / "home", MORE="1")
    assert "PYTHONPATH" not in env
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert env["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert env["MORE"] == "1"
    assert env["PATH"].split(os.pathsep)[0] == str(tmp_path / "programs")
    assert program("flower-supernode").exists()


def test_the_bundle_is_the_same_everywhere_and_holds_no_code() -> None:
    code = "from federation.flower.bundle import *; print(digest_of(bundle()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest_of(bundle())
    assert b".py" not in bundle().replace(b"pyproject", b"")
