"""The way to the aggregator, tried before Flower does: it says why where Flower only ends."""

import email.utils
import socket
import ssl
from datetime import UTC, datetime
from http.client import HTTPException, HTTPSConnection

from federation.config import AggregatorTable
from federation.errors import ConfigError, FlowerError

_TIMEOUT_S = 20.0
AHEAD_S, BEHIND_S = 5.0, 300.0
"""How far this clock may be off the aggregator's, for Flower to take a time that is signed here."""


class AggregatorAway(FlowerError):
    """No answer from the aggregator: it may come back."""


def check_link(table: AggregatorTable, now: datetime | None = None) -> None:
    """Whether the aggregator answers, is who its certificate says, and has the same time.

    Raises :class:`AggregatorAway` where there is no answer, :class:`FlowerError` where somebody
    else answers or clocks differ, and :class:`ConfigError` for a certificate file that is none.
    """
    host, _, port = table.address.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(table.ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{table.ca} holds no certificate of an authority (PEM): {error}; it came with the "
            "invitation"
        ) from error
    connection = HTTPSConnection(host.strip("[]"), int(port), timeout=_TIMEOUT_S, context=context)
    try:
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
    except ssl.SSLCertVerificationError as error:
        raise FlowerError(f"{table.address} is not let in: {_why(error)}") from error
    except ssl.SSLError as error:
        raise FlowerError(
            f"{table.address} does not speak TLS as it should ({error.reason}); is the port right?"
        ) from error
    except socket.gaierror as error:
        raise AggregatorAway(f"the name {host} cannot be resolved: {error.strerror}") from error
    except (OSError, HTTPException) as error:
        raise AggregatorAway(
            f"{table.address} does not answer ({error or type(error).__name__}); the firewall must "
            "allow outbound TCP to it, and the aggregator be running"
        ) from error
    finally:
        connection.close()
    if date is not None:
        _check_clock(email.utils.parsedate_to_datetime(date), now or datetime.now(UTC))


def _why(error: ssl.SSLCertVerificationError) -> str:
    said = error.verify_message
    if "expired" in said:
        return (
            "its certificate has expired, by this machine's clock; the aggregator makes a new one "
            "with `iodeep server renew`"
        )
    if "not yet valid" in said:
        return "its certificate is not valid yet, by this machine's clock; is the clock right?"
    if "ostname mismatch" in said or "IP address mismatch" in said:
        return f"its certificate is another machine's ({said}); is [aggregator] address right?"
    return (
        f"the authority in [aggregator] ca did not certify it ({said}). Either the file is not the "
        "one of the invitation, or something between intercepts TLS: Flower's calls must pass as "
        "they are"
    )


def _check_clock(theirs: datetime, ours: datetime) -> None:
    ahead = (ours - theirs).total_seconds()
    if ahead > AHEAD_S:
        off, allowed = f"{ahead:.0f} s ahead of", AHEAD_S
    elif ahead < -BEHIND_S:
        off, allowed = f"{-ahead:.0f} s behind", BEHIND_S
    else:
        return
    raise FlowerError(
        f"this machine's clock is {off} the aggregator's, and {allowed:.0f} s are allowed; set it "
        "by a time server"
    )
