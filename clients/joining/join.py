"""`iodeep site join`: the site's SuperNode, kept connected until it is asked to end."""

import fcntl
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clients.joining.link import AggregatorAway, check_link
from federation.config import AggregatorTable, Site
from federation.errors import ConfigError, FlowerError
from federation.flower.programs import environment, module_command
from federation.secret import read_secret
from federation.supervision import Program
from federation.whole import make_private

_LOOK_S = 0.5
_WAIT_S, _LONGEST_S = 65.0, 600.0
"""The SuperLink believes a SuperNode that was lost to be there for 60 s, and lets in no second
one of the same key."""

_LAST_LINES = 50
_SAYS = (
    (re.compile(r"SuperNode ID: (\d+)"), "connected as {site}"),
    (re.compile(r"Receiving: (\w+) message"), "asked to {0}"),
    (re.compile(r"Sent successfully"), "answered"),
)


def join(
    site: Site,
    document: Path,
    is_to_end: Callable[[float | None], bool],
    tell: Callable[[str], None],
) -> None:
    """Keep the site in the federation; only outbound connections are made.

    is_to_end: waits up to so many seconds, and says whether it is time to end
    tell:      is called with what happens, one line each

    Raises :class:`ConfigError` where the document lacks ``[aggregator]`` or a file it names, and
    :class:`FlowerError` where at first who answers is not the aggregator, or clocks differ; an
    aggregator that is away is waited for.
    """
    table = site.aggregator
    if table is None:
        raise ConfigError(
            f"{document} has no [aggregator]; expected the document that `iodeep site init` made "
            "from an invitation"
        )
    read_secret(table.key, what="the site's key")
    with _alone(site.work), _supernode(site, document) as supernode:
        if not _wait_for_aggregator(table, is_to_end, tell):
            return
        position = supernode.lines_since(0)[1]  # where the log of earlier times ends
        last: deque[str] = deque(maxlen=_LAST_LINES)
        while not is_to_end(_LOOK_S):
            status = supernode.keep()
            lines, position = supernode.lines_since(position)
            last.extend(lines)
            for text in _said(lines, site):
                tell(text)
            if status is not None:
                tell(f"{_reason(status, table, last)}; again in {supernode.waits_s:.0f} s")
                last.clear()


def _wait_for_aggregator(
    table: AggregatorTable,
    is_to_end: Callable[[float | None], bool],
    tell: Callable[[str], None],
) -> bool:
    """Whether it answers; not, where it was time to end before."""
    wait_s = 5.0
    while True:
        try:
            check_link(table)
        except AggregatorAway as error:
            tell(f"{error}; again in {wait_s:.0f} s")
            if is_to_end(wait_s):
                return False
            wait_s = min(2 * wait_s, _LONGEST_S)
        else:
            return True


def _supernode(site: Site, document: Path) -> Program:
    home = site.work / "flower"
    make_private(home)
    where = str(document.resolve())
    if '"' in where or "\\" in where:
        raise ConfigError(f"{where} has a quote or a backslash, which Flower does not take")
    return Program(
        "the SuperNode",
        module_command("clients.joining.supernode", where),
        env=environment(home),
        log=site.work / "supernode.log",
        wait_s=_WAIT_S,
        longest_s=_LONGEST_S,
    )


def _said(lines: list[str], site: Site) -> Iterator[str]:
    for line in lines:
        for pattern, text in _SAYS:
            if found := pattern.search(line):
                yield text.format(*found.groups(), site=site.name)


def _reason(status: int, table: AggregatorTable, lines: Iterable[str]) -> str:
    """Why the SuperNode ended, as far as can be told."""
    try:
        check_link(table)
    except FlowerError as error:
        return str(error)
    if any("Failed to activate SuperNode" in line for line in lines):
        return (
            "the aggregator does not let this site in: it is not approved (send the request that "
            "`iodeep site init` wrote, and have its fingerprint compared), was revoked, or another "
            "process is connected with the same key"
        )
    if status == 0:
        return "the aggregator lets this site in no more, or somebody ended the SuperNode"
    return f"the SuperNode ended with {status}"


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the site while it is joined; the system lets go when the process ends."""
    make_private(work)
    with (work / "join.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("the site is joined already, by another process") from None
        yield
