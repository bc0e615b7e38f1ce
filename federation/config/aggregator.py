"""The aggregator's document: how sites reach it, and what it keeps. It stays on its machine."""

from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import AfterValidator, Field, JsonValue, ValidationError

from federation.config.fields import Address, HostPort, Name
from federation.config.reading import read_document, validate
from federation.config.site import PolicyTable
from federation.pacs.address import parse_address
from federation.values import Value

DOCUMENT = "aggregator.toml"


def _of_a_site(table: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if own := table.keys() & {"trust", "opt_out"}:
        raise ValueError(f"{min(own)} is for the site alone to say")
    try:
        PolicyTable.model_validate(table)
        tomli_w.dumps(table)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {first['msg']}") from None
    except TypeError:  # null is nothing in TOML
        raise ValueError("expected values that TOML has too") from None
    return table


OfferedPolicy = Annotated[dict[str, JsonValue], AfterValidator(_of_a_site)]
"""What could stand in ``[policy]`` of a site's document, but for what the site alone can say."""

PROPOSAL: OfferedPolicy = {
    "min_studies": 10,
    "rounds": {"per_day": 50, "approval": True},
    "store": {"versions": 1000, "bytes": "20 GB"},
}
"""Of a new aggregator."""


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
    policy:  what invitations propose to a site as its own, which the site decides
    """

    name: Name
    address: HostPort
    listen: HostPort
    archive: Address
    lines: tuple[str, ...]
    policy: OfferedPolicy = PROPOSAL
    loopback: LoopbackTable = LoopbackTable()


def read_aggregator(home: Path) -> Aggregator:
    """The document of an aggregator's folder, its archive's address made absolute.

    Raises :class:`~federation.errors.ConfigError`.
    """
    document = validate(Aggregator, read_document(home / DOCUMENT), str(home / DOCUMENT))
    archive = parse_address(document.archive).beside(home.resolve())
    return document.model_copy(update={"archive": str(archive)})
