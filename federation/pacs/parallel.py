"""Work on one archive, shared out among several connections to it."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Generic, Protocol, TypeVar

from federation.closing import Closing
from federation.errors import PacsUnreachable
from federation.pacs.limits import Limits, attempts
from federation.pacs.part10 import InstanceFile

_BYTES_FOR_ANOTHER = 8 * 2**20  # fewer are sent before another connection is open

Job = TypeVar("Job")


class Connection(Protocol):
    """What can be ended at once, and for good, from another thread."""

    def cut_off(self) -> None: ...

    def close(self) -> None: ...


Answer = TypeVar("Answer")
Worker = TypeVar("Worker", bound=Connection)


class _Stopped(Exception):
    """Another worker failed, or somebody pressed Ctrl-C."""


def share_out(
    work: Callable[[Worker, Job], object],
    jobs: Iterable[Job],
    connections: Sequence[Worker],
    limits: Limits,
) -> None:
    """Do every job over one of the connections, each one as soon as its connection is free.

    A job that finds the archive unreachable is tried again within ``limits``. A connection that
    cannot be had beside the first is done without: archives have their own limits. The first
    error ends all; it is raised when no worker works any more.
    """
    waiting = deque(jobs)
    first, *others = connections
    if not others:
        again = attempts(limits)
        while waiting:
            again(work, first, waiting.popleft())
        return
    stop = threading.Event()
    again = attempts(limits).copy(sleep=stop.wait)

    def once(connection: Worker, job: Job) -> None:
        if stop.is_set():
            raise _Stopped
        work(connection, job)

    def serve(connection: Worker) -> None:
        did_some = False
        while not stop.is_set():
            try:
                job = waiting.popleft()
            except IndexError:
                return
            try:
                again(once, connection, job)
            except PacsUnreachable:
                if connection is first or did_some:
                    raise
                waiting.append(job)
                return
            did_some = True

    with ThreadPoolExecutor(len(connections), thread_name_prefix="iodeep-pacs") as pool:
        served = [pool.submit(serve, connection) for connection in connections]
        try:
            for one in as_completed(served):
                one.result()
        except BaseException:
            stop.set()
            for connection in connections:
                connection.cut_off()
            raise
    while waiting:  # left by a connection that could not be had
        attempts(limits)(work, first, waiting.popleft())


class Connections(Closing, Generic[Worker]):
    """A gateway's connections to its archive, made when needed, within limits. Close them."""

    def __init__(self, make: Callable[[], Worker], limits: Limits) -> None:
        """Raises what ``make`` raises; nothing is connected."""
        self._make = make
        self._limits = limits
        self._made = [make()]

    def ask(self, ask: Callable[[Worker], Answer]) -> Answer:
        """Ask over the first connection, again where the archive could not be reached."""
        return attempts(self._limits)(ask, self._made[0])

    def share_out(self, work: Callable[[Worker, Job], object], jobs: Sequence[Job]) -> None:
        """Do every job, as many at once as the limits allow."""
        self._share_out(work, jobs, self._limits.associations)

    def store(
        self, store: Callable[[Worker, InstanceFile], object], instances: Sequence[InstanceFile]
    ) -> None:
        """Store instances, several at once where the limits allow it and it is worth it."""
        size = sum(instance.path.stat().st_size for instance in instances)
        most = min(self._limits.storing, 1 + size // _BYTES_FOR_ANOTHER)
        self._share_out(store, instances, most)

    def _share_out(
        self, work: Callable[[Worker, Job], object], jobs: Sequence[Job], most: int
    ) -> None:
        count = max(1, min(self._limits.associations, len(jobs), most))
        while len(self._made) < count:
            self._made.append(self._make())
        try:
            share_out(work, jobs, self._made[:count], self._limits)
        except BaseException:  # they were cut off
            self.close()
            self._made = [self._make()]
            raise

    def close(self) -> None:
        """Close them all; asking opens them anew."""
        for connection in self._made:
            connection.close()
