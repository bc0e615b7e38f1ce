"""``iodeep model export``: a version as a file for other software."""

from pathlib import Path
from typing import Annotated

import typer

from federation.commands.arguments import (
    BranchOption,
    Json,
    LineArgument,
    Pacs,
    Signers,
    trust_of,
)
from federation.commands.output import print_json
from federation.commands.progress import open_archive
from federation.exports import export_original, export_weights
from federation.iodeep.labels import Line
from federation.naming import newest_branch, version_of
from federation.registry import Registry

_SUFFIXES = {False: ".safetensors", True: ".dcm"}


def export(
    line: LineArgument,
    pacs: Pacs,
    file: Annotated[Path, typer.Argument(help="FILE.safetensors; with --original, FILE.dcm.")],
    branch: BranchOption = None,
    round: Annotated[int | None, typer.Option(help="The round; the latest without it.")] = None,
    original: Annotated[
        bool, typer.Option("--original", help="As the original IODeep code writes an object.")
    ] = False,
    signer: Signers = None,
    json: Json = False,
) -> None:
    """Write a version's weights to a file, or the version as an object of the original IODeep."""
    if file.suffix != _SUFFIXES[original]:
        raise typer.BadParameter(f"the file's name must end in {_SUFFIXES[original]}")
    with open_archive(pacs) as gateway:
        registry = Registry(gateway, trust=trust_of(signer))
        parsed = Line.parse(line)
        version = version_of(registry, parsed, branch or newest_branch(registry, parsed), round)
        with registry.pull(version) as record:
            (export_original if original else export_weights)(record, file)
    if json:
        print_json({"version": version.uid, "round": version.round, "file": str(file)})
    else:
        typer.echo(f"{version.line}, branch {version.branch}, round {version.round}: {file}")
