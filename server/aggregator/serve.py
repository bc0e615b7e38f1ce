"""`iodeep server serve`: the aggregator's processes, kept running until it is asked to end."""

import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from federation.errors import FlowerError
from federation.flower.programs import environment, module_command
from federation.supervision import Program
from federation.whole import make_private
from server.aggregator.authority import shown_certificate
from server.aggregator.control import Control
from server.aggregator.edge import command, write_approved, write_room
from server.aggregator.health import Health
from server.aggregator.home import Home
from server.aggregator.locked import HOME
from server.aggregator.membership import Membership, bring_in_line
from server.aggregator.storage import is_full, storage_warnings, tidy

_LOOK_S = 0.5
_ALIGN_S = 2.0
_TIDY_S = 60.0
_WAIT_S, _LONGEST_S = 2.0, 60.0


def serve(
    home: Home, is_to_end: Callable[[float | None], bool], tell: Callable[[str], None]
) -> None:
    """Keep SuperLink and nginx running, let in the sites that are approved and no others.

    is_to_end: waits up to so many seconds, and says whether it is time to end
    tell:      is called with the sites' address when it is first served

    Raises :class:`~federation.errors.ConfigError` where nginx is not installed.
    """
    with ExitStack() as stack:
        superlink = stack.enter_context(_superlink(home))
        edge = stack.enter_context(_edge(home))
        control = stack.enter_context(Control(home))
        health = stack.enter_context(Health(home, control, (superlink, edge)))
        membership, front = Membership(home, _complain), _Front(home, edge)
        aligned, tidied, is_told = -math.inf, -math.inf, False
        kept = [superlink]
        while not is_to_end(_LOOK_S):
            for one in kept:
                status = one.keep()
                if status is not None:
                    _complain(f"{one.what} ended with {status}; again in {one.waits_s:.0f} s")
            if time.monotonic() - aligned < _ALIGN_S:
                continue
            aligned = time.monotonic()
            sites = membership.look()
            front.keep_up(sites)
            try:
                bring_in_line(sites, control, _complain)
                if aligned - tidied >= _TIDY_S:
                    tidied = aligned
                    tidy(home, control)
            except FlowerError as error:
                health.is_ready = False
                if is_told:
                    _complain(str(error))
                continue
            kept = [superlink, edge]  # nobody is turned away who was approved already
            health.is_ready = edge.is_running
            if health.is_ready and not is_told:
                tell(home.document.address)
                is_told = True


class _Front:
    """Has nginx read its configuration again where something in it is another than before."""

    def __init__(self, home: Home, edge: Program) -> None:
        self._home = home
        self._edge = edge
        self._certificate = shown_certificate(home)
        self._is_full = False

    def keep_up(self, sites: Mapping[bytes, str] | None) -> None:
        """Show the certificate that there is, pass the calls of these sites, and no tensors onto
        a full disk. Where sites are None the same are passed as before."""
        found = shown_certificate(self._home)
        is_new = found is not None and found != self._certificate  # `iodeep server renew`
        self._certificate = found or self._certificate
        if sites is not None:
            is_new |= write_approved(self._home, sites)
        was_full, self._is_full = self._is_full, is_full(self._home, already=self._is_full)
        is_new |= write_room(self._home, is_full=self._is_full)
        if self._is_full and not was_full:
            _complain(" ".join(storage_warnings(self._home)))
        if is_new:
            self._edge.signal(signal.SIGHUP)


def _superlink(home: Home) -> Program:
    make_private(home.superlink)
    return Program(
        "the SuperLink",
        module_command("server.aggregator.superlink", home.path.resolve()),
        env=environment(home.superlink / "flower", **{HOME: str(home.path.resolve())}),
        log=home.superlink / "superlink.log",
        wait_s=_WAIT_S,
        longest_s=_LONGEST_S,
    )


def _edge(home: Home) -> Program:
    return Program(
        "nginx",
        command(home),
        env={"PATH": "/usr/sbin:/usr/bin:/bin"},
        log=home.nginx / "nginx.log",
        wait_s=_WAIT_S,
        longest_s=_LONGEST_S,
    )


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
