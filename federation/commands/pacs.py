"""``iodeep pacs``: a small archive to run, and questions to any archive."""

import logging
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from federation.commands.output import print_json, print_table
from federation.errors import ConfigError
from federation.interrupt import until_asked_to_end
from federation.sizes import parse_size, size_text

if TYPE_CHECKING:
    from federation.pacs.tls import Tls

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
    quota: Annotated[
        str | None, typer.Option(help="Bytes of instances to keep at most, such as '20 GB'.")
    ] = None,
    reserve: Annotated[
        str, typer.Option(help="Bytes of the disk to leave free; what would not, is refused.")
    ] = "256 MB",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Who may associate: AE, AE@10.1.0.0/16 or *@10.1.0.7; may be repeated. "
            "Everybody, unless some are named."
        ),
    ] = None,
    destination: Annotated[
        list[str] | None,
        typer.Option(
            help="Where C-MOVE and reports of storage commitment may go: dimse://AE@host:port, "
            "with ?tls=CA.crt over TLS; may be repeated."
        ),
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(help="Speak TLS only, with this certificate (PEM).")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The certificate's private key (PEM, mode 0600).")
    ] = None,
    tls: Annotated[
        Path | None,
        typer.Option(
            help="Over TLS, whoever associates must have a certificate of this authority."
        ),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First make the index anew from the instances' files.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Say each instance that is stored.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the address as JSON.")] = False,
) -> None:
    """Serve a folder as a PACS until Ctrl-C: C-ECHO, C-STORE, C-FIND, C-GET, C-MOVE and storage
    commitment. Prints its address.
    """
    from federation.pacs import Archive, ArchiveServer
    from federation.pacs.address import DimseAddress
    from federation.pacs.dimse.admission import Caller
    from federation.pacs.embedded import integrity

    callers = [Caller.parse(text) for text in allow or ()]
    destinations = [DimseAddress.parse(text) for text in destination or ()]
    secured = _tls(cert, key, tls)
    quota_bytes = None if quota is None else parse_size(quota)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("iodeep.pacs").setLevel(logging.INFO if verbose else logging.WARNING)
    if rebuild:
        typer.echo(f"the index of {folder} was made anew: {integrity.rebuild(folder)}", err=True)
    with (
        until_asked_to_end() as is_to_end,
        Archive(folder, quota_bytes=quota_bytes, reserve_bytes=parse_size(reserve)) as archive,
        ArchiveServer(
            archive,
            ae_title=ae_title,
            host=host,
            port=port,
            callers=callers,
            destinations=destinations,
            tls=secured,
        ) as server,
    ):
        typer.echo(dumps({"address": server.address}) if json else server.address)
        of = f" of {size_text(quota_bytes)}" if quota_bytes is not None else ""
        typer.echo(f"serving {folder}{of}: {server.condition}", err=True)
        is_to_end(None)


def _tls(cert: Path | None, key: Path | None, ca: Path | None) -> "Tls | None":
    from federation.pacs.tls import Tls

    if (cert is None) != (key is None) or (cert is None and ca is not None):
        raise ConfigError(
            "TLS needs both --cert and --key; --tls says whose certificates to accept"
        )
    return None if cert is None else Tls(ca=ca, cert=cert, key=key)


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
    from federation.pacs.attributes import text_of

    if level not in _SHOWN:
        raise ConfigError(f"{level!r} is no level; expected one of {', '.join(_SHOWN)}")
    wanted = dict.fromkeys(_SHOWN[level], "")
    wanted |= {keyword: value for keyword, _, value in (key.partition("=") for key in keys or ())}
    with open_gateway(address) as gateway:
        found = gateway.find(cast(Level, level), wanted)
    rows: list[dict[str, Any]] = [
        {keyword: text_of(answer, keyword) for keyword in wanted} for answer in found
    ]
    if json:
        print_json(rows)
    else:
        print_table("", rows)
