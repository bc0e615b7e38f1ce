"""`iodeep server init` and `renew`: an aggregator's folder, its keys and its certificates."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import tomli_w

from federation.config import Aggregator
from federation.config.aggregator import DOCUMENT
from federation.config.reading import validate
from federation.errors import ConfigError
from federation.invitation import region_of
from federation.iodeep.signature import SigningKey
from federation.pacs import Archive
from federation.whole import whole_folder
from server.aggregator.authority import LOOPBACK, Authority, host_of
from server.aggregator.home import Home

DAYS = 825
"""That a server's certificate lasts unless said otherwise: the most that all clients take."""

ARCHIVE = "folder:archive"


def create_home(
    folder: Path,
    *,
    name: str,
    address: str,
    listen: str | None = None,
    lines: Sequence[str] = (),
    archive: str = ARCHIVE,
    days: int = DAYS,
    now: datetime,
) -> Home:
    """Make an aggregator's folder, whole or not at all.

    listen: all of this machine's addresses, at the port of ``address``, unless given
    lines:  patterns of the lines that it trains
    days:   that the certificates last which it shows

    Raises :class:`ConfigError` for a folder that is not empty, and for what a document may not
    say.
    """
    document = {
        "name": name,
        "address": address,
        "listen": listen or f"0.0.0.0:{address.rpartition(':')[2]}",
        "archive": archive,
        "lines": tuple(lines),
    }
    aggregator = validate(Aggregator, document, "iodeep server init")
    for pattern in lines:
        region_of(pattern)
    if (folder / DOCUMENT).exists():
        raise ConfigError(f"{folder} holds an aggregator already; nothing was changed")
    with whole_folder(folder, last=DOCUMENT) as scratch:
        home = Home(scratch)
        for inner in ("keys", "tls", "sites", "runs"):
            (scratch / inner).mkdir(mode=0o700)
        if archive == ARCHIVE:
            Archive(scratch / "archive").close()
            (scratch / "archive").chmod(0o700)
        (scratch / DOCUMENT).write_text(_document(aggregator), encoding="utf-8")
        SigningKey.create(home.key)
        authority = Authority.create(name, now=now)
        authority.write(home)
        _issue(home, authority, days=days, now=now)
    return Home(folder)


def renew(home: Home, *, days: int = DAYS, now: datetime) -> Mapping[str, datetime]:
    """Make the certificates that it shows anew, for the address in its document; when they end.

    Sites notice nothing: the authority is the same. Raises :class:`ConfigError`.
    """
    return _issue(home, Authority.read(home), days=days, now=now)


def _issue(home: Home, authority: Authority, *, days: int, now: datetime) -> dict[str, datetime]:
    hosts = {"server": (host_of(home.document.address),), "loopback": LOOPBACK}
    return {name: authority.issue(home, name, of, days=days, now=now) for name, of in hosts.items()}


def check_home(home: Home) -> Aggregator:
    """The document of a folder that :func:`create_home` made. Raises :class:`ConfigError`."""
    if not (home.path / DOCUMENT).exists():
        raise ConfigError(
            f"{home.path} is no aggregator's folder: {DOCUMENT} is not there; make one with "
            "`iodeep server init`"
        )
    return home.document


def _document(aggregator: Aggregator) -> str:
    def toml(key: str) -> str:
        value = getattr(aggregator, key)
        return tomli_w.dumps({key: list(value) if isinstance(value, tuple) else value}).rstrip()

    loopback = aggregator.loopback
    return f"""\
# An aggregator. It stays on this machine; paths are beside this file.

# What sites call it.
{toml("name")}

# Where sites reach it. After a change: iodeep server renew, and tell the sites.
{toml("address")}

# Where nginx listens on this machine.
{toml("listen")}

# Where models are kept: folder:PATH, dimse://AE@host:port or dicomweb+https://host/path.
{toml("archive")}

# Patterns of the lines that it trains, offered to whoever is invited: "MR/hippocampus/*".
{toml("lines")}

# Ports of this machine that nobody else reaches.
[loopback]
superlink = {loopback.superlink}
health = {loopback.health}

# What invitations propose for [policy] of a site's document; the site changes it as it likes.
{tomli_w.dumps({"policy": aggregator.policy})}"""
