"""The seam between this software and any archive.

Everything above (registry, data, apps) speaks to a PACS through :class:`Gateway` alone;
what differs between archives stays behind it.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from pydicom import Dataset

Level = Literal["STUDY", "SERIES", "IMAGE"]
Moved = Callable[[int], None]
"""Told how many bytes were sent or received since it was last told; from any thread."""


def untold(_: int) -> None:
    """For who does not want to know what moves."""


class Gateway(Protocol):
    """An open way to one archive. Close it, or use it as a context manager.

    Methods raise :class:`~federation.errors.PacsUnreachable` when the archive cannot be
    reached, however often it was tried, :class:`~federation.errors.PacsRefused` when it does not
    let us in, and :class:`~federation.errors.PacsError` when it refuses or fails. Ctrl-C ends
    any of them at once. Not for use from several threads at once.
    """

    @property
    def address(self) -> str:
        """The archive's address, as written in a document."""

    def echo(self) -> None:
        """Ask the archive whether it is there (PS3.4 Annex A, Verification)."""

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        """Matches of ``keys`` at ``level`` (PS3.4 Annex C, Study Root).

        ``keys`` maps attribute keywords to values; ``""`` asks for the attribute without
        matching it, ``*`` and ``?`` are wildcards. SERIES needs ``StudyInstanceUID``, IMAGE
        needs ``SeriesInstanceUID`` too. Each UID of the level occurs once, and every answer is
        filtered again here, as archives ignore keys they do not support; only an attribute
        that an archive does not even return cannot be checked. Raises
        :class:`~federation.errors.ConfigError` for a key that is no keyword or cannot be
        matched.
        """

    def fetch(
        self, folder: Path, *, study: str, series: str, instance: str | None = None
    ) -> list[Path]:
        """Write a series (or one instance of it) as Part 10 files into ``folder``.

        ``folder`` must be there. Returns the files' paths. Nothing is held in memory: instances
        stream to disk, each under its SOP Instance UID once it is whole. Raises
        :class:`PacsError` unless every instance that the archive announced arrived, and then
        leaves none of them.
        """

    def store(self, paths: Iterable[Path]) -> None:
        """Send Part 10 files, in no order; stops at the first that the archive does not take.

        Nothing is held in memory. Success means that the archive answered so: see
        :meth:`confirm`. Raises :class:`StorageError` naming the SOP Instance UID and the status.
        Storing the same files again is harmless.
        """

    def confirm(self, paths: Iterable[Path]) -> None:
        """Make sure that the archive has what was stored: some answer success and keep nothing.

        By storage commitment (PS3.4 Annex J) where it is offered, or else by asking. Whoever needs
        every byte for certain fetches and compares. Raises :class:`StorageError` naming an
        instance that is not there.
        """

    def release(self) -> None:
        """Release associations until the next question, before anything else that takes long.

        An archive may have only a few to give, and keeping one open takes work at both ends.
        """

    def close(self) -> None:
        """Release associations for good. Closing twice is harmless."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
