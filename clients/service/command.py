"""What `iodeep site serve` prints while it works."""

import json
from dataclasses import asdict

import typer

from clients.hospital import Hospital
from clients.inference.worker import Outcome
from clients.service.inbox import Inbox
from clients.service.serve import serve
from federation.commands.output import short
from federation.config import Site
from federation.interrupt import until_asked_to_end


def run_service(site: Site, *, as_json: bool) -> None:
    """Serve until Ctrl-C or SIGTERM, and end after the study that is being worked on."""
    with (
        until_asked_to_end() as is_to_end,
        Hospital(site) as hospital,
        Inbox(site.work / "inbox", site.service) as inbox,
    ):
        typer.echo(json.dumps({"address": inbox.address}) if as_json else inbox.address)
        typer.echo(f"{len(inbox.waiting())} studies wait", err=True)
        serve(
            hospital,
            inbox,
            site.service,
            is_to_end,
            lambda outcome: typer.echo(_line(outcome, as_json=as_json)),
        )


def _line(outcome: Outcome, *, as_json: bool) -> str:
    if as_json:
        return json.dumps(asdict(outcome))
    seg = f", SEG {short(outcome.seg)}" if outcome.seg else ""
    detail = f": {outcome.detail}" if outcome.detail else ""
    series = f" series {short(outcome.series)}" if outcome.series else ""
    return f"{outcome.state}: study {outcome.study}{series}{seg} in {outcome.seconds:.1f} s{detail}"
