"""`iodeep site approve`: networks that are new to a site."""

from datetime import datetime
from typing import Any

import typer

from clients.policy.approvals import Approvals, Waiting
from federation.audit import AuditLog
from federation.commands.output import print_json, print_table
from federation.config import Site
from federation.iodeep.labels import Line
from federation.iodeep.signature import SigningKey, show_fingerprint


def list_waiting(site: Site, *, as_json: bool) -> None:
    """Print the networks that nobody has approved yet."""
    waiting = Approvals.beside(site.audit).waiting
    if as_json:
        print_json([_as_json(one) for one in waiting])
    elif waiting:
        print_table("", [_as_row(one) for one in waiting])
    else:
        typer.echo("no network waits")


def approve(site: Site, line: str, network: str | None, now: datetime, *, as_json: bool) -> None:
    """Approve a network as it was seen, note that in the audit log, and print what it is."""
    key = SigningKey.read(site.key) if site.key else None
    approved = Approvals.beside(site.audit).approve(Line.parse(line), network, now)
    AuditLog(site.audit, key).append(
        "approval",
        line=str(approved.line),
        branch=approved.branch,
        network=approved.digest,
        signer=approved.signer,
    )
    if as_json:
        print_json(_as_json(approved))
    else:
        print_table("approved", [_as_row(approved)])


def _as_json(one: Waiting) -> dict[str, Any]:
    return one.model_dump(mode="json") | {"line": str(one.line)}


def _as_row(one: Waiting) -> dict[str, Any]:
    settings = one.settings.model_dump(mode="json", exclude_defaults=True)
    return {
        "line": one.line,
        "branch": one.branch,
        "signed by": show_fingerprint(one.signer) if one.signer else "nobody",
        "strategy": one.strategy,
        "settings": ", ".join(f"{name} {value}" for name, value in settings.items()) or "defaults",
        "network": one.network,
        "parameters": one.parameters,
        "digest": one.digest[:12],
        "since": f"{one.since:%Y-%m-%d %H:%M}",
    }
