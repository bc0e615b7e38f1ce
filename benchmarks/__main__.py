"""``python -m benchmarks [--data FOLDER] [NAME …]`` measures, and writes docs/benchmarks.md."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.console import Console

from benchmarks import alone, codec, deployment, epoch, federation, large, pacs, reading
from benchmarks.table import Row, machine, page
from federation.quiet import keep_libraries_quiet

_PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_PHANTOM = "phantom"


def main() -> None:
    """Measure what was named, or everything, and write the page; a part of it is printed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--data", default=_PHANTOM, help="folder with a manifest.csv")
    parser.add_argument("--rounds", type=int, default=8, help="of each federation")
    parser.add_argument("--turns", type=int, default=3, help="of all federations")
    parser.add_argument("names", nargs="*", help="which of them; all by default")
    options = parser.parse_args()
    benchmarks: Mapping[str, Callable[[], Iterator[Row]]] = {
        "codec": codec.rows,
        "large": large.rows,
        "pacs": pacs.rows,
        "reading": reading.rows,
        "epoch": epoch.rows,
        "alone": alone.rows,
        "deployment": lambda: deployment.rows(options.data),
        "federation": lambda: federation.rows(options.data, options.rounds, options.turns),
    }
    if unknown := set(options.names) - benchmarks.keys():
        parser.error(f"no benchmark {min(unknown)!r}; there are {', '.join(benchmarks)}")
    keep_libraries_quiet()
    console = Console(stderr=True)
    data = _said(options.data)
    console.print(f"federations on {data}")
    before = machine()
    rows = []
    for name in options.names or benchmarks:
        with console.status(f"measuring: {name}"):
            for row in benchmarks[name]():
                rows.append(row)
                console.print(f"{row.outcome:8} {row.what}: {row.value:.3g} {row.unit}")
    text = page(rows, machine=before, data=data)
    if options.names:
        print(text)
    else:
        _PAGE.write_text(text, encoding="utf-8")
        print(_PAGE)


def _said(data: str) -> str:
    if data == _PHANTOM:
        return "built-in phantoms, as no data was given"
    return f"real images ({Path(data).name})"


if __name__ == "__main__":
    main()
