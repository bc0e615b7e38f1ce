"""Work on one archive, shared out among several connections to it."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol, TypeVar

from federation.errors import PacsUnreachable
from federation.pacs.limits import Limits, attempts

Job = TypeVar("Job")


class Connection(Protocol):
    """What can be ended at once from another thread."""

    def cut_off(self) -> None: ...


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
