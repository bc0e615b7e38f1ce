"""The site's own log of what it could not do."""

import fcntl
import os
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from federation.config import Site
from federation.errors import IODeepError
from federation.messages import Code
from federation.whole import SECRET, append, make_private

LOG = "client.log"
MAX_BYTES = 10**7
MAX_CHARACTERS = 2000
"""Of a line."""

_PLACES = 40  # the last ones: of a recursion there are a thousand
_LOCK = ".client.log.lock"


def write_log(site: Site | None, work: str, code: Code, error: Exception) -> None:
    """Note an error in ``work/client.log``, or on stderr where there is no site yet, or no room.

    Texts of our own errors hold no patient identifier; those of other libraries may, so only
    their type and the places in the code are kept. What a stranger wrote may be in ours: a line is
    bounded, and has nothing in it that does not print.

    At 10 MB another log begins; ``client.log.1`` and ``client.log.2`` are the two before.
    """
    is_ours = isinstance(error, IODeepError)
    text = str(error) if is_ours else "(text withheld)"
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    head = f"{moment} {work} {code} {type(error).__name__}: {text}"
    lines = [head] if is_ours else [head, *_places(error)]
    entry = "".join(f"{_shown(line)}\n" for line in lines)
    try:
        if site is not None:
            _add(site.work, entry)
            return
    except OSError:  # also on a full disk the message is answered
        pass
    print(entry, file=sys.stderr, end="")


def _add(folder: Path, entry: str) -> None:
    """Several processes may do so at the same time."""
    make_private(folder)
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, SECRET)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = folder / LOG
        if log.exists() and log.stat().st_size >= MAX_BYTES:
            _put_aside(log)
        append(log, entry.encode())
    finally:
        os.close(lock)


def _put_aside(log: Path) -> None:
    first, second = (log.with_name(f"{LOG}.{number}") for number in (1, 2))
    if first.exists():
        first.replace(second)
    log.replace(first)


def _shown(line: str) -> str:
    """As one line of so many characters, all of which print."""
    cut = line[:MAX_CHARACTERS]
    text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in cut)
    return text if len(text) <= MAX_CHARACTERS and cut == line else f"{text[: MAX_CHARACTERS - 1]}…"


def _places(error: Exception) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__, limit=-_PLACES)
    return [f"  {Path(f.filename).name}:{f.lineno} in {f.name}" for f in frames]
