"""`iodeep server`: what who runs an aggregator does."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from federation.commands.arguments import Json
from federation.commands.fingerprint import Fingerprint, said_fingerprint
from federation.commands.output import print_json, print_table
from federation.iodeep.signature import PublicKey, public_path, show_fingerprint
from federation.joining import JoinRequest
from federation.signed import check_read_out
from federation.software import software
from server.aggregator import invite as inviting
from server.aggregator import operate, provision
from server.aggregator import sites as joined
from server.aggregator.home import Home

Folder = Annotated[Path, typer.Argument(help="The aggregator's folder.")]
SiteName = Annotated[str, typer.Argument(metavar="NAME", help="What the hospital is called here.")]
CertificateDays = Annotated[
    int, typer.Option(min=1, max=3650, help="How long the certificates last that it shows.")
]


def register(cli: typer.Typer) -> None:
    """Add the group ``server``."""
    group = typer.Typer(
        help="An aggregator: its folder, and the hospitals that it invites.", no_args_is_help=True
    )
    at_work = (operate.serve, operate.status, operate.census, operate.offer, operate.stop)
    for command in (init, renew, invite, approve, revoke, sites, *at_work):
        group.command()(command)
    cli.add_typer(group, name="server")


def init(
    folder: Annotated[Path, typer.Argument(help="A new folder, or an empty one.")],
    name: Annotated[str, typer.Option(help="What sites call the aggregator.")],
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where sites reach it over the internet.")
    ],
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Where it listens here; at all addresses, unless given."
        ),
    ] = None,
    line: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Lines that it trains, as MR/hippocampus/*."),
    ] = None,
    archive: Annotated[
        str, typer.Option(help="Of models: folder:PATH beside its document, dimse://…")
    ] = provision.ARCHIVE,
    days: CertificateDays = provision.DAYS,
    json: Json = False,
) -> None:
    """Make an aggregator's folder: document, signing key, authority and certificates.

    Nothing is overwritten. The keys stay on this machine.
    """
    home = provision.create_home(
        folder,
        name=name, address=address, listen=listen, lines=line or (), archive=archive,
        days=days, now=datetime.now(UTC),
    )  # fmt: skip
    fingerprint = show_fingerprint(PublicKey.read(public_path(home.key)).fingerprint)
    if json:
        print_json({"folder": str(folder), "fingerprint": fingerprint})
        return
    typer.echo(
        f"{folder} is made: look at {folder / 'aggregator.toml'}.\n"
        f"Its fingerprint, which hospitals ask for by telephone: {fingerprint}\n"
        f"Next: iodeep server invite {folder} NAME"
    )


def renew(folder: Folder, days: CertificateDays = provision.DAYS, json: Json = False) -> None:
    """Make the aggregator's certificates anew, for the address that its document has now.

    Hospitals notice nothing: the authority, which they know, is the same.
    """
    home = Home(folder)
    provision.check_home(home)
    ends = provision.renew(home, days=days, now=datetime.now(UTC))
    if json:
        print_json({name: f"{end:%Y-%m-%dT%H:%M:%SZ}" for name, end in ends.items()})
        return
    for name, end in ends.items():
        typer.echo(f"{home.certificate(name)} lasts until {end:%Y-%m-%d}")


def invite(
    folder: Folder,
    name: SiteName,
    out: Annotated[
        Path | None, typer.Option(help="Where it goes; NAME.invitation, unless given.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="How long it counts.")] = 14,
    json: Json = False,
) -> None:
    """Write an invitation for a hospital, to be sent by mail: it holds no secret.

    It takes the place of an earlier one for the same name.
    """
    file = out or Path(f"{name}.invitation")
    invitation = inviting.invite(Home(folder), name, file, days=days, now=datetime.now(UTC))
    fingerprint = show_fingerprint(invitation.signer.fingerprint)
    expires = f"{invitation.expires:%Y-%m-%dT%H:%M:%SZ}"
    if json:
        print_json(
            {
                "file": str(file),
                "id": invitation.id,
                "fingerprint": fingerprint,
                "expires": expires,
            }
        )
        return
    typer.echo(
        f"{file} counts until {expires}: send it to {name}.\n"
        f"Read out by telephone: {fingerprint}\n"
        f"When {name}.request comes back: iodeep server approve {folder} {name}.request"
    )


def approve(
    folder: Folder,
    request: Annotated[Path, typer.Argument(help="What the hospital sent back: NAME.request.")],
    fingerprint: Fingerprint = None,
    json: Json = False,
) -> None:
    """Take a hospital in, after comparing the fingerprint that it reads out by telephone."""
    home, now = Home(folder), datetime.now(UTC)
    provision.check_home(home)
    asked = JoinRequest.read(request)
    joined.check_request(home, asked, now=now)
    whose = f"{asked.name}'s request"
    check_read_out(said_fingerprint(fingerprint, whose), asked.fingerprint, whose)
    record = joined.approve(home, asked, now=now)
    if json:
        print_json(joined.site_facts(record))
        return
    typer.echo(f"{record.name} is approved, with key {show_fingerprint(asked.fingerprint)}.")
    if record.software != software():
        typer.echo(
            f"It runs release {record.software} of iodeep, and this is {software()}: both must "
            "run the same before it can take part.",
            err=True,
        )


def revoke(
    folder: Folder,
    name: SiteName,
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    json: Json = False,
) -> None:
    """Let a hospital in no more. Its keys are never taken again; its name may be invited anew."""
    home = Home(folder)
    provision.check_home(home)
    record = joined.revoke(home, name, reason=reason, now=datetime.now(UTC))
    if json:
        print_json(joined.site_facts(record))
    else:
        typer.echo(f"{name} is revoked.")


def sites(folder: Folder, json: Json = False) -> None:
    """Say which hospitals were invited, approved and revoked, and which are connected.

    That is known where `iodeep server serve` runs.
    """
    home = Home(folder)
    provision.check_home(home)
    seen = operate.seen_or_unknown(home)
    facts = [joined.site_facts(record, seen) for record in joined.site_records(home)]
    if json:
        print_json(facts)
        return
    columns = ("name", "state", "online", "last_seen", "node_key", "lines", "invited", "approved")
    rows = [
        {column.replace("_", " "): one[column] for column in columns}
        | {"lines": " ".join(one["lines"])}
        for one in facts
    ]
    print_table(str(folder), rows)
