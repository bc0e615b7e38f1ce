"""The archive that a command works on, and how much moves to and from it."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TransferSpeedColumn

from federation.pacs import Gateway, open_gateway


@contextmanager
def open_archive(address: str) -> Iterator[Gateway]:
    """A gateway while the context lasts; bytes moved are shown on stderr, if that is a terminal.

    Raises :class:`~federation.errors.ConfigError` for what is no address.
    """
    console = Console(stderr=True)
    columns = (SpinnerColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task("", total=None)
    with (
        progress,
        open_gateway(address, moved=lambda count: progress.advance(task, count)) as gateway,
    ):
        yield gateway
