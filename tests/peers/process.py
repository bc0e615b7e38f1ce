"""Others' programs while they run: started, waited for, stopped."""

import os
import random
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

START_S = 30
STOP_S = 20

_PORTS = range(20_000, 32_000)  # below those that the system gives to whoever connects


def free_port() -> int:
    """A port of loopback that nobody listens at, nor gets by chance while its owner is away."""
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port on loopback among a hundred")


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """Another's program while it runs; ``folder`` holds its files and its log."""

    folder: Path
    process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL, and wait until it has gone."""
        stop(self.process)


@contextmanager
def running(
    command: Sequence[str], *, log: Path, answers: Callable[[], bool]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A program that is up, as ``answers`` says; stopped at the end with all it started.

    Raises :class:`RuntimeError` with the end of its log where it does not come up.
    """
    with log.open("ab") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
    try:
        until = time.monotonic() + START_S
        while not answers():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} did not come up; it said:\n{_end(log)}")
            time.sleep(0.05)
        yield process
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Kill a program that :func:`running` started, with all that it started.

    Nobody asks it to end first: its folder is thrown away, and Orthanc takes three seconds.
    """
    if process.returncode is None:  # else its number may be another's by now
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_S)


def echoes(port: int, *, called: str, calling: str, tls: ssl.SSLContext | None = None) -> bool:
    """Whether the archive at a port of loopback answers a C-ECHO."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 5
    ae.add_requested_context(Verification)
    secured = None if tls is None else (tls, "localhost")
    association = ae.associate("127.0.0.1", port, ae_title=called, tls_args=secured)
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return "Status" in status and status.Status == 0x0000


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
