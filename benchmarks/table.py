"""Measurements against their bounds, and the page that says what was met."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path

_LIBRARIES = ("torch", "monai", "flwr", "ray", "pydicom", "pynetdicom", "safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measurement against its bound: ``value`` shall be at most ``bound``.

    shown:   the measured sides in words, with their spread
    profile: where the time or memory goes, where the bound is not met
    """

    what: str
    value: float
    bound: float
    unit: str = "x"
    shown: str
    profile: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.bound

    @property
    def outcome(self) -> str:
        return "met" if self.met else "not met"

    def explained(self, profile: Callable[[], str]) -> "Row":
        """With the profile that is taken now, where the bound is not met."""
        return self if self.met else replace(self, profile=profile())


def page(rows: Sequence[Row], *, machine: str, data: str) -> str:
    """The measurements in Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make benchmarks DATA=FOLDER`, every number measured. All sides of a ratio are",
        "measured in turns, in one run on one machine; a ratio is the median over the turns, and",
        "met where it is at most its bound.",
        "",
        f"- Machine: {machine}",
        f"- Federations on: {data}",
        "",
        "| what | value | bound | | measured |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.what} | {row.value:.3g} {row.unit} | {row.bound:g} {row.unit} | {row.outcome} "
        f"| {row.shown} |"
        for row in rows
    ]
    for row in rows:
        if row.profile:
            lines += ["", f"What holds back *{row.what}*:", "", "```", row.profile, "```"]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Processor, cores, versions, and how busy it was before anything began."""
    installed = {found.name: found.version for found in distributions()}
    versions = ", ".join(f"{name} {installed[name]}" for name in _LIBRARIES if name in installed)
    cores = len(os.sched_getaffinity(0))
    busy = os.getloadavg()[1]
    return (
        f"{_processor()}, {cores} cores, {platform.system()} {platform.machine()}, load average "
        f"{busy:.1f} before the start; Python {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    """The model of the first core (Linux), or what Python knows."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
