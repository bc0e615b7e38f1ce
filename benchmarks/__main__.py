"""``python -m benchmarks [--data FOLDER] [NAME …]`` measures, and writes docs/benchmarks.md."""

import argparse
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from benchmarks import codec, epoch, federation
from benchmarks.measure import Row

_TABLE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_LIBRARIES = ("torch", "monai", "flwr", "pydicom", "pynetdicom", "safetensors")


def main() -> None:
    """Measure what was named, or everything, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--data", default="phantom", help="folder with a manifest.csv")
    parser.add_argument("names", nargs="*", help="codec, epoch, federation; all by default")
    options = parser.parse_args()
    benchmarks: Mapping[str, Callable[[], Iterator[Row]]] = {
        "codec": codec.rows,
        "epoch": epoch.rows,
        "federation": lambda: federation.rows(options.data),
    }
    if unknown := set(options.names) - benchmarks.keys():
        parser.error(f"no benchmark {min(unknown)!r}; there are {', '.join(benchmarks)}")
    console = Console(stderr=True)
    rows = []
    for name in options.names or benchmarks:
        with console.status(f"measuring: {name}"):
            for row in benchmarks[name]():
                rows.append(row)
                console.print(f"{_outcome(row):8} {row.what}: {row.value:.3g} {row.unit}")
    text = table(rows, data="phantoms" if options.data == "phantom" else "hippocampus MR")
    if options.names:
        print(text)
    else:
        _TABLE.write_text(text, encoding="utf-8")
        print(_TABLE)


def table(rows: Sequence[Row], *, data: str) -> str:
    """The measurements in Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# Benchmarks",
        "",
        "Written by `make benchmarks DATA=FOLDER`. Both sides of a ratio are measured in turns, in",
        "the same run on the same machine; a value is met where it is at most its bound.",
        "",
        f"{cores} cores ({platform.machine()}), Python {platform.python_version()}, {versions}; "
        f"federations on {data}.",
        "",
        "| what | value | bound | | measured |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.what} | {row.value:.3g} {row.unit} | {row.bound:g} {row.unit} | {_outcome(row)} "
        f"| {row.shown} |"
        for row in rows
    ]
    for row in rows:
        if row.profile:
            lines += ["", f"What holds back *{row.what}*:", "", "```", row.profile, "```"]
    return "\n".join(lines) + "\n"


def _outcome(row: Row) -> str:
    return "met" if row.met else "not met"


if __name__ == "__main__":
    main()
