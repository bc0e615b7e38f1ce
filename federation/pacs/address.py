"""One notation for every archive.

``dimse://CALLED@host:port?calling=AE``   DICOM associations; unusual characters as %XX
``dicomweb+https://host/dicom-web``       DICOMweb; ``dicomweb+http`` for what stays on one machine
``folder:PATH``                           the files of an embedded archive, without a network

Options follow a question mark, joined by ``&``. They name files, never secrets:

``calling=AE``                our AE title (DIMSE; IODEEP unless given)
``listen=PORT``               where the archive reaches us, if it is set up so: for C-MOVE and
                              for reports of storage commitment (DIMSE)
``tls=CA.crt``                the certificates to trust; ``tls=system`` for the system's
``cert=OWN.crt&key=OWN.key``  our own certificate, where the archive asks for one
``login=FILE``                one line, ``user:password`` (DICOMweb); mode 0600
``token=FILE``                one line, a bearer token (DICOMweb); mode 0600
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from federation.errors import ConfigError
from federation.pacs.tls import SYSTEM, Tls

DEFAULT_CALLING = "IODEEP"

_AE_TITLE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?")
_PASSWORD = re.compile(r"(//[^/:@]*):[^@]*@")
_SAFE_IN_PATH = "/~,@:"  # what a path may hold without %XX beside letters, digits and _.-


@dataclass(frozen=True, kw_only=True, slots=True)
class DimseAddress:
    """An application entity: its title, where it listens, and the title to call it by.

    listen: the port that the archive knows our own application entity to listen at, if any
    """

    called: str
    host: str
    port: int
    calling: str = DEFAULT_CALLING
    listen: int | None = None
    tls: Tls | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``dimse://CALLED@host:port?calling=AE``. Raises :class:`ConfigError`."""
        parts = _split(text)
        if parts.username is None or not parts.hostname or not parts.port:
            raise _unreadable(text, "title, host and port are all needed")
        if parts.password is not None or parts.path or parts.fragment:
            raise _unreadable(text, "there is more in it than title, host, port and options")
        options = _options(text, parts, ("calling", "listen", "tls", "cert", "key"))
        if "listen" in options and options.get("tls") == SYSTEM:
            raise _unreadable(
                text,
                f"with listen, tls={SYSTEM} would let in whoever has a certificate of any public "
                "authority; name the file of the one that the archive's is of",
            )
        return cls(
            called=check_ae_title(unquote(parts.username)),
            host=parts.hostname,
            port=parts.port,
            calling=check_ae_title(options.get("calling", DEFAULT_CALLING)),
            listen=_port(text, options.get("listen")),
            tls=_tls(text, options, needed="tls"),
        )

    def beside(self, folder: Path) -> Self:
        """The same, with files that are named relative to ``folder``."""
        return replace(self, tls=self.tls and self.tls.beside(folder))

    def __str__(self) -> str:
        options = [
            *([] if self.calling == DEFAULT_CALLING else [f"calling={_quoted(self.calling)}"]),
            *([] if self.listen is None else [f"listen={self.listen}"]),
            *(_tls_options(self.tls) if self.tls else []),
        ]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"dimse://{_quoted(self.called)}@{host}:{self.port}{_joined(options)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class WebAddress:
    """The root of an archive's DICOMweb services (PS3.18), and the files that let us in.

    url: without options and without a slash at its end
    """

    url: str
    login: Path | None = None
    token: Path | None = None
    tls: Tls | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``dicomweb+https://host/path``. Raises :class:`ConfigError`."""
        parts = _split(text)
        if not parts.hostname or parts.username is not None or parts.fragment:
            raise _unreadable(text, "host and path are needed; a login is named as login=FILE")
        options = _options(text, parts, ("tls", "cert", "key", "login", "token"))
        if "login" in options and "token" in options:
            raise _unreadable(text, "login and token exclude each other")
        scheme = parts.scheme.removeprefix("dicomweb+")
        if scheme == "http" and options.keys() & {"tls", "cert", "key"}:
            raise _unreadable(text, "there is no TLS in http; write dicomweb+https")
        return cls(
            url=f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}",
            login=_path(options.get("login")),
            token=_path(options.get("token")),
            tls=_tls(text, {"tls": SYSTEM, **options}, needed="tls") if scheme == "https" else None,
        )

    def beside(self, folder: Path) -> Self:
        """The same, with files that are named relative to ``folder``."""
        return replace(
            self,
            login=self.login and folder / self.login,
            token=self.token and folder / self.token,
            tls=self.tls and self.tls.beside(folder),
        )

    def __str__(self) -> str:
        tls = _tls_options(self.tls) if self.tls else []
        options = [
            *(f"{name}={_file(path)}" for name, path in self._secrets() if path is not None),
            *(option for option in tls if option != f"tls={SYSTEM}"),
        ]
        return f"dicomweb+{self.url}{_joined(options)}"

    def _secrets(self) -> Iterable[tuple[str, Path | None]]:
        return (("login", self.login), ("token", self.token))


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderAddress:
    """The folder of an embedded archive."""

    path: Path

    def beside(self, folder: Path) -> Self:
        """The same, with the path taken relative to ``folder``."""
        return replace(self, path=folder / self.path)

    def __str__(self) -> str:
        return f"folder:{self.path}"


Address = DimseAddress | WebAddress | FolderAddress


def parse_address(text: str) -> Address:
    """Read an address of any kind. Raises :class:`ConfigError`."""
    if text.startswith("folder:") and len(text) > len("folder:"):
        return FolderAddress(path=Path(text.removeprefix("folder:")))
    if text.startswith(("dicomweb+https:", "dicomweb+http:")):
        return WebAddress.parse(text)
    if text.startswith("dimse:"):
        return DimseAddress.parse(text)
    raise _unreadable(text, "it begins with none of dimse:, dicomweb+https: and folder:")


def check_ae_title(title: str) -> str:
    """An AE title (PS3.5 Section 6.2, VR AE): 1 to 16 characters, no backslash or control."""
    if not _AE_TITLE.fullmatch(title):
        raise ConfigError(
            f"{title!r} is no AE title: 1 to 16 printable ASCII characters without backslash"
        )
    return title


# --- reading ------------------------------------------------------------------------------


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port  # read now: it may be no number
    except ValueError as error:
        raise _unreadable(text, str(error)) from None
    return parts


def _options(text: str, parts: SplitResult, known: tuple[str, ...]) -> dict[str, str]:
    options = parse_qs(parts.query, keep_blank_values=True)
    for name, values in options.items():
        if name not in known:
            raise _unreadable(text, f"unknown option {name!r}; there are {', '.join(known)}")
        if len(values) > 1 or not values[0]:
            raise _unreadable(text, f"option {name!r} needs one value")
    return {name: value for name, (value,) in options.items()}


def _tls(text: str, options: dict[str, str], *, needed: str) -> Tls | None:
    if "cert" in options and needed not in options:
        raise _unreadable(text, "cert goes with tls=CA.crt, the certificates to trust")
    if ("cert" in options) != ("key" in options):
        raise _unreadable(text, "cert and key go together")
    if needed not in options:
        return None
    trusted = options[needed]
    return Tls(
        ca=None if trusted == SYSTEM else Path(trusted),
        cert=_path(options.get("cert")),
        key=_path(options.get("key")),
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _port(text: str, port: str | None) -> int | None:
    if port is None:
        return None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise _unreadable(text, f"listen={port!r:.20} is no port")
    return int(port)


# --- spelling -----------------------------------------------------------------------------


def _tls_options(tls: Tls) -> list[str]:
    options = [f"tls={SYSTEM if tls.ca is None else _file(tls.ca)}"]
    if tls.cert is not None and tls.key is not None:
        options += [f"cert={_file(tls.cert)}", f"key={_file(tls.key)}"]
    return options


def _joined(options: list[str]) -> str:
    return f"?{'&'.join(options)}" if options else ""


def _quoted(title: str) -> str:
    """AE titles may hold what separates the parts of an address."""
    return quote(title, safe="")


def _file(path: Path) -> str:
    return quote(str(path), safe=_SAFE_IN_PATH)


def _unreadable(text: str, why: str) -> ConfigError:
    shown = _PASSWORD.sub(r"\1:…@", text)
    return ConfigError(
        f"{shown!r} is no archive address ({why}); expected dimse://CALLED@host:port?calling=AE, "
        "dicomweb+https://host/path or folder:PATH"
    )
