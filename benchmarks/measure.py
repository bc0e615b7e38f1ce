"""Time and memory of two ways to do one thing, in turns, and what a table says of them."""

import cProfile
import io
import pstats
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measurement against its bound: ``value`` shall be at most ``bound``.

    shown:   the measured sides in words, units included
    profile: where the time goes, where the bound is not met
    """

    what: str
    value: float
    bound: float
    unit: str
    shown: str
    profile: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.bound


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds of each turn of one side."""

    seconds: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        low, high = min(self.seconds), max(self.seconds)
        scale, unit = (1000, "ms") if self.median < 1 else (1, "s")
        return (
            f"{self.median * scale:.3g} {unit} ({low * scale:.3g} to {high * scale:.3g}, "
            f"{len(self.seconds)} turns)"
        )


def in_turns(*sides: Callable[[], object], turns: int) -> list[Times]:
    """Each side once to warm up, then all of them in turn, so that noise meets all alike."""
    for side in sides:
        side()
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(turns):
        for number in range(len(sides)):
            chosen = (number + turn) % len(sides)
            begin = time.perf_counter()
            sides[chosen]()
            seconds[chosen].append(time.perf_counter() - begin)
    return [Times(seconds=one) for one in seconds]


def profile(work: Callable[[], object], lines: int = 12) -> str:
    """The functions that most of the time goes to, themselves included."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(lines)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines() if line.strip())


def extra_bytes(work: Callable[[], object]) -> int:
    """How much the process' memory grows at most while it works (Linux)."""
    _CLEAR.write_text("5")  # the peak begins anew (proc(5), clear_refs)
    before = _memory("VmRSS")
    work()
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(fields[name].split()[0]) * 1024
