"""Programs that are kept running: started again, and ended with us however we end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from federation.supervision import Program

SLEEPS = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def until(condition: object, within_s: float = 20) -> None:
    end = time.monotonic() + within_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def program(tmp_path: Path, words: list[str], **waits: float) -> Program:
    waits = {"wait_s": 0.3, "longest_s": 1.0} | waits
    return Program("it", words, env=dict(os.environ), log=tmp_path / "log", **waits)


def test_what_ends_is_started_again_after_longer_and_longer_waits(tmp_path: Path) -> None:
    waits = []
    with program(tmp_path, [sys.executable, "-c", "raise SystemExit(3)"]) as one:
        end = time.monotonic() + 60
        while one.starts < 4 and time.monotonic() < end:
            if (status := one.keep()) is not None:
                assert status == 3
                waits.append(round(one.waits_s, 1))
            time.sleep(0.02)
    assert waits == [0.3, 0.6, 1.0]


def test_its_lines_are_read_as_they_come(tmp_path: Path) -> None:
    with program(tmp_path, SLEEPS) as one:
        one.keep()
        until(lambda: one.lines_since(0)[0] == ["up"])
        _, position = one.lines_since(0)
        assert one.lines_since(position) == ([], position)
        assert one.is_running
    assert not one.is_running


def test_closing_ends_it_with_all_that_it_started(tmp_path: Path) -> None:
    code = f"import subprocess; subprocess.run({SLEEPS!r})"
    with program(tmp_path, [sys.executable, "-c", code]) as one:
        one.keep()
        until(lambda: one.lines_since(0)[0] == ["up"])
        children = [
            child
            for child in psutil.Process().children(recursive=True)
            if "time.sleep(600)" in " ".join(child.cmdline())  # not what other tests left behind
        ]
        assert len(children) == 2
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children on Linux alone")
def test_it_ends_when_we_are_killed(tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom pathlib import Path\nfrom federation.supervision import Program\n"
        f"one = Program('it', {SLEEPS!r}, env=dict(os.environ), "
        f"log=Path({str(tmp_path / 'log')!r}), wait_s=1, longest_s=1)\n"
        "one.keep()\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text())
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_long_log_is_begun_anew_and_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.supervision._MOST_BYTES", 1000)
    code = (
        "import time\nprint('x' * 2000, flush=True)\ntime.sleep(3)\n"
        "print('after', flush=True)\ntime.sleep(600)"
    )
    with program(tmp_path, [sys.executable, "-c", code]) as one:
        one.keep()
        until(lambda: one.lines_since(0)[0] != [])
        lines, position = one.lines_since(0)
        one.keep()
        assert (tmp_path / "log.1").read_text() == lines[0] + "\n"
        until(lambda: one.lines_since(position)[0] == ["after"])
        assert (tmp_path / "log").read_text() == "after\n"  # no hole where the old lines were
