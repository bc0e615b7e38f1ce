"""Instances that an archive sends because we asked for them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pynetdicom import evt
from pynetdicom.dimse_primitives import C_STORE

from federation.pacs.attributes import is_uid
from federation.pacs.dimse.receiving import receive_into
from federation.pacs.incoming import IncomingFile


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
            _incoming_file(event).move(path)
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


class Inbox:
    """Takes what comes over associations while it is asked for, and lets go of all else."""

    def __init__(self) -> None:
        self._arrivals: Arrivals | None = None
        self.handlers: Sequence[tuple[Any, Any]] = (
            (evt.EVT_CONN_OPEN, self._on_open),
            (evt.EVT_C_STORE, self._on_store),
        )
        """For every association that instances may come over."""

    @contextmanager
    def taking(self, arrivals: Arrivals) -> Iterator[None]:
        """While the context lasts, instances go to ``arrivals``."""
        self._arrivals = arrivals
        try:
            yield
        finally:
            self._arrivals = None

    def _on_open(self, event: evt.Event) -> None:
        """The place is looked up for each instance: associations outlast a retrieval."""
        receive_into(event.assoc, lambda: None if self._arrivals is None else self._arrivals.folder)

    def _on_store(self, event: evt.Event) -> int:
        with _incoming_file(event):
            return 0xC000 if self._arrivals is None else self._arrivals.take(event)


def _incoming_file(event: evt.Event) -> IncomingFile:
    """The file that a C-STORE's data set was written into. Close it."""
    return cast(IncomingFile, cast(C_STORE, event.request)._dataset_file)
