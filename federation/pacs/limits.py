"""What we take of an archive, and how long we wait for it."""

import threading
import time
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from federation.errors import PacsRefused, PacsUnreachable
from federation.values import Value

MAX_BACKOFF_S = 60.0
_BURST_S = 0.1


class Limits(Value):
    """``[archives.limits]``: for each of a site's archives. All waits have an end.

    timeout_s:    every single wait: to connect, for each answer, for the next bytes of one
    associations: at once (or HTTP connections)
    storing:      of these, as many store at once. More than one is faster, where the archive keeps
                  apart what comes at once: dcmqrscp does not
    mb_per_s:     megabytes (10^6) a second, of all of them together, sent and received; no limit
                  unless given
    attempts:     how often something is tried where the archive cannot be reached, breaks off or
                  is busy
    backoff_s:    before the second attempt; each further wait is twice as long, up to a minute
    """

    timeout_s: PositiveFloat = 30.0
    associations: Annotated[int, Field(ge=1, le=32)] = 4
    storing: Annotated[int, Field(ge=1, le=32)] = 1
    mb_per_s: PositiveFloat | None = None
    attempts: PositiveInt = 3
    backoff_s: PositiveFloat = 1.0


STANDARD = Limits()
"""Where a document says nothing."""


class Throttle:
    """Lets no more bytes pass than a limit allows; used by all connections to an archive."""

    def __init__(self, mb_per_s: float | None) -> None:
        self._bytes_per_s = mb_per_s and mb_per_s * 1e6
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait_for(self, count: int) -> None:
        """Wait until ``count`` more bytes may pass. Raises nothing; without a limit, no wait."""
        if self._bytes_per_s is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _BURST_S) + count / self._bytes_per_s
            delay = self._free_at - now
        if delay > 0:
            time.sleep(delay)


def attempts(limits: Limits) -> Retrying:
    """Calls a function until it answers: again where the archive could not be reached.

    What it refuses for good (:class:`PacsRefused`) is raised at once, anything else too.
    """
    return Retrying(
        stop=stop_after_attempt(limits.attempts),
        wait=wait_exponential(multiplier=limits.backoff_s, max=MAX_BACKOFF_S),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, PacsUnreachable) and not isinstance(error, PacsRefused)
