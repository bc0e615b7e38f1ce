"""Instances that an archive sends because we asked for them."""

from pathlib import Path
from typing import cast

from pynetdicom import evt
from pynetdicom.dimse_primitives import C_STORE

from federation.pacs.attributes import is_uid
from federation.pacs.receiving import IncomingFile


class Arrivals:
    """Where the instances of one retrieval go, and what came.

    expected: their UIDs; others are not taken
    """

    def __init__(self, folder: Path, expected: frozenset[str]) -> None:
        self.folder = folder
        self._expected = expected
        self.paths: dict[str, Path] = {}
        self.failure: OSError | None = None

    def take(self, event: evt.Event) -> int:
        """Give an instance that was received the place it stays at; the C-STORE's status."""
        uid = str(cast(C_STORE, event.request).AffectedSOPInstanceUID)
        if not is_uid(uid) or uid not in self._expected:
            return 0xC000
        path = self.folder / f"{uid}.dcm"
        try:
            incoming_file(event).move(path)
        except OSError as error:
            self.failure = error
            return 0xA700
        self.paths[uid] = path
        return 0x0000

    def discard(self) -> None:
        """Delete what came."""
        for path in self.paths.values():
            path.unlink(missing_ok=True)
        self.paths.clear()


def incoming_file(event: evt.Event) -> IncomingFile:
    """The file that a C-STORE's data set was written into. Close it."""
    return cast(IncomingFile, cast(C_STORE, event.request)._dataset_file)
