"""The SuperLink made to agree with the records of sites: who is approved is let in, nobody else."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from federation.config import Experiment
from federation.errors import ConfigError, FlowerError
from server.aggregator.control import Control, Node
from server.aggregator.home import Home
from server.aggregator.sites import Seen, SiteRecord, site_records


class Membership:
    """Who is to be let in, as the records said when last all of them could be read."""

    def __init__(self, home: Home, tell: Callable[[str], None]) -> None:
        self._home = home
        self._tell = tell
        self._known: Mapping[bytes, str] | None = None
        self._problem = ""

    def look(self) -> Mapping[bytes, str] | None:
        """The sites' names by their keys, as Flower encodes these; None before they could be read.

        Where one file is no record, nobody is let in or out by the others: it may be a copy of
        one, or the one that counts. That is told once.
        """
        try:
            self._known = {
                _flower_key(record.node_key): record.name
                for record in site_records(self._home)
                if record.state == "approved" and record.node_key is not None
            }
            self._problem = ""
        except ConfigError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                self._tell(f"{error}; until then the same sites are let in as before")
        return self._known


def bring_in_line(
    wanted: Mapping[bytes, str] | None, control: Control, tell: Callable[[str], None]
) -> None:
    """Register who is wanted and not known there, unregister whom it knows and should not.

    wanted: names by keys; None leaves all as it is

    Raises :class:`FlowerError` where the SuperLink does not answer. What it refuses for one site
    is told, and the others go on.
    """
    known = control.nodes()
    if wanted is None:
        return
    for node in known:
        if wanted.get(node.key) != node.name:
            control.unregister(node)
            tell(f"{node.name} is let in no more")
    there = {node.key for node in known if wanted.get(node.key) == node.name}
    for key, name in wanted.items():
        if key in there:
            continue
        try:
            control.register(name, key)
        except FlowerError as error:
            tell(f"{name} cannot be let in: {error}")
        else:
            tell(f"{name} is let in")


def seen(control: Control) -> dict[str, Seen]:
    """When each site was last there, by name. Raises :class:`FlowerError`."""
    return {node.name: _seen(node) for node in control.nodes()}


def approved(home: Home) -> dict[str, SiteRecord]:
    """The sites that may take part, by name."""
    return {record.name: record for record in site_records(home) if record.state == "approved"}


def check_approved(home: Home, experiment: Experiment) -> None:
    """Whether all of an experiment's roster may take part. Raises :class:`ConfigError`."""
    known = approved(home)
    if unknown := [name for name in experiment.roster if name not in known]:
        raise ConfigError(
            f"federation.sites names {', '.join(unknown)}, who are not approved here; approved: "
            f"{', '.join(sorted(known)) or 'none'} (`iodeep server sites`)"
        )


def _seen(node: Node) -> Seen:
    if node.is_online:  # it says so every half minute
        return Seen(last=datetime.now(UTC), online=True)
    last = datetime.fromisoformat(node.seen) if node.seen else None
    return Seen(last=last, online=node.is_online)


def _flower_key(text: str) -> bytes:
    """A public key in OpenSSH's form as Flower encodes it."""
    key = load_ssh_public_key(text.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)  # the record has checked it
    return public_key_to_bytes(key)
