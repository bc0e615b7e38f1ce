"""What a command moves to and from an archive, shown on stderr where that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from federation.pacs import Gateway, Moved, open_gateway


@contextmanager
def bytes_moved(doing: str) -> Iterator[Moved]:
    """Tell the value of bytes; they are shown while the context lasts."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(doing, total=None)
    with progress:
        yield lambda count: progress.advance(task, count)


@contextmanager
def steps_done(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Tell the value how many steps are done, and of how many; shown while the context lasts."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(doing, total=None)
    with progress:
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def open_archive(address: str) -> Iterator[Gateway]:
    """A gateway while the context lasts, and what moves shown.

    Raises :class:`~federation.errors.ConfigError` for what is no address.
    """
    with bytes_moved("Archive") as moved, open_gateway(address, moved=moved) as gateway:
        yield gateway
