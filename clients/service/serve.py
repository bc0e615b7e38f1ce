"""`iodeep site serve`: predicts on what is sent to it, one study after another."""

import sys
from collections.abc import Callable

from clients.hospital import Hospital
from clients.inference.worker import Outcome, Worker
from clients.service.inbox import Inbox
from federation.config import ServiceTable
from federation.errors import PacsUnreachable

_LOOK_S = 0.5
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 5.0, 300.0


def serve(
    hospital: Hospital,
    inbox: Inbox,
    table: ServiceTable,
    is_to_end: Callable[[float], bool],
    tell: Callable[[Outcome], None],
) -> None:
    """Until asked to end: predict on each study that is ready, and let it go.

    is_to_end: waits up to so many seconds, and says whether it is time to end

    A study whose results cannot be stored, as the archive is away, stays and is tried again, after
    5 s at first and 300 s at last. One that cannot be used is told of and let go: what was sent
    here is a copy.
    """
    wait_s = 0.0
    worker = Worker(hospital, images=inbox.gateway, rules=table.rules)
    while not is_to_end(wait_s or _LOOK_S):
        wait_s = _next_wait(wait_s) if not _work(inbox, worker, tell) else 0.0
        hospital.release()


def _work(inbox: Inbox, worker: Worker, tell: Callable[[Outcome], None]) -> bool:
    """Whether every study that was ready is done."""
    for study in inbox.ready():
        instances = inbox.instances(study)
        try:
            for outcome in worker.predict(study):
                tell(outcome)
        except PacsUnreachable as error:
            print(f"study {study} waits: {error}", file=sys.stderr)
            return False
        inbox.done(study, instances)
    return True


def _next_wait(wait_s: float) -> float:
    return min(max(2 * wait_s, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)
