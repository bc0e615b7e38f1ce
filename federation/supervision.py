"""Programs of others that run as long as we do, and are started again when they end.

On Linux they end with us however we end: the kernel tells them (``PR_SET_PDEATHSIG``), where we
are killed and can do nothing ourselves.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from federation.closing import Closing
from federation.whole import SECRET, make_private

_STOP_S = 15.0
_STEADY = 5.0  # longest waits that a program has to run for its next failure to count as the first
_MOST_BYTES = 16 * 2**20  # of a log
_PR_SET_PDEATHSIG = 1


class Program(Closing):
    """A program that shall run. :meth:`keep` starts it, and again when it has ended.

    what:    how it is called in a message
    wait_s:  before it is started a second time; each further wait is twice as long, up to
             ``longest_s``
    log:     what it prints goes there, the newest at the end; from 16 MiB on it is kept as
             ``.1`` and begun anew
    """

    def __init__(
        self,
        what: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        wait_s: float,
        longest_s: float,
    ) -> None:
        self.what = what
        self.starts = 0
        self._command = command
        self._env = dict(env)
        self._log = log
        self._waits = (wait_s, longest_s)
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0.0
        self._wait_s = 0.0
        self._due = 0.0

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def keep(self) -> int | None:
        """Start it where it is due; returns its exit status where it has just ended."""
        now = time.monotonic()
        self._cut_log()
        if self._process is None:
            if now >= self._due:
                self._start()
            return None
        status = self._process.poll()
        if status is None:
            return None
        self._process = None
        first, longest = self._waits
        was_steady = now - self._begun > _STEADY * longest
        self._wait_s = first if was_steady or not self._wait_s else min(2 * self._wait_s, longest)
        self._due = now + self._wait_s
        return status

    @property
    def waits_s(self) -> float:
        """Until it is started again; 0 while it runs."""
        return 0.0 if self._process else max(0.0, self._due - time.monotonic())

    def lines_since(self, position: int) -> tuple[list[str], int]:
        """What it has printed since ``position`` in its log, whole lines, and where that ends."""
        if not self._log.exists():
            return [], position
        with self._log.open("rb") as file:
            position = position if position <= file.seek(0, os.SEEK_END) else 0  # begun anew
            file.seek(position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        return whole.decode("utf-8", "replace").splitlines(), position + len(whole)

    def signal(self, number: int) -> None:
        """Send it a signal, where it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def close(self) -> None:
        """Ask it to end; after 15 s make it, with all that it has started. Twice is harmless."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own
        process.wait()

    def _cut_log(self) -> None:
        """It goes on writing where the file ends, so the file itself has to stay."""
        if self._log.exists() and self._log.stat().st_size > _MOST_BYTES:
            shutil.copyfile(self._log, self._log.with_name(f"{self._log.name}.1"))
            os.truncate(self._log, 0)

    def _start(self) -> None:
        make_private(self._log.parent)
        tied = [sys.executable, "-I", "-m", __name__, str(os.getpid()), *self._command]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(os.open(self._log, flags, SECRET), "ab") as log:
            self._process = subprocess.Popen(
                tied,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.starts += 1
        self._begun = time.monotonic()


def _tie(parent: int) -> None:
    """From now on this process gets SIGTERM when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before
        raise SystemExit(1)


if __name__ == "__main__":
    _tie(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
