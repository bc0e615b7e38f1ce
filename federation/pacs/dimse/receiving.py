"""Lets pynetdicom write what it receives beside where it will stay.

It would stream that into the system's temporary folder. That folder may be small, or memory; its
files must be copied from there; and those of a C-GET are never deleted, so that patients' images
would pile up in it. pynetdicom has no setting for it, so the one call that makes these files is
answered here.
"""

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from pynetdicom import dimse_messages, evt
from pynetdicom.association import Association

from federation.pacs.incoming import IncomingFile
from federation.pacs.room import Room

_NOWHERE = Path("/dev/null/nowhere")  # where no file can be made

Place = Callable[[], Path | None]

_PLACES: WeakKeyDictionary[Association, tuple[Place, Room | None]] = WeakKeyDictionary()
_FILES: WeakKeyDictionary[Association, list[IncomingFile]] = WeakKeyDictionary()


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
