"""`iodeep site`: what a hospital's administrator does."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from federation.commands.arguments import Json, LineArgument
from federation.commands.fingerprint import Fingerprint, said_fingerprint
from federation.commands.output import print_json, print_table
from federation.commands.progress import bytes_moved
from federation.config import read_site
from federation.errors import ConfigError
from federation.invitation import read_invitation
from federation.iodeep.signature import show_fingerprint
from federation.iodeep.weights import PART_BYTES
from federation.signed import check_read_out

SiteDocument = Annotated[Path, typer.Argument(metavar="SITE.toml", help="The site's document.")]


def register(cli: typer.Typer) -> None:
    """Add the group ``site``."""
    group = typer.Typer(help="A hospital: its archives and its data.", no_args_is_help=True)
    group.command()(init)
    group.command()(doctor)
    group.command()(census)
    group.command("opt-out")(opt_out)
    group.command()(finetune)
    group.command()(predict)
    group.command()(serve)
    group.command()(join)
    group.command()(approve)
    group.command()(audit)
    cli.add_typer(group, name="site")


def init(
    invitation: Annotated[Path, typer.Argument(help="What the aggregator sent: NAME.invitation.")],
    out: Annotated[
        Path | None, typer.Option(help="A new folder, or an empty one; NAME, unless given.")
    ] = None,
    fingerprint: Fingerprint = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="The archive of images, as dimse://AE@host:port."),
    ] = None,
    json: Json = False,
) -> None:
    """Make a hospital's folder out of an invitation: document, keys, and the request to join.

    Nothing is overwritten. The private keys never leave the folder.
    """
    from clients.joining.initialise import initialise  # decoders are slow to import

    now = datetime.now(UTC)
    invited = read_invitation(invitation, now=now)
    whose = f"{invited.aggregator}'s invitation"
    check_read_out(said_fingerprint(fingerprint, whose), invited.signer.fingerprint, whose)
    folder = out or Path(invited.name)
    request = initialise(invited, folder, images=images, now=now)
    document, file = folder / "site.toml", folder / f"{request.name}.request"
    read_out = show_fingerprint(request.fingerprint)
    if json:
        print_json({"document": str(document), "request": str(file), "fingerprint": read_out})
        return
    typer.echo(
        f"{folder} is made. Send {file} to {invited.aggregator}.\n"
        f"Read out by telephone: {read_out}\n"
        f"Next: edit {document}, then\n"
        f"  iodeep site doctor {document}\n"
        f"  iodeep site join {document}"
    )


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


def census(
    document: SiteDocument,
    model: Annotated[
        str | None,
        typer.Option(metavar="LINE", help="The line whose network the data shall suit."),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=0, max=200, help="How many labelled series to fetch and read.")
    ] = 8,
    picture: Annotated[
        Path | None, typer.Option(help="Where to draw the sample; in the work folder, else.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what a site has to train on: counts, labels, geometry, and what cannot be used and why.

    Nothing leaves the site. Ends with 1 where it is not enough for a training.
    """
    from clients.census.command import run_census  # torch is slow to import

    if not run_census(read_site(document), model, sample, picture, as_json=json):
        raise typer.Exit(1)


def opt_out(document: SiteDocument) -> None:
    """Take patients out of every training from now on: Patient IDs on stdin, one a line.

    The IDs are kept as keyed hashes, in the file that \\[policy.opt_out] names.
    """
    from clients.data.opt_outs import opt_out

    table = read_site(document).policy.opt_out
    if table is None:
        raise ConfigError(
            f"{document} names no list of opt-outs; expected [policy.opt_out] with file and key"
        )
    ids = [line.strip() for line in sys.stdin if line.strip()]
    if not ids:
        raise ConfigError("no Patient ID came on stdin; expected one a line")
    added = opt_out(table, ids)
    typer.echo(f"{added} of {len(ids)} patients are new in {table.file}")


def finetune(
    document: SiteDocument,
    line: LineArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="key=value …", help="Of \\[finetune], as layers=head."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(help="One that is not released to start from: BRANCH:ROUND, or a UID."),
    ] = None,
    json: Json = False,
) -> None:
    """Train a network on the site's own cases, compare, and store it where it is better.

    It starts from the released version of the line, stops when validation gets no better, and goes
    on after an interruption when it is typed again. What is stored is not released.
    """
    from clients.finetuning.command import run_finetuning  # torch is slow to import

    site = read_site(document, [f"finetune.{override}" for override in overrides or ()])
    run_finetuning(site, line, version, as_json=json)


def predict(
    document: SiteDocument,
    studies: Annotated[
        list[str], typer.Argument(metavar="STUDY …", help="Study Instance UIDs; - reads them.")
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="LINE", help="The line to use, whatever suits the images."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(help="Of --model, one that is not released: BRANCH:ROUND, or a UID."),
    ] = None,
    series: Annotated[str | None, typer.Option(help="Only this Series Instance UID.")] = None,
    json: Json = False,
) -> None:
    """Segment studies with the network that suits them, and store SEG and volumes beside them.

    Doing it again stores nothing twice. Ends with 1 where a study has no result.
    """
    from clients.inference.command import run_predictions  # torch is slow to import

    if version and not model:
        raise typer.BadParameter("--version is one of a line: give it with --model")
    named = [uid for line in sys.stdin for uid in line.split()] if studies == ["-"] else studies
    site = read_site(document)
    if not run_predictions(site, named, model, version, series, as_json=json):
        raise typer.Exit(1)


def serve(document: SiteDocument, json: Json = False) -> None:
    """Take studies that are sent here, segment them, and store SEG and volumes, until Ctrl-C.

    \\[service] in the site's document says where it listens, who may send and which series. Prints
    its address, then a line for each series. What waits is there again after a restart.
    """
    from clients.service.command import run_service  # torch is slow to import

    run_service(read_site(document), as_json=json)


def join(
    document: SiteDocument,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Print a unit of systemd that runs this, and end.")
    ] = False,
) -> None:
    """Take part in the aggregator's rounds until Ctrl-C or SIGTERM.

    Only connections to the aggregator and to the site's own archives are made. Whatever code a run
    brings, what is installed here answers, as the site's policy allows.
    """
    from clients.joining.join import join as join_federation
    from federation.interrupt import until_asked_to_end
    from federation.systemd import unit

    site = read_site(document)
    if systemd:
        words = ("site", "join", str(document.resolve()))
        folder = document.resolve().parent
        typer.echo(unit(f"IODeep site {site.name}", words, folder=folder), nl=False)
        return

    def tell(text: str) -> None:
        typer.echo(text)
        sys.stdout.flush()

    with until_asked_to_end() as is_to_end:
        join_federation(site, document, is_to_end, tell)


def approve(
    document: SiteDocument,
    line: Annotated[
        str | None, typer.Argument(metavar="[LINE]", help="Approve the network of it that waits.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Which one, where several of a line wait; its start."),
    ] = None,
    json: Json = False,
) -> None:
    """List the networks that are new here and wait for an approval; with a line, approve one.

    Where \\[policy.rounds] has approval = true, nothing of such a network is stored or trained
    before. What is approved is the network as it is listed, from that signer; another one waits.
    """
    from clients.policy import command

    site = read_site(document)
    if line is None:
        if network is not None:
            raise typer.BadParameter("--network is one of a line: give it too")
        command.list_waiting(site, as_json=json)
    else:
        command.approve(site, line, network, datetime.now(UTC), as_json=json)


def audit(
    document: SiteDocument,
    head: Annotated[
        str | None,
        typer.Option(metavar="NUMBER:DIGEST", help="One that the aggregator was told earlier."),
    ] = None,
    last: Annotated[int, typer.Option(min=0, help="How many of the last entries to show.")] = 20,
    json: Json = False,
) -> None:
    """Say whether the log of what the aggregator asked and the site answered is whole.

    Entries that were changed, removed, moved or put in are named, and so is an end that was cut
    off. Ends with 1 then.
    """
    from clients.audit.command import run_audit

    if not run_audit(read_site(document), head, last, as_json=json):
        raise typer.Exit(1)
