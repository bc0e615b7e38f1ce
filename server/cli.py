"""``iodeep demo`` and ``iodeep run``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from federation.commands.output import print_json, print_table
from federation.config import Experiment, read_experiment
from federation.errors import ConfigError, IODeepError

Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value …, over the document's: rounds=5")
]
Out = Annotated[Path | None, typer.Option(help="The run's folder; a new one below runs/.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

DEMO_ROUNDS_WITH_DATA = 6


def register(cli: typer.Typer) -> None:
    """Add ``demo`` and ``run``."""
    cli.command()(demo)
    cli.command()(run)


def demo(
    data: Annotated[
        Path | None, typer.Option(help="A folder of labelled images; phantoms are made without.")
    ] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Four hospitals and an aggregator on this machine: a whole federation in minutes."""
    if data is None:
        experiment = read_experiment(configs() / "phantom.toml")
    else:
        from federation.samples.decathlon import read_manifest  # nibabel is slow to import

        sites = sorted({case.site for case in read_manifest(data)})
        overrides = [
            f"data={data}",
            f"rounds={DEMO_ROUNDS_WITH_DATA}",
            f"federation.sites={sites}",
            f"federation.quorum={max(1, len(sites) - 1)}",
        ]
        experiment = read_experiment(configs() / "hippocampus.toml", overrides)
    run_simulation(experiment, out, json)


def run(
    experiment: Annotated[Path, typer.Argument(help="An experiment's TOML document.")],
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a federated experiment from its document."""
    if resume and out is None:
        raise ConfigError("--resume needs the folder of the interrupted run: --out FOLDER")
    run_simulation(read_experiment(experiment, overrides or ()), out, json, resume=resume)


def configs() -> Path:
    """The folder of the experiments that come with the software."""
    home = Path(__file__).parent.parent
    for folder in (home / "federation" / "configs", home / "configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"no folder of configs is in {home}; install the software again")


def run_simulation(
    experiment: Experiment, out: Path | None, json: bool, *, resume: bool = False
) -> None:
    """Simulate an experiment, and print what came out of it on stdout."""
    from federation.fresh import new_branch  # torch is slow to import
    from server.report.picture import draw_run
    from server.report.progress import show_import
    from server.report.summary import RunMetrics
    from server.simulation import AGGREGATOR, Simulation

    folder = out or Path("runs") / new_branch(experiment.name)
    simulation = Simulation(experiment, folder, resume=resume)
    archive = f"folder:{simulation.archive(AGGREGATOR)}"
    try:
        with simulation:
            show_import(simulation.import_images(), simulation.cases_to_import())
            branch = simulation.branch()
            simulation.run(branch)
    except (IODeepError, KeyboardInterrupt):
        if (simulation.out / "metrics.jsonl").exists():
            typer.echo(
                f"The rounds finished so far are whole in every archive below {simulation.out}: "
                f"iodeep model history {experiment.line} {archive}\n"
                f"To go on: the same command with --resume --out {simulation.out}",
                err=True,
            )
        raise
    metrics = RunMetrics.read(simulation.out)
    sites = experiment.federation.sites
    previews = {site: simulation.site(site) / "work" / "preview.npz" for site in sites}
    picture = draw_run(metrics, experiment.model.labels, previews, simulation.out / "picture.png")
    last = metrics.last()
    result: dict[str, Any] = {
        "line": str(experiment.line),
        "branch": branch,
        "round": last["round"],
        "version": last["version"],
        "weights_digest": last["weights_digest"],
        "validation_dice_mean": last["validation_dice_mean"],
        "test_dice_mean": last["test_dice_mean"],
        "folder": str(simulation.out),
        "picture": str(picture),
        "archives": {name: f"folder:{simulation.archive(name)}" for name in (AGGREGATOR, *sites)},
    }
    if json:
        print_json(result)
        return
    print_table("Test Dice by round and site", metrics.dice_table())
    typer.echo(
        f"\n{result['line']}, branch {branch}: {last['version']}\n"
        f"picture: {picture}\n"
        f"folder:  {simulation.out}\n"
        f"look:    iodeep model history {result['line']} {archive}"
    )
