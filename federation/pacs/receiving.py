"""Where instances are written while they come in: beside where they will stay.

pynetdicom streams what it receives into the system's temporary folder. That folder may be
small, or memory; its files must be copied from there; and those of a C-GET are never deleted,
so that patients' images would pile up in it. pynetdicom has no setting for it, so the one call
that makes these files is answered here.
"""

import fcntl
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from weakref import WeakKeyDictionary

from pynetdicom import dimse_messages, evt
from pynetdicom.association import Association

from federation.closing import Closing
from federation.pacs.room import Room

_NOWHERE = Path("/dev/null/nowhere")  # where no file can be made

Place = Callable[[], Path | None]

_PLACES: "WeakKeyDictionary[Association, tuple[Place, Room | None]]" = WeakKeyDictionary()
_FILES: "WeakKeyDictionary[Association, list[IncomingFile]]" = WeakKeyDictionary()


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


def receive_into(association: Association, place: Place, room: Room | None = None) -> None:
    """Let what comes in over an association be written into a folder, as far as there is room.

    ``place`` is asked when an instance begins to come; where it has none, the instance is let go.
    """
    _PLACES[association] = place, room


def discard_unfinished(event: evt.Event) -> None:
    """Handler of EVT_CONN_CLOSE: an instance that broke off in the middle leaves no file."""
    message = event.assoc.dimse.message
    file = getattr(message, "_data_set_file", None)
    if isinstance(file, IncomingFile):
        file.close()


def discard_all(association: Association) -> None:
    """Close the files of an association that has ended, those that nobody took among them."""
    for file in _FILES.pop(association, []):
        file.close()


def _file_of_this_thread(**options: Any) -> Any:
    """Made in the thread of the association that it is for."""
    association = getattr(threading.current_thread(), "assoc", None)
    if not isinstance(association, Association) or association not in _PLACES:
        return tempfile.NamedTemporaryFile(**options)
    place, room = _PLACES[association]
    file = IncomingFile(place() or _NOWHERE, room)
    _FILES[association] = [*(f for f in _FILES.get(association, []) if not f.closed), file]
    return file


# By name, as the type of what is replaced is tempfile's own.
setattr(dimse_messages, "NamedTemporaryFile", _file_of_this_thread)  # noqa: B010
