"""``iodeep model``: what lies in an archive, and whether it is whole."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from federation.commands.arguments import (
    BranchOption,
    Json,
    LineArgument,
    NewBranch,
    Pacs,
    Signers,
    trust_of,
)
from federation.commands.diff import diff
from federation.commands.export import export
from federation.commands.graph import print_graph
from federation.commands.output import print_json, print_table, short
from federation.commands.progress import open_archive
from federation.commands.release import promote, released, rollback
from federation.commands.select import select_model
from federation.config import read_experiment
from federation.errors import RegistryError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import VersionManifest
from federation.iodeep.signature import SigningKey
from federation.naming import newest_branch
from federation.registry import Registry
from federation.task import TASKS


def register(cli: typer.Typer) -> None:
    """Add the group ``model``."""
    group = typer.Typer(help="Models in an archive.", no_args_is_help=True)
    for command in (
        pack,
        list_lines,
        show,
        history,
        diff,
        verify,
        promote,
        rollback,
        released,
        select_model,
        export,
    ):
        group.command(command.__name__.removesuffix("_lines").removesuffix("_model"))(command)
    cli.add_typer(group, name="model")


def pack(
    experiment: Annotated[Path, typer.Argument(help="An experiment's TOML document.")],
    pacs: Pacs,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value …")] = None,
    branch: NewBranch = "main",
    weights: Annotated[
        Path | None,
        typer.Option(help="A checkpoint: .safetensors, or a state dict of torch.save."),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The private key that signs.")] = None,
    json: Json = False,
) -> None:
    """Store a network as round 0 of a branch: untrained, or with the weights of a checkpoint."""
    from federation.fresh import fresh_version  # torch is slow to import
    from federation.networks.checkpoint import read_checkpoint

    document = read_experiment(experiment, overrides or ())
    signer = SigningKey.read(key) if key else None
    with tempfile.TemporaryDirectory(prefix="iodeep-") as scratch:
        tensors = read_checkpoint(weights, Path(scratch)) if weights else None
        manifest, parts = fresh_version(document, branch, tensors)
        with open_archive(pacs) as gateway:
            published = Registry(gateway, signer=signer).publish(manifest, parts)
    if json:
        print_json({**_described(manifest), "instances_stored": published.stored})
    else:
        typer.echo(
            f"{manifest.line}, branch {branch}, round 0: {manifest.uid} "
            f"({manifest.weights.parameters:,} parameters, {published.stored} instances stored)"
        )


def list_lines(pacs: Pacs, json: Json = False) -> None:
    """List lines and branches with their latest complete version."""
    rows = []
    with open_archive(pacs) as gateway:
        registry = Registry(gateway)
        for branch in registry.branches():
            versions = registry.versions(branch.line, branch.name)
            rows.append(
                {
                    "line": str(branch.line),
                    "branch": branch.name,
                    "begun": branch.date,
                    "versions": len(versions),
                    "latest_round": versions[-1].round if versions else None,
                    "latest": versions[-1].uid if versions else None,
                }
            )
    if json:
        print_json(rows)
    else:
        print_table("", rows)


def show(line: LineArgument, pacs: Pacs, branch: BranchOption = None, json: Json = False) -> None:
    """Show the latest version of a branch: network, labels, lineage."""
    with open_archive(pacs) as gateway:
        registry = Registry(gateway)
        parsed = Line.parse(line)
        latest = registry.latest(parsed, branch or newest_branch(registry, parsed))
    if json:
        print_json(_described(latest) | {"manifest": latest.model_dump(mode="json")})
        return
    facts = _described(latest)
    facts["task"] = latest.task
    facts["network"] = latest.architecture.network
    facts["region"] = latest.line.region
    facts["disease"] = latest.line.disease
    facts["outputs"] = ", ".join(f"{label.number} {label.name}" for label in latest.outputs)
    facts["sites"] = ", ".join(f"{r.site} ({r.examples})" for r in latest.lineage.receipts) or "-"
    print_table("", [{"": key, "value": value} for key, value in facts.items()])


def history(
    line: LineArgument,
    pacs: Pacs,
    branch: BranchOption = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="All branches and releases of the line, as a graph.")
    ] = False,
    signer: Signers = None,
    json: Json = False,
) -> None:
    """Rounds of a branch: parents, digests, Dice or AUC. Reads manifests only, never weights."""
    if graph and branch:
        raise typer.BadParameter("--graph shows all branches; leave out --branch")
    if signer and not graph:
        raise typer.BadParameter("--signer says whose releases count: give it with --graph")
    with open_archive(pacs) as gateway:
        registry = Registry(gateway, trust=trust_of(signer))
        parsed = Line.parse(line)
        if graph:
            print_graph(registry, parsed, json=json)
            return
        name = branch or newest_branch(registry, parsed)
        versions = registry.versions(parsed, name)
        evaluations = registry.evaluations(parsed, name)
    metrics: dict[str, dict[str, float]] = {}
    for evaluation in evaluations:
        metrics.setdefault(evaluation.of.uid, {}).update(evaluation.measured.metrics)
    rows = [_described(version) | metrics.get(version.uid, {}) for version in versions]
    if json:
        print_json(rows)
        return
    task = TASKS[versions[-1].task if versions else "segmentation"]
    print_table(
        f"{line}, branch {name}",
        [
            {
                "round": row["round"],
                "version": short(row["version"]),
                "parent": short(row["parent"]),
                "weights": row["weights_digest"][:12],
                "sites": row["sites"],
                **{
                    f"{part} {task.word}": row.get(f"{part}_{task.headline}")
                    for part in ("validation", "test")
                },
            }
            for row in rows
        ],
    )


def verify(
    line: LineArgument,
    pacs: Pacs,
    branch: BranchOption = None,
    signer: Signers = None,
    json: Json = False,
) -> None:
    """Fetch every record of a line (or one branch) and recompute every digest and link."""
    outcomes = []
    with open_archive(pacs) as gateway:
        registry = Registry(gateway, trust=trust_of(signer))
        parsed = Line.parse(line)
        names = [branch] if branch else [found.name for found in registry.branches(parsed)]
        for name in names:
            outcomes += list(registry.verify(parsed, name))
    if not outcomes:
        raise RegistryError(
            f"nothing of line {line} is in {pacs}; `iodeep model list` shows what is"
        )
    damaged = [outcome for outcome in outcomes if outcome.problem]
    rows: list[dict[str, Any]] = [
        {
            "branch": outcome.branch,
            "round": outcome.round,
            "kind": outcome.kind,
            "uid": outcome.uid,
            "ok": outcome.problem is None,
            "problem": outcome.problem or "",
        }
        for outcome in outcomes
    ]
    if json:
        print_json(rows)
    else:
        print_table("", rows)
    if damaged:
        named = "; ".join(
            f"{outcome.kind} {outcome.uid} (branch {outcome.branch}, round {outcome.round}): "
            f"{outcome.problem}"
            for outcome in damaged
        )
        raise RegistryError(f"{len(damaged)} of {len(outcomes)} records are damaged: {named}")


def _described(version: VersionManifest) -> dict[str, Any]:
    return {
        "line": str(version.line),
        "branch": version.branch,
        "round": version.round,
        "version": version.uid,
        "digest": version.digest,
        "parent": version.lineage.parent.uid if version.lineage.parent else None,
        "weights_digest": version.weights.digest,
        "parameters": version.weights.parameters,
        "sites": len(version.lineage.receipts),
    }
