"""A site's archives: reached and asked."""

import os
import socket
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime

from clients.doctor.finding import Finding, Subject
from clients.doctor.secured import examine_tls
from federation.closing import Closing
from federation.errors import ConfigError, PacsError, PacsRefused, PacsUnreachable
from federation.pacs import DicomwebGateway, Gateway, Limits, Moved, open_gateway
from federation.pacs.address import Address, DimseAddress, parse_address

_CLOSE_S = 120.0
_ENOUGH_S = 5.0
"""For one association beside another, from an archive that has just answered."""


class ArchiveExamination(Closing):
    """One of a site's archives. Close it, or use it as a context manager.

    about:   which of the two it is
    gateway: to it, once it was reached
    """

    gateway: Gateway

    def __init__(
        self, about: str, address: str, *, limits: Limits, now: datetime, moved: Moved
    ) -> None:
        self._subject = Subject(about=about)
        self._address = address
        self._to = parse_address(address)
        self._limits = limits
        self._now = now
        self._moved = moved
        self._stack = ExitStack()

    def close(self) -> None:
        self._stack.close()

    def reach(self) -> Generator[Finding, None, bool]:
        """Whether it answers, over what, and finds what is asked.

        Returns whether it does; nothing else can be tried with one that does not.
        """
        try:
            gateway = open_gateway(self._address, limits=self._limits, moved=self._moved)
        except (ConfigError, PacsError) as error:
            advice = "correct its address in [archives], or what that names"
            yield self._subject.failed("address", error, advice)
            return False
        self.gateway = self._stack.enter_context(gateway)
        if not (yield from self._echo()):
            return False
        yield examine_tls(self._subject, self._to, now=self._now, timeout_s=self._limits.timeout_s)
        if not (yield from self._find()):
            return False
        if isinstance(self._to, DimseAddress):
            yield from self._several()
            yield from self._listening(self._to)
        return True

    def _echo(self) -> Generator[Finding, None, bool]:
        """Tried once: an archive that has to be tried again and again is not well."""
        failed = self._subject.failed
        once = self._limits.model_copy(update={"attempts": 1})
        begin = time.perf_counter()
        try:
            with open_gateway(self._address, limits=once) as gateway:
                gateway.echo()
                took_ms = (time.perf_counter() - begin) * 1000
                ahead_s = gateway.clock_ahead_s if isinstance(gateway, DicomwebGateway) else None
        except PacsRefused as error:
            yield failed("echo", error, _entry_advice(self._to))
            return False
        except PacsUnreachable as error:
            yield failed(
                "echo",
                error,
                "check host and port in [archives], that the archive is running, and firewalls "
                "between",
            )
            return False
        except (PacsError, ConfigError) as error:
            yield failed(
                "echo", error, "something answers, but not as an archive: check its address"
            )
            return False
        yield self._subject.passed("echo", f"{self._address} answers in {took_ms:.0f} ms")
        if ahead_s is not None:
            yield self._clock(ahead_s)
        return True

    def _clock(self, ahead_s: float) -> Finding:
        """Whether the archive and this machine agree on what time it is."""
        way = "ahead of" if ahead_s > 0 else "behind"
        seen = f"the archive's clock is {abs(ahead_s):.0f} s {way} this machine's"
        if abs(ahead_s) < _CLOSE_S:
            return self._subject.passed("clock", seen)
        return self._subject.warned(
            "clock", seen, "set both by NTP: certificates, records and logs go by them"
        )

    def _find(self) -> Generator[Finding, None, bool]:
        try:
            found = self.gateway.find("STUDY", {"StudyInstanceUID": "", "PatientID": "IODEEP*"})
        except PacsError as error:
            yield self._subject.failed(
                "find", error, "have it allow C-FIND (or QIDO-RS) to us; its log says why not"
            )
            return False
        yield self._subject.passed("find", f"studies of IODeep's patients: {len(found)}")
        return True

    def _several(self) -> Iterator[Finding]:
        """Whether there are as many associations as the limits allow."""
        wanted = self._limits.associations
        if wanted == 1:
            return
        timeout_s = min(_ENOUGH_S, self._limits.timeout_s)
        once = self._limits.model_copy(update={"attempts": 1, "timeout_s": timeout_s})
        with ExitStack() as stack:
            others = [
                stack.enter_context(open_gateway(self._address, limits=once))
                for _ in range(wanted - 1)
            ]
            with ThreadPoolExecutor(len(others)) as pool:
                answered = 1 + sum(pool.map(_answers, others))
        if answered == wanted:
            yield self._subject.passed("associations", f"{answered} at once")
        else:
            yield self._subject.warned(
                "associations",
                f"{answered} at once, where [archives.limits] has {wanted}",
                f"have it allow more, or set associations = {answered}; fewer are slower",
            )

    def _listening(self, to: DimseAddress) -> Iterator[Finding]:
        """Whether the archive could reach us where the address says so."""
        port = to.listen
        if port is None:
            return
        if to.tls is not None and to.tls.cert is None:
            yield self._subject.failed(
                "listen",
                f"over TLS the archive can reach us at port {port} only with a certificate of ours",
                "add cert=OWN.crt&key=OWN.key to its address, or leave out listen",
            )
            return
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            yield self._subject.failed(
                "listen",
                f"port {port} of this machine, where the archive is to reach us, cannot be had: "
                f"{os.strerror(error.errno or 0)}",
                "end what else listens there, or have the archive reach us at another port, and "
                "name that one with listen",
            )
            return
        yield self._subject.passed("listen", f"port {port} of this machine is free for us")


def _entry_advice(to: Address) -> str:
    """What lets us in, of an archive that does not."""
    match to:
        case DimseAddress(tls=None):
            return (
                f"have it know {to.calling} at this machine's address, and go by {to.called}; or "
                "correct the two in [archives]"
            )
        case DimseAddress():
            return (
                "correct tls, cert and key in [archives], or the AE titles; or have it know our "
                "certificate and AE title"
            )
    return "correct login, token or tls in [archives]; or have it let that user in"


def _answers(gateway: Gateway) -> bool:
    try:
        gateway.echo()
    except PacsError:
        return False
    return True
