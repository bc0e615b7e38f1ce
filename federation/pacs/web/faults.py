"""What goes wrong over HTTP, in words for whoever runs the archive."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException

from federation.errors import PacsError, PacsRefused, PacsUnreachable, StorageError
from federation.pacs.address import WebAddress
from federation.pacs.tls import explain

_BUSY = frozenset({408, 425, 429, 502, 503, 504})
_NO_ROOM = frozenset({413, 507})


class NotThere(PacsError):
    """The archive does not have what was asked for (404)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """Turns the network's, TLS's and HTTP's into ours.

    Requests are named in words, as their URLs may hold a patient's name or number; nor is
    anything repeated of what an archive says about an error.
    """

    to: WebAddress
    timeout_s: float

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Around whatever sends a request or reads its answer."""
        try:
            yield
        except TimeoutError as error:
            raise PacsUnreachable(
                f"{self.to} did not go on with {what} for {self.timeout_s:g} s. Is it busy? "
                "Run again, or give it more time"
            ) from error
        except OSError as error:
            if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
                # The handshake's end: in TLS 1.3 the archive sees our certificate only then.
                raise self.unopened(error, over_tls=True) from error
            raise self.broke_off(what) from error
        except HTTPException:  # whose text repeats what was read
            raise PacsUnreachable(
                f"what {self.to} answered to {what} broke off, or is not HTTP. Is the port right?"
            ) from None

    def broke_off(self, what: str) -> PacsUnreachable:
        """In the middle of a request or of its answer."""
        return PacsUnreachable(f"the connection to {self.to} broke off during {what}. Run again")

    def unopened(self, error: OSError, *, over_tls: bool) -> PacsUnreachable:
        """Why there is no connection, or, once there is one, no TLS over it."""
        said = f"no connection with {self.to}"
        if isinstance(error, TimeoutError):
            return PacsUnreachable(
                f"{said}: the host does not answer. Are address and port right, is a firewall "
                "between?"
            )
        if over_tls:
            # One that breaks off may be the network's fault, so it may be tried again.
            broke_off = isinstance(error, ConnectionError | ssl.SSLEOFError)
            kind = PacsUnreachable if broke_off else PacsRefused
            return kind(f"{said}: {explain(error)}")
        if isinstance(error, ConnectionRefusedError):
            return PacsUnreachable(
                f"{said}: nothing listens at that port. Is the archive running, is the port right?"
            )
        return PacsUnreachable(f"{said}: {error.strerror}. Are host and port right?")

    def of_status(self, what: str, status: int) -> PacsError:
        """What an answer without success means."""
        said = f"{self.to} answered {_described(status)} to {what}"
        if status in (401, 403):
            return PacsRefused(f"{said}: {self._access()}")
        if status in _BUSY:
            return PacsUnreachable(f"{said}: it is busy, or behind something that is; try later")
        if status in _NO_ROOM:
            return StorageError(
                f"{said}: it has no room for that much. Free space on the archive, or let it take "
                "larger requests, then run again"
            )
        if status == 404:
            return NotThere(f"{said}: that is not there, or the address has another path")
        if status == 400 and self.to.tls is not None and self.to.tls.cert is None:  # as nginx does
            return PacsError(
                f"{said}. If it wants a certificate of ours, name it in the address with cert= "
                "and key="
            )
        return PacsError(said)

    def _access(self) -> str:
        if self.to.login is not None:
            return f"it does not let in who {self.to.login} names. Are user and password right?"
        if self.to.token is not None:
            return f"it does not accept the token in {self.to.token}. Has it expired?"
        return "it wants to know who asks; name a file with login=FILE or token=FILE"


def _described(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)
