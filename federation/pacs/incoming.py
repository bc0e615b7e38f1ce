"""Files that instances are written into while they come in: beside where they will stay."""

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

from federation.closing import Closing
from federation.pacs.room import Room


class IncomingFile(Closing):
    """A file that is being written, under a name of its own and locked; gone when closed.

    A write that fails is remembered, not raised: pynetdicom writes in the thread that serves
    the connection, and an exception there would leave the peer without any answer. Whatever
    comes after it is let go, and what came before it: it shall not fill a disk that is full.
    """

    def __init__(self, folder: Path, room: Room | None = None) -> None:
        """With a ``room``, no more is written than it has."""
        self.path = folder
        self.error: OSError | None = None
        self._room = room
        self._taken = 0
        self._descriptor = -1
        try:
            self._descriptor, name = tempfile.mkstemp(dir=folder, prefix="incoming-")
            self.path = Path(name)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as error:
            self.error = error

    # What pynetdicom uses of a temporary file: name, write, file.flush and close.

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def file(self) -> Self:
        return self

    @property
    def closed(self) -> bool:
        return self._descriptor < 0

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self._write(memoryview(data))
            except OSError as error:
                self.error = error
                with suppress(OSError):
                    os.truncate(self._descriptor, 0)
                self._give_back()
        return len(data)

    def _write(self, view: memoryview) -> None:
        if self._room is not None:
            self._room.take(len(view))
            self._taken += len(view)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _give_back(self) -> None:
        if self._room is not None:
            self._room.give_back(self._taken)
            self._taken = 0

    def flush(self) -> None:
        """Nothing is held back; writes are the size of a PDU."""

    def close(self) -> None:
        """Delete the file unless it was moved to its place. Closing twice is harmless."""
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1
            self._give_back()

    # What its receiver uses.

    def check(self) -> None:
        """Raises the :class:`OSError` of the first write that failed."""
        if self.error is not None:
            raise self.error

    def size(self) -> int:
        """In bytes. Raises :class:`OSError`."""
        self.check()
        return os.fstat(self._descriptor).st_size

    def sync(self) -> None:
        """Make what was written durable. Raises :class:`OSError`."""
        self.check()
        os.fsync(self._descriptor)

    def move(self, target: Path) -> None:
        """Give the file its place, in one step. Raises :class:`OSError`."""
        self.check()
        self.path.replace(target)
        self._give_back()


def remove_abandoned(folder: Path) -> int:
    """Delete incoming files that no living process writes; returns how many."""
    removed = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed += 1
    return removed
