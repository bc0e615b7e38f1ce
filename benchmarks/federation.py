"""A whole federation beside a hand-written loop and Flower's own simulation with Ray."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.measure import Row
from benchmarks.sides import experiment_of, prepare
from server.report.summary import WORKS, RunTimings

_ROUNDS = 8
_SAMPLE_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """A side's process from its start to its end, and the most memory of its tree (PSS)."""

    seconds: float
    peak_bytes: int
    digest: str


def rows(data: str) -> Iterator[Row]:
    """Wall time and memory of whole processes, cases cached; where our time goes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        prepare(folder, experiment_of(data, _ROUNDS))
        sides = {side: _run(side, folder, data) for side in ("loop", "ours", "ray")}
        timings = RunTimings.read(folder)
    ours, loop, ray = sides["ours"], sides["loop"], sides["ray"]
    if ours.digest != loop.digest:
        raise RuntimeError("ours and the loop end with other weights: it is not the same work")
    for what, value, bound, other in (
        ("a federation / a hand-written loop", ours.seconds / loop.seconds, 0.85, loop),
        ("a federation / Flower with Ray", ours.seconds / ray.seconds, 1.0, ray),
    ):
        shown = f"{ours.seconds:.0f} s / {other.seconds:.0f} s, {_ROUNDS} rounds"
        yield Row(what=what, value=value, bound=bound, unit="x", shown=shown)
    yield Row(
        what="memory of a federation / Flower with Ray",
        value=ours.peak_bytes / ray.peak_bytes,
        bound=0.5,
        unit="x",
        shown=f"{ours.peak_bytes / 1e6:.0f} MB / {ray.peak_bytes / 1e6:.0f} MB",
    )
    yield _overhead(timings)


def _overhead(timings: RunTimings) -> Row:
    """What both workers do from the first round to the last besides training and evaluating."""
    rounds = [round for round in timings.wall if round > 0]
    capacity = 2 * sum(timings.wall[round] for round in rounds)
    totals = {work: sum(timings.by_round[round][work] for round in rounds) for work in WORKS}
    work = totals["training"] + totals["evaluation"]
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in totals.items())
    idle = capacity - sum(totals.values())
    return Row(
        what="neither training nor evaluation, of two workers' time",
        value=1 - work / capacity,
        bound=0.10,
        unit="",
        shown=f"{parts}, waiting {idle:.1f} s",
    )


def _run(side: str, folder: Path, data: str) -> Side:
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sides", side, str(folder), data, str(_ROUNDS)],
        stdout=subprocess.PIPE,
        text=True,
    )
    peak_bytes = 0
    while process.poll() is None:
        peak_bytes = max(peak_bytes, _tree_bytes(process.pid))
        time.sleep(_SAMPLE_S)
    seconds = time.perf_counter() - begin
    said, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the side {side!r} failed with {process.returncode}")
    digest = json.loads(said.splitlines()[-1])["digest"]
    return Side(seconds=seconds, peak_bytes=peak_bytes, digest=digest)


def _tree_bytes(pid: int) -> int:
    """Proportional set size of a process and all below it: shared pages count once."""
    total = 0
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in tree:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:
            continue  # it ended meanwhile
    return total
