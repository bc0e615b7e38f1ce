"""``iodeep demo``, ``iodeep run`` and ``iodeep compare``."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from federation.commands.output import print_json, print_table
from federation.config import Experiment, read_experiment
from federation.errors import ConfigError, IODeepError
from federation.iodeep.architecture import NETWORK_OF_LAYERS
from federation.iodeep.manifest import AGGREGATOR
from federation.task import TASKS

Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value …, over the document's: rounds=5")
]
Out = Annotated[Path | None, typer.Option(help="The run's folder; a new one below runs/.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

DEMO_ROUNDS_WITH_DATA = 6


def register(cli: typer.Typer) -> None:
    """Add ``demo``, ``run`` and ``compare``."""
    cli.command()(demo)
    cli.command()(run)
    cli.command()(compare)


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
    experiment: Annotated[
        Path | None, typer.Argument(help="An experiment's TOML document.")
    ] = None,
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Say what the run would need, and start nothing.")
    ] = False,
    aggregator: Annotated[
        Path | None,
        typer.Option(
            envvar="IODEEP_AGGREGATOR",
            help="The aggregator's folder, of a run with federation.mode=deployment.",
        ),
    ] = None,
    attach: Annotated[
        str | None, typer.Option(metavar="RUN", help="Follow a deployed run that was begun.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Begin a deployed run, and do not follow it.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a federated experiment from its document: simulated, or among hospitals."""
    if attach is not None:
        run_deployed(aggregator, None, json, attach=attach)
        return
    if experiment is None:
        raise typer.BadParameter("an experiment's document is missing")
    plan = read_experiment(experiment, overrides or ())
    if check:
        _print_check(plan, json)
        return
    if resume and out is None:
        raise ConfigError("--resume needs the folder of the interrupted run: --out FOLDER")
    if plan.federation.mode == "deployment":
        if out is not None and not resume:
            raise ConfigError(
                "a deployed run's folder is below runs/ of the aggregator's; --out is for --resume"
            )
        run_deployed(aggregator, plan, json, resume=out, detach=detach)
        return
    run_simulation(plan, out, json, resume=resume)


def _print_check(experiment: Experiment, json: bool) -> None:
    """Say what a run would need; nothing is started, and nothing is written."""
    from server.check import foresee

    check_trainable(experiment)
    forecast = foresee(experiment)
    if json:
        print_json(asdict(forecast))
        return
    print_table(forecast.title(), forecast.table())
    typer.echo()
    for remark in forecast.remarks():
        typer.echo(remark)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; the first is the measure.")],
    json: Json = False,
) -> None:
    """Runs side by side: configurations, Dice or AUC, time, and whether weights are the same."""
    from server.report.compare import compare as compare_runs

    compared = compare_runs(runs)
    if json:
        print_json(asdict(compared))
        return
    print_table("The last round", compared.result_table())
    typer.echo()
    if compared.differences:
        print_table("What differs in the configurations", compared.difference_table())
    else:
        typer.echo("The configurations are the same.")


def configs() -> Path:
    """The folder of the experiments that come with the software."""
    home = Path(__file__).parent.parent
    for folder in (home / "federation" / "configs", home / "configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"no folder of configs is in {home}; install the software again")


def check_trainable(experiment: Experiment) -> None:
    """Whether a federation can train the network. Raises :class:`ConfigError`."""
    if experiment.model.architecture.network == NETWORK_OF_LAYERS:
        raise ConfigError(
            f"a federation trains networks that take volumes, and {NETWORK_OF_LAYERS} takes none; "
            "choose one of MONAI's. It can be stored: iodeep model pack"
        )


def run_simulation(
    experiment: Experiment, out: Path | None, json: bool, *, resume: bool = False
) -> None:
    """Simulate an experiment, and print what came out of it on stdout."""
    from federation.registry import new_branch
    from server.start import pinned

    check_trainable(experiment)
    experiment = pinned(experiment)
    branch = new_branch(experiment.name)
    folder = out or Path("runs") / branch
    if experiment.strategy.name != "local":
        result = _simulate(experiment, folder, branch, resume=resume)
        if json:
            print_json(result)
        else:
            _print_result(result)
        return
    results = {
        site: _simulate(alone, folder / site, branch, resume=resume and (folder / site).exists())
        for site, alone in experiment.alone().items()
    }
    if json:
        print_json(results)
    else:
        headline = TASKS[experiment.model.task].headline
        columns = ("round", f"validation_{headline}", f"test_{headline}", "folder")
        rows = [
            {"site": site} | {c: result[c] for c in columns} for site, result in results.items()
        ]
        print_table("Each site alone", rows)


def run_deployed(
    aggregator: Path | None,
    experiment: Experiment | None,
    json: bool,
    *,
    attach: str = "",
    resume: Path | None = None,
    detach: bool = False,
) -> None:
    """Begin a run among hospitals, or find one that was begun; follow it, and print what came out.

    Ctrl-C ends the following, not the run.
    """
    from server.aggregator.deployed import begin, watch
    from server.aggregator.home import Home
    from server.aggregator.runs import find

    if aggregator is None:
        raise ConfigError(
            "a deployed run needs the aggregator's folder: --aggregator FOLDER, on its machine"
        )
    home = Home(aggregator)
    if experiment is None:
        started = find(home, attach)
    else:
        check_trainable(experiment)
        started = begin(home, experiment, resume=resume)
    branch = started.folder.name
    how = f"iodeep run --attach {branch} --aggregator {aggregator}"
    if detach:
        print_json({"run": branch}) if json else typer.echo(f"{branch} runs; to follow it: {how}")
        return
    typer.echo(f"{branch} runs", err=True)
    try:
        watch(home, started, lambda line: typer.echo(line, err=True))
    except KeyboardInterrupt:
        typer.echo(f"{branch} goes on; to follow it again: {how}", err=True)
        raise
    plan = read_experiment(started.folder / "config.toml")
    result = _conclude(plan, started.folder, branch, {AGGREGATOR: home.document.archive})
    if json:
        print_json(result)
    else:
        _print_result(result)


def _simulate(experiment: Experiment, folder: Path, branch: str, *, resume: bool) -> dict[str, Any]:
    """One federation, from its images to its report; returns what there is to say of it.

    branch: where its versions are written, unless it goes on with one
    """
    from server.report.progress import show_import
    from server.simulation import Simulation

    simulation = Simulation(experiment, folder, resume=resume)
    archives = {name: simulation.archive(name) for name in (AGGREGATOR, *experiment.roster)}
    try:
        with simulation:
            show_import(simulation.import_images(), simulation.cases_to_import())
            branch = simulation.branch(new=branch)
            simulation.run(branch)
    except (IODeepError, KeyboardInterrupt):
        if (folder / "metrics.jsonl").exists():
            typer.echo(
                f"The rounds finished so far are whole in every archive of {folder}: "
                f"iodeep model history {experiment.line} {archives[AGGREGATOR]}\n"
                f"To go on: the same command with --resume and its --out",
                err=True,
            )
        raise
    return _conclude(experiment, folder, branch, archives)


def _conclude(
    experiment: Experiment, folder: Path, branch: str, archives: Mapping[str, str]
) -> dict[str, Any]:
    """Draw and report what a run's folder holds; returns what there is to say of it."""
    from server.report.html import write_report
    from server.report.picture import draw_run
    from server.report.summary import RunMetrics

    picture, report = draw_run(folder), write_report(folder)
    metrics = RunMetrics.read(folder)
    last, headline = metrics.last(), metrics.task.headline
    return {
        "line": str(experiment.line),
        "branch": branch,
        "round": last["round"],
        "version": last["version"],
        "weights_digest": last["weights_digest"],
        f"validation_{headline}": last[f"validation_{headline}"],
        f"test_{headline}": last[f"test_{headline}"],
        "folder": str(folder),
        "picture": str(picture),
        "report": str(report),
        "archives": dict(archives),
    }


def _print_result(result: dict[str, Any]) -> None:
    from server.report.summary import RunMetrics

    metrics = RunMetrics.read(Path(result["folder"]))
    print_table(f"Test {metrics.task.word} by round and site", metrics.score_table())
    archive = next(iter(result["archives"].values()))
    typer.echo(
        f"\n{result['line']}, branch {result['branch']}: {result['version']}\n"
        f"report:  {result['report']}\n"
        f"picture: {result['picture']}\n"
        f"folder:  {result['folder']}\n"
        f"look:    iodeep model history {result['line']} {archive}"
    )
