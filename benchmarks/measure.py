"""Time and memory of ways to do one thing, side by side and in turns."""

import cProfile
import io
import pstats
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

_STATUS = Path("/proc/self/status")
_PROJECT = Path(__file__).parents[1]
_CLEAR = Path("/proc/self/clear_refs")
_SAMPLE_S = 0.5
_OFTEN_S = 0.005

Side = TypeVar("Side")


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds of each turn of one side."""

    seconds: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, other: "Times") -> "Ratio":
        """This side's time as a share of another's."""
        return Ratio(ours=self, theirs=other)

    def __str__(self) -> str:
        low, high = min(self.seconds), max(self.seconds)
        scale, unit = (1000, "ms") if self.median < 1 else (1, "s")
        return f"{self.median * scale:.3g} {unit} ({low * scale:.3g} to {high * scale:.3g})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Two sides' times, turn by turn: other work on the machine meets both of a turn alike."""

    ours: Times
    theirs: Times

    @property
    def turns(self) -> list[float]:
        return [a / b for a, b in zip(self.ours.seconds, self.theirs.seconds, strict=True)]

    @property
    def median(self) -> float:
        return statistics.median(self.turns)

    def __str__(self) -> str:
        low, high = min(self.turns), max(self.turns)
        return f"{low:.2f} to {high:.2f} in {len(self.turns)} turns; {self.ours} / {self.theirs}"


def alternate(sides: Sequence[Side], turns: int) -> Iterator[Side]:
    """Every side once a turn, each turn beginning with another one."""
    for turn in range(turns):
        first = turn % len(sides)
        yield from (*sides[first:], *sides[:first])


def in_turns(*sides: Callable[[], object], turns: int) -> list[Times]:
    """The time of each side, after once to warm up."""
    for side in sides:
        side()
    seconds: list[list[float]] = [[] for _ in sides]
    for number in alternate(range(len(sides)), turns):
        begin = time.perf_counter()
        sides[number]()
        seconds[number].append(time.perf_counter() - begin)
    return [Times(seconds=one) for one in seconds]


def profile(work: Callable[[], object], *, of: str = "", lines: int = 12) -> str:
    """The functions that the time goes to: by their own time, or, where their file's path holds
    ``of``, by that of all they call."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    text = io.StringIO()
    stats = pstats.Stats(profiler, stream=text)
    if of:
        stats.sort_stats("cumtime").print_stats(of, lines)
    else:
        stats.strip_dirs().sort_stats("tottime").print_stats(lines)
    shown = text.getvalue().replace(f"{_PROJECT}/", "")
    return "\n".join(line.rstrip() for line in shown.splitlines() if line.strip())


def extra_bytes(work: Callable[[], object]) -> int:
    """How much this process' memory grows at most while it works (Linux).

    Memory that was freed earlier and is used again does not count: call it in a fresh process.
    """
    _CLEAR.write_text("5")  # the peak begins anew (proc(5), clear_refs)
    before = _memory("VmRSS")
    work()
    return _memory("VmHWM") - before


def _memory(name: str, status: Path = _STATUS) -> int:
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields[name].split()[0]) * 1024


# --- whole processes ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A command from its start to its end.

    printed: what it wrote to stdout
    holders: at the moment when all of them together held most, bytes by process, its children
             and theirs included
    """

    seconds: float
    printed: str
    holders: Mapping[str, int]

    @property
    def peak_bytes(self) -> int:
        return sum(self.holders.values())


def run_process(command: Sequence[str]) -> Finished:
    """Run a command; its tree of processes is looked at twice a second.

    Raises :class:`RuntimeError` with the end of what it said where it fails.
    """
    holders: dict[str, int] = {}
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as said:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed, stderr=said)
        while True:
            now = _tree_bytes(process.pid)
            holders = max(holders, now, key=lambda held: sum(held.values()))
            try:
                process.wait(_SAMPLE_S)
                break
            except subprocess.TimeoutExpired:
                continue
        seconds = time.perf_counter() - begin
        printed.seek(0)
        said.seek(0)
        if process.returncode != 0:
            end = "".join(said.readlines()[-15:])
            raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}:\n{end}")
        return Finished(seconds=seconds, printed=printed.read(), holders=holders)


def _tree_bytes(pid: int) -> dict[str, int]:
    """Proportional set size of a process and all below it: shared pages count once."""
    held: dict[str, int] = {}
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return held
    for one in tree:
        try:
            held[f"{one.pid} {_shown(one)}"] = one.memory_full_info().pss
        except psutil.Error:
            continue  # it ended meanwhile
    return held


def _shown(process: psutil.Process) -> str:
    """A process by its program and the last part of its first words."""
    words = [Path(word).name for word in " ".join(process.cmdline()).split()[:3]]
    return " ".join(words)[:60] or process.name()


# --- processes that tell when they begin --------------------------------------------------


@dataclass(kw_only=True, slots=True)
class Growth:
    """How much the anonymous memory of a process has grown at most."""

    bytes: int = 0


@contextmanager
def watched(*pids: int) -> Iterator[list[Growth]]:
    """The growth of each process from now on, looked at 200 times a second (Linux).

    Anonymous memory (RssAnon, proc(5)) is what a process holds itself: heap and stacks. Pages of
    files that it maps or that the kernel caches are not counted, as the kernel takes them back
    whenever it needs room. What is held for less than 5 ms can escape.
    """
    paths = [Path(f"/proc/{pid}/status") for pid in pids]
    before = [_memory("RssAnon", path) for path in paths]
    growth = [Growth() for _ in pids]
    done = threading.Event()

    def look() -> None:
        for path, start, most in zip(paths, before, growth, strict=True):
            try:
                most.bytes = max(most.bytes, _memory("RssAnon", path) - start)
            except (OSError, KeyError):
                continue  # it ended

    def watch() -> None:
        while not done.wait(_OFTEN_S):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield growth
    finally:
        done.set()
        thread.join()
        look()


def when_told() -> None:
    """In a process that :func:`begin_when_ready` started: everything is imported; go on."""
    print("ready", flush=True)
    sys.stdin.readline()


@contextmanager
def begin_when_ready(
    command: Sequence[str], *others: int
) -> Iterator[tuple["subprocess.Popen[str]", list[Growth]]]:
    """A process that calls :func:`when_told`, from there on, and its memory and that of others.

    Raises :class:`RuntimeError` where it ends before.
    """
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdin is None or process.stdout is None or process.stdout.readline() == "":
            raise RuntimeError(f"{' '.join(command)} ended before it was ready")
        try:
            with watched(process.pid, *others) as growth:
                process.stdin.write("\n")
                process.stdin.flush()
                yield process, growth
        finally:
            process.kill()
