"""`iodeep server serve`: the aggregator's processes, kept running until it is asked to end."""

import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from federation.errors import FlowerError
from federation.flower.programs import environment, program, write_programs
from federation.supervision import Program
from server.aggregator.control import Control
from server.aggregator.edge import nginx, write_configuration
from server.aggregator.health import Health
from server.aggregator.home import Home
from server.aggregator.locked import HOME
from server.aggregator.membership import bring_in_line

_LOOK_S = 0.5
_ALIGN_S = 2.0
_WAIT_S, _LONGEST_S = 2.0, 60.0


def serve(
    home: Home, is_to_end: Callable[[float | None], bool], tell: Callable[[str], None]
) -> None:
    """Keep SuperLink and nginx running, let in the sites that are approved and no others.

    is_to_end: waits up to so many seconds, and says whether it is time to end
    tell:      is called with the sites' address when it is first served

    Raises :class:`~federation.errors.ConfigError` where nginx or Flower is not installed.
    """
    with ExitStack() as stack:
        superlink = stack.enter_context(_superlink(home))
        edge = stack.enter_context(_edge(home))
        control = stack.enter_context(Control(home))
        health = stack.enter_context(Health(home, control, (superlink, edge)))
        aligned, is_told = -math.inf, False
        kept = [superlink]
        shown = _changed(home)
        while not is_to_end(_LOOK_S):
            if _changed(home) != shown:  # `iodeep server renew`
                shown = _changed(home)
                edge.signal(signal.SIGHUP)
            for one in kept:
                status = one.keep()
                if status is not None:
                    _complain(f"{one.what} ended with {status}; again in {one.waits_s:.0f} s")
            if time.monotonic() - aligned < _ALIGN_S:
                continue
            aligned = time.monotonic()
            try:
                bring_in_line(home, control, _complain)
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


def _changed(home: Home) -> tuple[int, int]:
    """When the certificate that sites see, and its key, were written."""
    paths = (home.certificate("server"), home.private_key("server"))
    certificate, key = (path.stat().st_mtime_ns for path in paths)
    return certificate, key


def _superlink(home: Home) -> Program:
    programs = home.superlink / "programs"
    write_programs(programs, "flwr-serverapp", "server.aggregator.locked")
    command = [
        str(program("flower-superlink")),
        "--ssl-ca-certfile", str(home.certificate("ca")),
        "--ssl-certfile", str(home.certificate("loopback")),
        "--ssl-keyfile", str(home.private_key("loopback")),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        "--database", str(home.superlink / "state.db"),
        "--host", "127.0.0.1", "--port", str(home.document.loopback.superlink),
    ]  # fmt: skip
    return Program(
        "the SuperLink",
        lambda: command,
        env=environment(programs, home.superlink / "flower", **{HOME: str(home.path.resolve())}),
        log=home.superlink / "superlink.log",
        wait_s=_WAIT_S,
        longest_s=_LONGEST_S,
    )


def _edge(home: Home) -> Program:
    configuration = write_configuration(home)
    command = [nginx(), "-e", "stderr", "-p", str(home.nginx), "-c", str(configuration.resolve())]
    return Program(
        "nginx",
        lambda: command,
        env={"PATH": "/usr/sbin:/usr/bin:/bin"},
        log=home.nginx / "nginx.log",
        wait_s=_WAIT_S,
        longest_s=_LONGEST_S,
    )


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
