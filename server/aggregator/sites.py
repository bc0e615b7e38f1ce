"""Which hospitals were invited, approved and revoked: one record each, ``sites/NAME.json``.

What stands there counts; whoever runs the aggregator's processes lets in by it.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from federation.config import Name
from federation.errors import ConfigError
from federation.invitation import Invitation, InvitationId
from federation.iodeep.signature import show_fingerprint
from federation.joining import JoinRequest, NodeKey, node_fingerprint
from federation.signed import Instant, PublicPem, Release, public_key_of
from federation.values import Value
from federation.whole import SECRET, write_over
from server.aggregator.home import Home

MAX_BYTES = 65536

State = Literal["invited", "approved", "revoked"]


class SiteRecord(Value):
    """What an aggregator knows of one hospital.

    invitation: the id of the newest; only that can be answered
    lines:      patterns that it offered
    node_key:   what Flower knows its node by (OpenSSH), once it was approved
    key:        what it signs its records with (PEM), likewise
    software:   the release that it was last known to run
    retired:    keys of its own that were revoked, and are never taken again
    """

    name: Name
    state: State
    invitation: InvitationId
    lines: tuple[str, ...]
    invited: Instant
    expires: Instant
    node_key: NodeKey | None = None
    key: PublicPem | None = None
    software: Release | None = None
    approved: Instant | None = None
    revoked: Instant | None = None
    reason: str | None = None
    retired: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Its own, as long as it has some."""
        return tuple(key for key in (self.node_key, self.key) if key is not None)

    @property
    def fingerprint(self) -> str | None:
        """Of the node key, in hex."""
        return self.node_key and node_fingerprint(self.node_key)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """When a site's node was last there, and whether it is now."""

    last: datetime | None
    online: bool


def read_site_record(home: Home, name: str) -> SiteRecord:
    """Raises :class:`ConfigError` where there is none of this name, or it is no record."""
    path = _path(home, name)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
        record = SiteRecord.model_validate_json(data)
    except FileNotFoundError:
        known = ", ".join(_names(home)) or "none"
        raise ConfigError(
            f"no site called {name} was invited here; known: {known}. Invite it with "
            "`iodeep server invite`"
        ) from None
    except OSError as error:
        raise ConfigError(f"record {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(
            f"{path} is no record of a site: {error.errors()[0]['msg']}; restore it from a backup"
        ) from None
    if record.name != name:
        raise ConfigError(f"{path} is the record of {record.name}; restore it from a backup")
    return record


def site_records(home: Home) -> tuple[SiteRecord, ...]:
    """All of them, by name. Raises as :func:`read_site_record`."""
    return tuple(read_site_record(home, name) for name in _names(home))


def note_invitation(home: Home, invitation: Invitation) -> SiteRecord:
    """Keep that a site was invited; an earlier invitation of this name counts no more.

    Raises :class:`ConfigError` for a site that is approved.
    """
    with _alone(home):
        before = check_may_be_invited(home, invitation.name)
        retired = (*before.retired, *before.keys) if before else ()
        return _write(
            home,
            SiteRecord(
                name=invitation.name,
                state="invited",
                invitation=invitation.id,
                lines=tuple(line.pattern for line in invitation.lines),
                invited=invitation.issued,
                expires=invitation.expires,
                retired=retired,
            ),
        )


def check_may_be_invited(home: Home, name: str) -> SiteRecord | None:
    """What there is of a name so far. Raises :class:`ConfigError` for a site that is approved."""
    if not _path(home, name).exists():
        return None
    before = read_site_record(home, name)
    if before.state == "approved":
        raise ConfigError(
            f"{name} is approved already; to have it join anew: `iodeep server revoke`, then "
            "`iodeep server invite`"
        )
    return before


def check_request(home: Home, request: JoinRequest, *, now: datetime) -> SiteRecord:
    """The record of the site whose request may be approved.

    Raises :class:`ConfigError` where it was not invited so, where that has expired or been
    revoked, and where one of its keys is another site's or was revoked.
    """
    record = read_site_record(home, request.name)
    again = f"invite {record.name} again, and have it run `iodeep site init` anew"
    match record.state:
        case "approved":
            raise ConfigError(
                f"{record.name} is approved already, since {record.approved:%Y-%m-%d}"
            )
        case "revoked":
            raise ConfigError(f"{record.name} was revoked at {record.revoked:%Y-%m-%d}; {again}")
    if request.invitation != record.invitation:
        raise ConfigError(
            f"{record.name} answers an invitation that is unknown here, or was replaced by a newer "
            f"one; have it answer the newest, or {again}"
        )
    if now >= record.expires:
        raise ConfigError(
            f"the invitation of {record.name} counted until {record.expires:%Y-%m-%d %H:%M} UTC, "
            f"and this machine's clock says {now:%Y-%m-%d %H:%M}; {again}"
        )
    for key in (request.node_key, request.key):
        for other in site_records(home):
            if key in other.retired or (other.state == "revoked" and key in other.keys):
                raise ConfigError(
                    f"a key of {record.name} was revoked, as {other.name}'s; have it run "
                    "`iodeep site init` anew, which makes new ones"
                )
            if key in other.keys:
                raise ConfigError(
                    f"a key of {record.name} is {other.name}'s: its folder was copied; have it run "
                    "`iodeep site init` with its own invitation"
                )
    return record


def approve(home: Home, request: JoinRequest, *, now: datetime) -> SiteRecord:
    """Take a site in, with the keys of its request. Raises as :func:`check_request`."""
    update = {
        "state": "approved",
        "node_key": request.node_key,
        "key": request.key,
        "software": request.software,
        "approved": now.replace(microsecond=0),
    }
    with _alone(home):
        record = check_request(home, request, now=now)
        return _write(home, record.model_copy(update=update))


def revoke(home: Home, name: str, *, reason: str | None = None, now: datetime) -> SiteRecord:
    """Let a site in no more; its keys are never taken again. Raises :class:`ConfigError`."""
    update = {"state": "revoked", "revoked": now.replace(microsecond=0), "reason": reason}
    with _alone(home):
        record = read_site_record(home, name)
        if record.state == "revoked":
            raise ConfigError(f"{name} was revoked already, at {record.revoked:%Y-%m-%d}")
        return _write(home, record.model_copy(update=update))


def site_facts(record: SiteRecord, seen: Mapping[str, Seen] | None = None) -> dict[str, Any]:
    """What there is to say of a site; ``seen`` by name, where somebody has looked."""
    there = seen.get(record.name) if seen else None
    of_key = record.key and show_fingerprint(public_key_of(record.key).fingerprint)
    return {
        "name": record.name,
        "state": record.state,
        "online": there.online if there else None,
        "last_seen": _shown(there.last) if there else None,
        "node_key": record.fingerprint and show_fingerprint(record.fingerprint),
        "key": of_key,
        "lines": list(record.lines),
        "software": record.software,
        "invited": _shown(record.invited),
        "expires": _shown(record.expires),
        "approved": _shown(record.approved),
        "revoked": _shown(record.revoked),
        "reason": record.reason,
    }


def _shown(at: datetime | None) -> str | None:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}" if at else None


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Hold the records from what is checked to what is written: one command at a time."""
    descriptor = os.open(home.sites / ".lock", os.O_RDWR | os.O_CREAT, SECRET)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _names(home: Home) -> list[str]:
    return sorted(path.stem for path in home.sites.glob("[!.]*.json"))


def _path(home: Home, name: str) -> Path:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise ConfigError(
            f"{name!r:.80} cannot be a site's name; expected up to 32 letters, digits, hyphens "
            f"and underscores, also of each file in {home.sites}"
        ) from None
    return home.sites / f"{name}.json"


def _write(home: Home, record: SiteRecord) -> SiteRecord:
    data = record.model_dump_json(indent=1).encode() + b"\n"
    write_over(_path(home, record.name), data, SECRET)
    return record
