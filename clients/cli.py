"""`iodeep site`: what a hospital's administrator does."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from federation.commands.arguments import Json
from federation.commands.output import print_json, print_table
from federation.commands.progress import bytes_moved
from federation.config import read_site
from federation.iodeep.weights import PART_BYTES

SiteDocument = Annotated[Path, typer.Argument(metavar="SITE.toml", help="The site's document.")]


def register(cli: typer.Typer) -> None:
    """Add the group ``site``."""
    group = typer.Typer(help="A hospital: its archives and its data.", no_args_is_help=True)
    group.command()(doctor)
    group.callback()(lambda: None)  # a group, though it has one command
    cli.add_typer(group, name="site")


def doctor(
    document: SiteDocument,
    part_mb: Annotated[
        int,
        typer.Option(min=0, max=2000, help="MiB of each of two weight parts to try; 0 tries none."),
    ] = PART_BYTES // 2**20,
    json: Json = False,
) -> None:
    """Say whether a site's machine, archives and data will do, and what to do where not.

    It stores series of the patient IODEEP-DOCTOR in the archive of models, which may be deleted.
    Ends with 1 where something fails.
    """
    from clients.doctor import examine  # torch is slow to import

    site = read_site(document)
    with bytes_moved("Trying") as moved:
        found = list(examine(site, part_bytes=part_mb * 2**20, now=datetime.now(UTC), moved=moved))
    rows = [asdict(finding) for finding in found]
    if json:
        print_json(rows)
    else:
        print_table(
            f"{site.name}: {document}",
            [
                {
                    "": row["outcome"],
                    "of": row["about"],
                    "what": row["check"],
                    "seen": row["seen"],
                    "what to do": row["advice"],
                }
                for row in rows
            ],
        )
    if any(finding.outcome == "fail" for finding in found):
        raise typer.Exit(1)
