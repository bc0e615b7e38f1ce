"""What the SuperLink keeps: a database of messages with their tensors, and room on its disk.

Flower deletes a run's messages and tensors when somebody asks for runs after it has finished, and
never makes the file smaller.
"""

import shutil
import sqlite3
from contextlib import closing, suppress

from federation.sizes import size_text
from server.aggregator.control import Control
from server.aggregator.home import Home

FULL_BYTES = 1 << 30
"""With less free, sites' tensors are refused; the rest is for the archive and the runs' folders."""

LOW_BYTES = 2 << 30
LARGE_BYTES = 20 << 30

_SLACK_BYTES = 64 << 20
_BUSY_S = 1.0


def database_bytes(home: Home) -> int:
    """Of the SuperLink's database, with what it has written ahead."""
    return sum(path.stat().st_size for path in home.superlink.glob(f"{home.database.name}*"))


def free_bytes(home: Home) -> int:
    """Of the disk that the database is on."""
    return shutil.disk_usage(home.path).free


def is_full(home: Home, *, already: bool) -> bool:
    """Whether there is no room for tensors; once it is so, until there is clearly some again."""
    return free_bytes(home) < (LOW_BYTES if already else FULL_BYTES)


def storage_warnings(home: Home) -> list[str]:
    """What who runs the aggregator has to look after before a run breaks off."""
    found = []
    if (free := free_bytes(home)) < LOW_BYTES:
        found.append(
            f"the disk of {home.path} has {size_text(free)} left, and below "
            f"{size_text(FULL_BYTES)} what sites send is refused: free space on it"
        )
    if (kept := database_bytes(home)) > LARGE_BYTES:
        found.append(
            f"{home.database} has {size_text(kept)}, of runs that have not finished: see what "
            "each has received, and end what should not go on (`iodeep server stop`)"
        )
    return found


def tidy(home: Home, control: Control) -> None:
    """Have what finished runs left deleted, and where none goes on, give its room to the disk.

    Raises :class:`~federation.errors.FlowerError` where the SuperLink does not answer.
    """
    if all(run.is_finished for run in control.runs()):
        _compact(home)


def _compact(home: Home) -> None:
    """Make the database's file as small as what is in it; another time, where it is in use."""
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(home.database, timeout=_BUSY_S)) as database,
    ):
        (pages,), (page_bytes,) = (
            database.execute(f"PRAGMA {name}").fetchone()
            for name in ("freelist_count", "page_size")
        )
        if pages * page_bytes >= _SLACK_BYTES:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
