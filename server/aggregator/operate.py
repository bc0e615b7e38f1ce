"""`iodeep server serve`, `status`, `census` and `offer`: the aggregator at work."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from federation.commands.arguments import Json, LineArgument
from federation.commands.output import print_json, print_table
from federation.config import Experiment, read_experiment
from federation.errors import ConfigError, FlowerError
from federation.iodeep.labels import Line
from federation.pacs import open_gateway
from federation.registry import Registry, new_branch
from federation.releases import released
from server.aggregator.home import Home
from server.aggregator.sites import Seen

Folder = Annotated[Path, typer.Argument(help="The aggregator's folder.")]

_MEMORY = "75%"
"""Of the machine's, for SuperLink, nginx and runs together: a model is held a few times over, so
what they need follows from the machine that was chosen for them, and the rest keeps it usable."""


def serve(
    folder: Folder,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Print a unit of systemd that runs this, and end.")
    ] = False,
    json: Json = False,
) -> None:
    """Run the aggregator until Ctrl-C or SIGTERM: Flower's SuperLink on loopback, nginx before it.

    Approved sites are let in, also those that are approved meanwhile. Prints the address when sites
    can connect.
    """
    from federation.interrupt import until_asked_to_end
    from federation.systemd import unit
    from server.aggregator.serve import serve as serve_home

    home = Home(folder)
    document = home.document
    if systemd:
        words = ("server", "serve", str(folder.resolve()))
        description = f"IODeep aggregator {document.name}"
        typer.echo(unit(description, words, folder=folder, memory=_MEMORY), nl=False)
        return

    def tell(address: str) -> None:
        if json:
            print_json({"address": address})
        else:
            typer.echo(f"sites can connect to {address}")
        sys.stdout.flush()

    with until_asked_to_end() as is_to_end:
        serve_home(home, is_to_end, tell)


def status(folder: Folder, json: Json = False) -> None:
    """Say which runs there are and how far they are, and which sites are connected."""
    from server.aggregator.control import Control
    from server.aggregator.membership import approved, seen
    from server.aggregator.sites import site_facts
    from server.aggregator.storage import storage_warnings

    home = Home(folder)
    warnings = storage_warnings(home)
    for text in warnings:
        typer.echo(text, err=True)
    with Control(home) as control:
        there = seen(control)
        runs: list[dict[str, Any]] = []
        for run in control.runs():  # the newest first: what was gone on with has its progress
            is_newest = run.branch not in {other["run"] for other in runs}
            runs.append(_run_facts(home, run, has_progress=is_newest))
    sites = [site_facts(record, there) for record in approved(home).values()]
    if json:
        print_json({"sites": sites, "runs": runs, "warnings": warnings})
        return
    columns = ("name", "online", "last_seen", "software")
    print_table("Sites", [{c.replace("_", " "): one[c] for c in columns} for one in sites])
    typer.echo()
    print_table(
        "Runs",
        [
            {c: run[c] for c in ("run", "work", "state", "round", "test", "sites", "detail")}
            for run in runs
        ],
    )


def census(
    folder: Folder,
    experiment: Annotated[Path, typer.Argument(help="An experiment's TOML document.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value …, over the document's.")
    ] = None,
    json: Json = False,
) -> None:
    """Ask the sites of an experiment how many labelled studies they have for it.

    Each tells no number below its own threshold. Ends with 1 where none could begin a training.
    """
    from server.questions import Census
    from server.report.questions import census_table

    plan = read_experiment(experiment, overrides or ())
    home = Home(folder)
    found = Census.read(_asked(home, plan.name, plan, work="census"))
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        print_table(f"{plan.name}: {found.line}", census_table(found))
    if not any(count.no_answer is None and not count.problem for count in found.sites.values()):
        raise typer.Exit(1)


def offer(folder: Folder, line: LineArgument, json: Json = False) -> None:
    """Offer the released version of a line to the sites; their policy accepts it, or does not.

    Ends with 1 where no site accepts it.
    """
    from server.aggregator.membership import approved
    from server.offers import Offer
    from server.report.questions import offer_table

    home = Home(folder)
    named = str(Line.parse(line))
    with open_gateway(home.document.archive) as gateway:
        released(Registry(gateway), Line.parse(line))
    sites = ",".join(sorted(approved(home)))
    found = Offer.read(_asked(home, "offer", None, work="offer", line=named, sites=sites))
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        print_table(f"{found.line}: {found.version.uid}", offer_table(found))
    if not any(answer.accepted for answer in found.sites.values()):
        raise typer.Exit(1)


def stop(
    folder: Folder,
    branch: Annotated[
        str, typer.Argument(metavar="RUN", help="As `iodeep server status` names it.")
    ],
) -> None:
    """End a run; its finished rounds stay, and it can be gone on with."""
    from server.aggregator.control import Control
    from server.aggregator.runs import find

    home = Home(folder)
    with Control(home) as control:
        number = find(home, branch).number
        (run,) = control.runs(number)
        if run.is_finished:
            raise ConfigError(f"run {branch} has ended already ({run.state})")
        control.stop(number)
    typer.echo(f"{branch} is ended")


def _asked(home: Home, name: str, experiment: Experiment | None, **config: str) -> Path:
    """The folder of a run that has asked the sites something, when it has."""
    from server.aggregator.control import Control
    from server.aggregator.membership import check_approved
    from server.aggregator.runs import check_completed, follow, start

    if experiment is not None:
        check_approved(home, experiment)
        config["experiment"] = experiment.model_dump_json()
    with Control(home) as control:
        started = start(home, control, new_branch(name), **config)
        for run in follow(control, started):
            if run.is_finished:
                check_completed(run, started)
    return started.folder


def seen_or_unknown(home: Home) -> Mapping[str, Seen] | None:
    """When each site was last there; None where the SuperLink does not run."""
    from server.aggregator.control import Control
    from server.aggregator.membership import seen

    with Control(home) as control:
        try:
            return seen(control)
        except FlowerError:
            return None


def _run_facts(home: Home, run: Any, *, has_progress: bool) -> dict[str, Any]:
    """A run as the SuperLink knows it, with what its folder says of its rounds."""
    from server.report.summary import RunMetrics

    facts = {
        "run": run.branch,
        "work": run.work,
        "state": run.state,
        "detail": run.detail,
        "bytes_to_sites": run.sent,
        "bytes_from_sites": run.received,
        "round": None,
        "test": None,
        "sites": None,
    }
    if not has_progress:
        return facts
    try:
        metrics = RunMetrics.read(home.runs / run.branch)
    except ConfigError:
        return facts
    last = metrics.last()
    return facts | {
        "round": last["round"],
        "test": metrics.score(last, "test"),
        "sites": " ".join(metrics.sites),
    }
