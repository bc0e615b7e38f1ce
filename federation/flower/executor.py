"""What starts our programs for the tasks that Flower hands out, and nothing else.

A SuperLink and a SuperNode have an interface on loopback at which somebody takes tasks: a
SuperExec. Flower's asks nobody who takes one, and passes a task's token on in the arguments of
a process, which every account of the machine can read. Ours is beside either, takes tasks with
a secret of its own, runs the module that is installed here, whatever was asked for, and gives it
the token through a pipe.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult

from federation.flower.lock import replace
from federation.flower.programs import module_command
from federation.whole import SECRET, write_over

_LOOK_S = 0.1
_SUPEREXEC = "flwr.supercore.superexec.run_superexec"


class InstalledExecutor:
    """Runs one module for tasks of one kind, a process each; tasks of other kinds fail."""

    def __init__(self, kind: str, module: str) -> None:
        self._kind = kind
        self._module = module

    def get_eligible_capacity(
        self, supported: set[TaskType], **_: object
    ) -> tuple[set[TaskType], set[str]]:
        """Whatever there is: what is left waiting would never be answered."""
        return supported, set()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process."""
        if spec.task_type != self._kind:
            return LaunchResult.failed(f"only {self._kind} runs here")
        trust = ["--root-certificates", spec.root_certificates_path or ""]
        process = subprocess.Popen(
            module_command(
                self._module,
                "--runtime-api-address", spec.runtime_api_address,
                "--parent-pid", spec.parent_pid,
                *(["--insecure"] if spec.insecure else trust),
            ),
            stdin=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(spec.token.encode())
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """There is no pool to look after."""

    def close(self) -> None:
        """Processes end by themselves, or with this one."""


def take_token() -> None:
    """In a process that was launched: the token, for Flower's parser, which knows it as one of
    the arguments."""
    sys.argv += ["--token", sys.stdin.read()]


def write_secret(folder: Path) -> Path:
    """A new secret between an interface and who takes tasks at it; only the owner can read it."""
    path = folder / "superexec.secret"
    write_over(path, secrets.token_bytes(32), SECRET)
    return path


def execute_beside(
    kind: TaskType, module: str, *, port: int, secret: Path, trust: Sequence[str]
) -> None:
    """Start what takes tasks at a port of loopback, as soon as somebody answers there.

    It ends with this process, and this process with it.

    trust: ``--insecure``, or ``--root-certificates`` and a file
    """
    command = module_command(
        __name__, kind, module,
        "--runtime-api-address", f"127.0.0.1:{port}",
        "--superexec-auth-secret-file", secret,
        "--parent-pid", os.getpid(),
        *trust,
    )  # fmt: skip

    def run() -> None:
        while not _answers(port):
            time.sleep(_LOOK_S)
        status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
        print(f"what takes tasks ended with {status}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=run, daemon=True).start()


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    """Take tasks: arguments are a kind, a module, and those of ``flower-superexec``."""
    kind, module = sys.argv.pop(1), sys.argv.pop(1)
    lock(InstalledExecutor(kind, module))
    flower_superexec()


def lock(executor: Any) -> None:
    """Make Flower's SuperExec start tasks through an executor of ours.

    Raises :class:`~federation.errors.ConfigError` where Flower is not the one this was made for.
    """
    replace(_SUPEREXEC, {"get_executor": lambda *_, **__: executor})


if __name__ == "__main__":
    main()
