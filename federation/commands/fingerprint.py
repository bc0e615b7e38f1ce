"""Fingerprints that a person reads out to another by telephone."""

import sys
from typing import Annotated

import typer

from federation.errors import ConfigError

Fingerprint = Annotated[
    str | None, typer.Option(help="As it was read out by telephone; asked for unless given.")
]


def said_fingerprint(given: str | None, whose: str) -> str:
    """The fingerprint as it was read out. What the file has is not shown: it would be copied.

    Raises :class:`ConfigError` where there is nobody to ask.
    """
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise ConfigError(
            f"nobody is here to type the fingerprint of {whose}; have it read out by telephone, "
            "and give it as --fingerprint TEXT"
        )
    return str(typer.prompt(f"The fingerprint of {whose}, as read out by telephone", err=True))
