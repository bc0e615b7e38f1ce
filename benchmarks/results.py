"""``python -m benchmarks.results DATA``: what a federation is worth, into docs/results.md.

Federated, centralised and local training with the same recipe, code and number of steps, for
three seeds. Runs are kept and taken up again, so the command may be interrupted.
"""

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from federation.config import read_experiment
from server.cli import configs
from server.report.summary import RunMetrics

_TABLE = Path(__file__).parents[1] / "docs" / "results.md"
_CONFIG = configs() / "hippocampus.toml"
_SEEDS = (1, 2, 3)
_STRATEGIES = ("fedavg", "centralised", "local")
_AT_ONCE = 2  # runs, each within one process


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Test Dice of one seed: over all cases by strategy, and of each site, federated and alone."""

    seed: int
    mean: Mapping[str, float]
    federated: Mapping[str, float]
    alone: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """A site's fine-tuning: Dice before and after, of the best epoch by validation."""

    site: str
    before: float
    after: float
    validation: tuple[float, float]
    better: int
    cases: int
    best: int
    is_stored: bool


def main(data: str, out: str = "runs/results") -> None:
    """Run what is not finished, two at a time, and write the table."""
    console = Console(stderr=True)
    jobs = [(seed, strategy) for seed in _SEEDS for strategy in _STRATEGIES]

    def run(job: tuple[int, str]) -> None:
        seed, strategy = job
        console.print(f"seed {seed}, {strategy}: begins")
        _run(data, Path(out, str(seed), strategy), seed, strategy)
        console.print(f"seed {seed}, {strategy}: done")

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(run, jobs))
    sites = read_experiment(_CONFIG).roster
    results = [read_results(Path(out, str(seed)), seed, sites) for seed in _SEEDS]
    tuned = [_finetune(Path(out, str(_SEEDS[0]), "fedavg"), site) for site in sites]
    _TABLE.write_text(table(results) + finetuning_table(tuned, results), encoding="utf-8")
    print(_TABLE)


def _run(data: str, folder: Path, seed: int, strategy: str) -> None:
    words = [
        "run", str(_CONFIG), f"data={data}", f"seed={seed}", f"strategy.name={strategy}",
        "simulation.workers=1", "--out", str(folder), "--json",
    ]  # fmt: skip
    if (folder / "archives").is_dir() or (strategy == "local" and folder.exists()):
        words.append("--resume")
    code = "from federation.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"seed {seed}, {strategy}: {done.stderr.strip().splitlines()[-1]}")


def _finetune(run: Path, site: str) -> Tuned:
    """What a site makes of the last version of a federated run, out of its own archive."""
    document = run / "sites" / site / "alone.toml"
    written = (run / "sites" / site / "site.toml").read_text(encoding="utf-8")
    archive = (run / "archives" / site).resolve()
    document.write_text(
        re.sub(r'^images = ".*"$', f'images = "folder:{archive}"', written, flags=re.M),
        encoding="utf-8",
    )
    line = str(read_experiment(_CONFIG).line)
    branch = (run / "branch").read_text(encoding="utf-8")
    code = "from federation.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "site", "finetune", str(document), line, "--json",
         "--version", branch],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"fine-tuning at {site}: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout)
    return Tuned(
        site=site,
        before=found["before"]["test_dice_mean"],
        after=found["after"]["test_dice_mean"],
        validation=(
            found["before"]["validation_dice_mean"], found["after"]["validation_dice_mean"],
        ),
        better=sum(one["after"] > one["before"] for one in found["test_cases"]),
        cases=len(found["test_cases"]),
        best=max(found["epochs"], key=lambda epoch: epoch["validation"])["number"],
        is_stored=found["version"] is not None,
    )  # fmt: skip


def finetuning_table(tuned: Sequence[Tuned], results: Sequence[Results]) -> str:
    """What fine-tuning the federated model at each site does to its Dice, as Markdown.

    How much a site's Dice differs between seeds says which gains are more than chance.
    """
    lines = [
        "",
        "## Fine-tuned at a site",
        "",
        f"The federated model of seed {_SEEDS[0]}, fine-tuned by each site alone on its own",
        "training cases (`iodeep site finetune`, with its defaults). A version is stored where",
        "validation is better.",
        "",
        "| site | validation Dice | test Dice | gain | test cases better | best epoch | stored |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in tuned:
        before, after = one.validation
        lines.append(
            f"| {one.site} | {before:.4f} to {after:.4f} | {one.before:.4f} to {one.after:.4f} | "
            f"{one.after - one.before:+.4f} | {one.better} of {one.cases} | {one.best} | "
            f"{'yes' if one.is_stored else 'no'} |"
        )
    spread = max(
        max(one.federated[site] for one in results) - min(one.federated[site] for one in results)
        for site in results[0].federated
    )
    gains = [one.after - one.before for one in tuned]
    better, worse = (sum(sign * gain > spread for gain in gains) for sign in (1, -1))
    lines += [
        "",
        f"The federated Dice of a site differs by up to {spread:.4f} between the seeds above. By "
        "more than that,",
        f"fine-tuning improves test Dice at {better} of {len(tuned)} sites, and lowers it at "
        f"{worse}.",
    ]
    return "\n".join(lines) + "\n"


def read_results(folder: Path, seed: int, sites: Sequence[str]) -> Results:
    """The last rounds of the runs below ``folder``."""
    federated = RunMetrics.read(folder / "fedavg")
    alone = {site: RunMetrics.read(folder / "local" / site).last() for site in sites}
    cases = {site: line["test_cases"] for site, line in alone.items()}
    return Results(
        seed=seed,
        mean={
            "fedavg": federated.last()["test_dice_mean"],
            "centralised": RunMetrics.read(folder / "centralised").last()["test_dice_mean"],
            "local": sum(alone[site]["test_dice_mean"] * cases[site] for site in sites)
            / sum(cases.values()),
        },
        federated={site: federated.of_site(site)[-1]["test_dice_mean"] for site in sites},
        alone={site: alone[site]["test_dice_mean"] for site in sites},
    )


def table(results: Sequence[Results]) -> str:
    """The results in Markdown; a site that gains nothing by taking part is said."""
    sites = list(results[0].federated)
    lines = [
        "# Results",
        "",
        "Hippocampus MR, four hospitals, `configs/hippocampus.toml`; mean test Dice over both",
        "labels after the last round. Written by `python -m benchmarks.results FOLDER`. The recipe",
        "was chosen on validation cases; test is reported, never used.",
        "",
        "| seed | federated | centralised | federated / centralised | local |",
        "|---|---|---|---|---|",
    ]
    for one in results:
        fed, pooled, local = (one.mean[strategy] for strategy in _STRATEGIES)
        ratio = fed / pooled
        lines.append(f"| {one.seed} | {fed:.4f} | {pooled:.4f} | {ratio:.4f} | {local:.4f} |")
    means = [statistics.mean(one.mean[strategy] for one in results) for strategy in _STRATEGIES]
    lines.append(
        f"| mean | {means[0]:.4f} | {means[1]:.4f} | {means[0] / means[1]:.4f} | {means[2]:.4f} |"
    )
    lines += [
        "",
        "Each site's test Dice, federated and (alone):",
        "",
        f"| seed | {' | '.join(sites)} | sites that gain |",
        f"|---|{'---|' * len(sites)}---|",
    ]
    for one in results:
        cells = [f"{one.federated[site]:.4f} ({one.alone[site]:.4f})" for site in sites]
        gaining = sum(one.federated[site] > one.alone[site] for site in sites)
        lines.append(f"| {one.seed} | {' | '.join(cells)} | {gaining} of {len(sites)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
