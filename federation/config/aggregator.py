"""The aggregator's document: how sites reach it, and what it keeps. It stays on its machine."""

from pathlib import Path

from pydantic import Field

from federation.config.fields import Address, HostPort, Name
from federation.config.reading import read_document, validate
from federation.pacs.address import parse_address
from federation.values import Value

DOCUMENT = "aggregator.toml"


class LoopbackTable(Value):
    """``[loopback]``: ports of this machine that nobody else reaches.

    superlink: of Flower's SuperLink
    health:    of ``/health`` and of ``/metrics``, for Prometheus
    """

    superlink: int = Field(default=8470, ge=1, le=65535)
    health: int = Field(default=8471, ge=1, le=65535)


class Aggregator(Value):
    """An aggregator: ``aggregator.toml`` in the folder that `iodeep server init` made.

    name:    what sites call it
    address: where sites reach it
    listen:  where nginx listens on this machine
    archive: of models; read and written
    lines:   patterns of the lines that it trains, offered to whoever is invited
    """

    name: Name
    address: HostPort
    listen: HostPort
    archive: Address
    lines: tuple[str, ...]
    loopback: LoopbackTable = LoopbackTable()


def read_aggregator(home: Path) -> Aggregator:
    """The document of an aggregator's folder, its archive's address made absolute.

    Raises :class:`~federation.errors.ConfigError`.
    """
    document = validate(Aggregator, read_document(home / DOCUMENT), str(home / DOCUMENT))
    archive = parse_address(document.archive).beside(home.resolve())
    return document.model_copy(update={"archive": str(archive)})
