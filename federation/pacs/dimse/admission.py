"""Who may associate with the embedded archive: AE titles, addresses, or both together."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from federation.errors import ConfigError
from federation.pacs.address import check_ae_title

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_ANY = "*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """An application entity, or several: of a title, in a network; None for any.

    A title proves nothing by itself: whoever connects says it. A network, or TLS with
    certificates of both sides, does.
    """

    title: str | None = None
    network: Network | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``AE``, ``AE@10.1.0.0/16`` or ``*@10.1.0.7``. Raises :class:`ConfigError`."""
        title, separator, place = text.partition("@")
        try:
            network = ipaddress.ip_network(place) if separator else None
        except ValueError as error:
            raise ConfigError(
                f"{text!r:.60} names no caller ({error}); expected AE, AE@10.1.0.0/16 or *@10.1.0.7"
            ) from None
        return cls(title=None if title == _ANY else check_ae_title(title), network=network)

    def may_come_from(self, host: str) -> bool:
        """Whether an IP address is in the network."""
        return self.network is None or _address(host) in self.network


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """Everybody, unless ``callers`` are named."""

    callers: tuple[Caller, ...] = ()

    @classmethod
    def of(cls, callers: Iterable[Caller]) -> Self:
        return cls(callers=tuple(callers))

    def knows_address(self, host: str) -> bool:
        """Whether anyone may come from there."""
        return not self.callers or any(caller.may_come_from(host) for caller in self.callers)

    def admits(self, title: str, host: str) -> bool:
        """Whether this AE title may come from there."""
        return not self.callers or any(
            caller.title in (None, title) and caller.may_come_from(host) for caller in self.callers
        )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """IPv4 may come in over a socket of IPv6, as ::ffff:10.1.0.7; a scope may follow a percent."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped
