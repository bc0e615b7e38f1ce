"""One notation for every archive.

``dimse://CALLED@host:port?calling=AE``   DICOM associations; unusual characters as %XX
``folder:PATH``                           the files of an embedded archive, without a network
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from federation.errors import ConfigError

DEFAULT_CALLING = "IODEEP"

_AE_TITLE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?")


@dataclass(frozen=True, kw_only=True, slots=True)
class DimseAddress:
    """An application entity: its title, where it listens, and the title to call it by."""

    called: str
    host: str
    port: int
    calling: str = DEFAULT_CALLING

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``dimse://CALLED@host:port?calling=AE``. Raises :class:`ConfigError`."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise _unreadable(text, str(error)) from None
        if parts.scheme != "dimse" or parts.username is None or not parts.hostname or not port:
            raise _unreadable(text, "title, host and port are all needed")
        if parts.password is not None or parts.path or parts.fragment:
            raise _unreadable(text, "there is more in it than title, host, port and options")
        options = parse_qs(parts.query, keep_blank_values=True)
        if unknown := sorted(options.keys() - {"calling"}):
            raise _unreadable(text, f"unknown option {unknown[0]!r}")
        calling = options.get("calling", [DEFAULT_CALLING])[-1]
        return cls(
            called=check_ae_title(unquote(parts.username)),
            host=parts.hostname,
            port=port,
            calling=check_ae_title(calling),
        )

    def __str__(self) -> str:
        suffix = "" if self.calling == DEFAULT_CALLING else f"?calling={_quoted(self.calling)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"dimse://{_quoted(self.called)}@{host}:{self.port}{suffix}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderAddress:
    """The folder of an embedded archive."""

    path: Path

    def __str__(self) -> str:
        return f"folder:{self.path}"


def parse_address(text: str) -> DimseAddress | FolderAddress:
    """Read an address of any kind. Raises :class:`ConfigError`."""
    if text.startswith("folder:") and len(text) > len("folder:"):
        return FolderAddress(path=Path(text.removeprefix("folder:")))
    return DimseAddress.parse(text)


def check_ae_title(title: str) -> str:
    """An AE title (PS3.5 Section 6.2, VR AE): 1 to 16 characters, no backslash or control."""
    if not _AE_TITLE.fullmatch(title):
        raise ConfigError(
            f"{title!r} is no AE title: 1 to 16 printable ASCII characters without backslash"
        )
    return title


def _quoted(title: str) -> str:
    """AE titles may hold what separates the parts of an address."""
    return quote(title, safe="")


def _unreadable(text: str, why: str) -> ConfigError:
    return ConfigError(
        f"{text!r} is no archive address ({why}); expected dimse://CALLED@host:port?calling=AE "
        "or folder:PATH"
    )
