"""`iodeep import`: labelled images from elsewhere into an archive, as DICOM."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from federation.commands.output import print_json
from federation.errors import ConfigError

if TYPE_CHECKING:
    from federation.samples import Case, Quarantined, Stored


def register(cli: typer.Typer) -> None:
    """Add the group ``import``."""
    group = typer.Typer(
        name="import", help="Store labelled images in an archive, as DICOM.", no_args_is_help=True
    )
    group.callback()(_group)
    group.command("msd")(import_msd)
    cli.add_typer(group)


def _group() -> None:
    """Keeps ``msd`` a command of its group while it is the only one."""


def import_msd(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with manifest.csv and NIfTI files.")
    ],
    pacs: Annotated[
        str, typer.Argument(metavar="PACS", help="Archive: dimse://AE@host:port or folder:PATH.")
    ],
    site: Annotated[
        list[str] | None,
        typer.Option(help="Only this site's cases; may be given more than once."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Store cases of the Medical Segmentation Decathlon as MR series with their SEG."""
    # Imported here: every start of the command line registers this group.
    from federation.pacs import open_gateway
    from federation.samples import Quarantined, Stored, import_cases, read_manifest

    cases = _cases_of(read_manifest(folder), site or [])
    stored: list[Stored] = []
    quarantined: list[Quarantined] = []
    with open_gateway(pacs) as gateway:
        for outcome in track(
            import_cases(cases, gateway),
            description="Storing",
            total=len(cases),
            console=Console(stderr=True),
        ):
            if isinstance(outcome, Stored):
                stored.append(outcome)
            else:
                quarantined.append(outcome)
    if as_json:
        print_json(_as_json(stored, quarantined))
    else:
        typer.echo(_as_text(stored, quarantined))
    if not stored:
        raise typer.Exit(1)


def _cases_of(cases: "Sequence[Case]", sites: Sequence[str]) -> "list[Case]":
    known = sorted({case.site for case in cases})
    if unknown := [site for site in sites if site not in known]:
        raise ConfigError(
            f"the manifest has no site {', '.join(unknown)}; it has {', '.join(known)}"
        )
    return [case for case in cases if not sites or case.site in sites]


def _as_text(stored: "Sequence[Stored]", quarantined: "Sequence[Quarantined]") -> str:
    instances = sum(outcome.instances for outcome in stored)
    lines = [f"stored {len(stored)} cases, {instances} instances"]
    if quarantined:
        lines.append(f"quarantined {len(quarantined)} cases")
        lines += [f"  {q.case.name}: {q.problem}: {q.detail}" for q in quarantined]
    return "\n".join(lines)


def _as_json(stored: "Sequence[Stored]", quarantined: "Sequence[Quarantined]") -> dict[str, Any]:
    return {
        "stored": [
            {"case": s.case.name, "site": s.case.site, "instances": s.instances} for s in stored
        ],
        "quarantined": [
            {"case": q.case.name, "site": q.case.site, "reason": q.problem, "detail": q.detail}
            for q in quarantined
        ],
    }
