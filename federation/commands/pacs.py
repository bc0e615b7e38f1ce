"""``iodeep pacs``: a small archive to run, and questions to any archive."""

import signal
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from federation.commands.output import print_json, print_table
from federation.errors import ConfigError

Address = Annotated[str, typer.Argument(help="The archive: dimse://AE@host:port or folder:PATH.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_SHOWN = {
    "STUDY": ("PatientID", "StudyID", "StudyDate", "StudyDescription", "StudyInstanceUID"),
    "SERIES": ("Modality", "SeriesNumber", "SeriesDescription", "SeriesInstanceUID"),
    "IMAGE": ("InstanceNumber", "SOPClassUID", "SOPInstanceUID"),
}


def register(cli: typer.Typer) -> None:
    """Add the group ``pacs``."""
    group = typer.Typer(help="Archives: run a small one, ask any.", no_args_is_help=True)
    for command in (serve, echo, find):
        group.command()(command)
    cli.add_typer(group, name="pacs")


def serve(
    folder: Annotated[Path, typer.Argument(help="The archive's folder; made where it is new.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes any free port.")
    ] = 11112,
    ae_title: Annotated[str, typer.Option(help="The archive's AE title.")] = "IODEEP",
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
) -> None:
    """Serve a folder as a PACS until Ctrl-C: C-ECHO, C-STORE, C-FIND, C-GET, C-MOVE."""
    from federation.pacs import Archive, ArchiveServer

    # Blocked in every thread that is started from here, and waited for in this one: a signal
    # that the kernel hands to another thread would not wake it.
    asked_to_end = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, asked_to_end)
    with (
        Archive(folder) as archive,
        ArchiveServer(archive, ae_title=ae_title, host=host, port=port) as server,
    ):
        typer.echo(server.address)
        signal.sigwait(asked_to_end)


def echo(address: Address) -> None:
    """Ask an archive whether it is there (C-ECHO)."""
    from federation.pacs import open_gateway

    with open_gateway(address) as gateway:
        gateway.echo()
        typer.echo(f"{gateway.address} answers")


def find(
    address: Address,
    level: Annotated[str, typer.Argument(help="STUDY, SERIES or IMAGE.")],
    keys: Annotated[
        list[str] | None, typer.Argument(help="Keyword=value …; wildcards * and ?.")
    ] = None,
    json: Json = False,
) -> None:
    """Search an archive (C-FIND). SERIES needs StudyInstanceUID, IMAGE SeriesInstanceUID too."""
    from federation.pacs import Level, open_gateway

    if level not in _SHOWN:
        raise ConfigError(f"{level!r} is no level; expected one of {', '.join(_SHOWN)}")
    wanted = dict.fromkeys(_SHOWN[level], "")
    wanted |= {keyword: value for keyword, _, value in (key.partition("=") for key in keys or ())}
    with open_gateway(address) as gateway:
        found = gateway.find(cast(Level, level), wanted)
    rows: list[dict[str, Any]] = [
        {keyword: str(answer.get(keyword) or "") for keyword in wanted} for answer in found
    ]
    if json:
        print_json(rows)
    else:
        print_table("", rows)
