"""A whole federation beside a hand-written loop and Flower's own simulation with Ray.

Wall time and memory are those of whole processes, from start to end, cases cached. Every run
gets a fresh copy of the prepared folder.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.measure import Finished, Times, alternate, profile, run_process
from benchmarks.ours import DONE, experiment_of, ours
from benchmarks.sides import prepare
from benchmarks.table import Row
from server.report.summary import WORKS, RunTimings

_WORKERS = 2
_SAME_DICE = 0.03  # float32 sums in another order: training drifts apart, not its outcome
_OURS, _LOOP, _RAY = "ours", "loop", "ray"
_WIDE = "loop-wide"  # the loop, with as many threads as there are cores

Runs = Mapping[str, Sequence[Finished]]


def rows(data: str, rounds: int, turns: int) -> Iterator[Row]:
    """Wall time and memory of all sides; where our time goes."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as name:
        prepared = Path(name, "prepared")
        prepare(prepared, experiment_of(data, rounds))
        runs: dict[str, list[Finished]] = {side: [] for side in (_OURS, _LOOP, _WIDE, _RAY)}
        overheads: list[RunTimings] = []
        for side in alternate(list(runs), turns):
            folder = Path(name, "run")
            shutil.copytree(prepared, folder)
            finished = run_process(_command(side, folder, data, rounds))
            console.print(f"  {side}: {finished.seconds:.0f} s")
            runs[side].append(finished)
            if side == _OURS:
                overheads.append(RunTimings.read(folder))
            shutil.rmtree(folder)
        _require_same_work(runs)
        timings = sorted(overheads, key=overhead)[len(overheads) // 2]
        where = partial(_seconds_by_work, timings)
        yield _wall("a federation / a hand-written loop, torch's own threads", runs, _WIDE, where)
        yield _wall("a federation / a hand-written loop, one thread", runs, _LOOP, where)
        yield _wall("a federation / Flower with Ray", runs, _RAY, where)
        yield _memory(runs)
        spread = [overhead(one) for one in overheads]
        yield Row(
            what="neither training nor evaluation, of two workers' time",
            value=overhead(timings),
            bound=0.10,
            unit="",
            shown=f"{min(spread):.3f} to {max(spread):.3f}; {where()}",
        ).explained(lambda: _calls(prepared, data))


def overhead(timings: RunTimings) -> float:
    """The share of all workers' time, from round 1 to the last, that is neither training nor
    evaluation: waiting counts."""
    spent = _seconds(timings)
    return 1 - (spent["training"] + spent["evaluation"]) / sum(spent.values())


def _command(side: str, folder: Path, data: str, rounds: int) -> list[str]:
    words = [str(folder), data, str(rounds)]
    if side == _OURS:
        return [sys.executable, "-m", "benchmarks.ours", *words]
    threads = len(os.sched_getaffinity(0)) if side == _WIDE else 1
    name = _LOOP if side == _WIDE else side
    return [sys.executable, "-m", "benchmarks.sides", name, *words, str(threads)]


def _wall(what: str, runs: Runs, other: str, where: Callable[[], str]) -> Row:
    ratio = _times(runs[_OURS]).over(_times(runs[other]))
    bound = 1.0 if other == _RAY else 0.85
    return Row(what=what, value=ratio.median, bound=bound, shown=f"{ratio}").explained(where)


def _times(runs: Sequence[Finished]) -> Times:
    return Times(seconds=[run.seconds for run in runs])


def _memory(runs: Runs) -> Row:
    """The median of each side's peaks, which hardly vary."""
    ours, ray = (
        sorted(runs[side], key=lambda run: run.peak_bytes)[len(runs[side]) // 2]
        for side in (_OURS, _RAY)
    )
    return Row(
        what="memory of a federation / Flower with Ray",
        value=ours.peak_bytes / ray.peak_bytes,
        bound=0.5,
        shown=f"{ours.peak_bytes / 1e6:.0f} MB / {ray.peak_bytes / 1e6:.0f} MB",
    ).explained(lambda: f"ours\n{_holders(ours)}\nray\n{_holders(ray)}")


def _require_same_work(runs: Runs) -> None:
    """Ours and the loop with as many threads agree to the bit, the others in what they learnt.

    Raises :class:`RuntimeError` where sides did not do the same.
    """
    said = {side: [_outcome(run) for run in of_side] for side, of_side in runs.items()}
    if len({one["digest"] for side in (_OURS, _LOOP) for one in said[side]}) != 1:
        raise RuntimeError("ours and the loop end with other weights: it is not the same work")
    dice = [one["dice"] for outcomes in said.values() for one in outcomes]
    if max(dice) - min(dice) > _SAME_DICE:
        raise RuntimeError(f"test Dice goes from {min(dice):.3f} to {max(dice):.3f}: not one work")


def _outcome(run: Finished) -> dict[str, float]:
    (line,) = [line for line in run.printed.splitlines() if line.startswith(DONE)]
    outcome: dict[str, float] = json.loads(line.removeprefix(DONE))
    return outcome


# --- what holds back ----------------------------------------------------------------------


def _seconds_by_work(timings: RunTimings) -> str:
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in _seconds(timings).items())


def _seconds(timings: RunTimings) -> dict[str, float]:
    """What all workers' seconds after round 0 went to."""
    rounds = [round for round in timings.wall if round > 0]
    spent = {work: sum(timings.by_round[round][work] for round in rounds) for work in WORKS}
    capacity = _WORKERS * sum(timings.wall[round] for round in rounds)
    return {**spent, "waiting": capacity - sum(spent.values())}


def _holders(run: Finished) -> str:
    largest = sorted(run.holders.items(), key=lambda item: -item[1])[:12]
    return "\n".join(f"{held / 1e6:8.0f} MB  {name}" for name, held in largest)


def _calls(prepared: Path, data: str) -> str:
    """Our own functions over one round, all of it within this process."""
    experiment = experiment_of(data, 1, "simulation.workers=1")
    return profile(
        lambda: ours(prepared, experiment), of=r"/(federation|clients|server)/", lines=40
    )
