"""How much may still be written into an archive: below its quota, above the disk's reserve."""

import errno
import os
import threading
from pathlib import Path

from federation.sizes import size_text

RESERVE_BYTES = 256 * 10**6
"""Of the disk, left free unless told otherwise: the index and everybody else need some, too."""


class NoRoom(OSError):
    """A write would pass the quota, or leave less of the disk free than is reserved."""


class Room:
    """Counts what is being received, beside what is held. For use from several threads.

    held_bytes: of the files that are there, to be kept up to date
    """

    def __init__(self, folder: Path, *, quota_bytes: int | None, reserve_bytes: int) -> None:
        """``quota_bytes`` of files and no more, those being received included; None: any."""
        self.held_bytes = 0
        self.quota_bytes = quota_bytes
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._receiving_bytes = 0
        self._lock = threading.Lock()

    def check(self, held_bytes: int) -> None:
        """Whether as much may be held. Raises :class:`NoRoom`."""
        if self.quota_bytes is not None and held_bytes > self.quota_bytes:
            raise NoRoom(
                errno.EDQUOT, f"the archive's quota of {size_text(self.quota_bytes)} is reached"
            )

    def take(self, count: int) -> None:
        """Let ``count`` more bytes be written. Raises :class:`NoRoom`."""
        with self._lock:
            self.check(self.held_bytes + self._receiving_bytes + count)
            disk = os.statvfs(self._folder)
            if disk.f_bavail * disk.f_frsize - count < self._reserve_bytes:
                raise NoRoom(
                    errno.ENOSPC,
                    f"the disk is full, but for the {size_text(self._reserve_bytes)} in reserve",
                )
            self._receiving_bytes += count

    def give_back(self, count: int) -> None:
        """What was taken is held now, or was deleted."""
        with self._lock:
            self._receiving_bytes -= count
