"""`iodeep server invite`: a signed document for a hospital, and the record of it."""

import secrets
from datetime import datetime, timedelta
from pathlib import Path

from federation.config.reading import validate
from federation.errors import ConfigError
from federation.invitation import Invitation, region_of
from federation.iodeep.signature import SigningKey
from federation.software import software
from federation.whole import write_new
from server.aggregator.home import Home
from server.aggregator.provision import check_home
from server.aggregator.sites import check_may_be_invited, note_invitation


def invite(home: Home, name: str, out: Path, *, days: int, now: datetime) -> Invitation:
    """Write an invitation, which counts for so many days, to a file that is not there yet.

    Raises :class:`ConfigError` for a site that is approved, and where the aggregator's document
    names no lines.
    """
    document = check_home(home)
    if not document.lines:
        raise ConfigError(
            f"{home.path} trains no lines; add some to its document, as "
            'lines = ["MR/hippocampus/*"]'
        )
    for pattern in document.lines:
        region_of(pattern)
    check_may_be_invited(home, name)
    if out.exists():
        raise ConfigError(f"{out} is there already, and is not overwritten; name another: --out")
    key = SigningKey.read(home.key)
    pem = key.public.pem().decode()
    issued = now.replace(microsecond=0)
    said = {
        "key": pem,
        "software": software(),
        "id": secrets.token_hex(16),
        "name": name,
        "aggregator": document.name,
        "address": document.address,
        "ca": home.certificate("ca").read_text(encoding="ascii"),
        "lines": [{"pattern": pattern, "signers": [pem]} for pattern in document.lines],
        "policy": document.policy,
        "issued": issued,
        "expires": issued + timedelta(days=days),
    }
    invitation = validate(Invitation, said, f"the invitation of {name}")
    note_invitation(home, invitation)
    write_new(out, invitation.sign(key))
    return invitation
