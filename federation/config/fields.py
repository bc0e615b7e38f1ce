"""Kinds of values that documents hold."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from federation.errors import ConfigError
from federation.pacs.address import parse_address
from federation.sizes import parse_size

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


def _address(text: str) -> str:
    try:
        parse_address(text)
    except ConfigError as error:  # pydantic says where it stands in the document
        raise ValueError(str(error)) from None
    return text


Address = Annotated[str, AfterValidator(_address)]
"""Where an archive is, in the notation of :mod:`federation.pacs.address`."""


def _bytes(value: Any) -> Any:
    try:
        return parse_size(value) if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(str(error)) from None


Bytes = Annotated[PositiveInt, BeforeValidator(_bytes)]
"""A number of bytes, or such as "20 GB"."""


def _host_and_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError('expected HOST:PORT, as "federation.example.org:443"')
    return text


HostPort = Annotated[str, AfterValidator(_host_and_port)]
"""A host and a port, as "federation.example.org:443"."""
