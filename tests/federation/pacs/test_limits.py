"""What is taken of an archive stays within limits, and what fails is tried again within them."""

import threading
import time

import pytest

from federation.errors import PacsError, PacsRefused, PacsUnreachable
from federation.pacs import Limits
from federation.pacs.limits import Throttle, attempts
from federation.pacs.parallel import Connections, share_out

QUICK = Limits(attempts=3, backoff_s=0.01)


class Line:
    """A connection that is either up or down."""

    def __init__(self, *, up: bool = True) -> None:
        self.up = up
        self.cut = threading.Event()
        self.closed = False
        self.did: list[int] = []

    def cut_off(self) -> None:
        self.cut.set()

    def close(self) -> None:
        self.closed = True


def do(line: Line, job: int) -> None:
    if not line.up:
        raise PacsUnreachable("down")
    time.sleep(0.01)
    line.did.append(job)


def test_what_fails_is_tried_again_with_longer_waits() -> None:
    begun: list[float] = []

    def fail() -> None:
        begun.append(time.monotonic())
        raise PacsUnreachable("away")

    with pytest.raises(PacsUnreachable, match="away"):
        attempts(Limits(attempts=3, backoff_s=0.1))(fail)
    first, second = begun[1] - begun[0], begun[2] - begun[1]
    assert len(begun) == 3
    assert first >= 0.1
    assert second >= 0.2


@pytest.mark.parametrize("kind", [PacsRefused, PacsError, ValueError])
def test_what_stays_as_it_is_is_not_tried_again(kind: type[Exception]) -> None:
    tried = []

    def fail() -> None:
        tried.append(1)
        raise kind("no")

    with pytest.raises(kind):
        attempts(QUICK)(fail)
    assert len(tried) == 1


def test_all_connections_together_keep_the_limit() -> None:
    throttle = Throttle(mb_per_s=1.25)
    begin = time.monotonic()
    threads = [
        threading.Thread(target=lambda: [throttle.wait_for(100_000) for _ in range(5)])
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.7 <= time.monotonic() - begin < 3


def test_jobs_are_shared_out_and_each_is_done_once() -> None:
    lines = [Line(), Line(), Line()]
    share_out(do, range(30), lines, QUICK)
    assert sorted(job for line in lines for job in line.did) == list(range(30))
    assert all(line.did for line in lines)


def test_a_connection_that_cannot_be_had_is_done_without() -> None:
    lines = [Line(), Line(up=False)]
    share_out(do, range(10), lines, QUICK)
    assert sorted(lines[0].did) == list(range(10))


def test_the_first_connection_must_be_had() -> None:
    with pytest.raises(PacsUnreachable):
        share_out(do, range(10), [Line(up=False), Line(up=False)], QUICK)


def test_an_error_ends_all_the_others_at_once() -> None:
    first, other = Line(), Line()

    def work(line: Line, job: int) -> None:
        if line is first:
            raise PacsError("disk full")
        line.cut.wait(30)
        raise PacsUnreachable("cut off")

    begin = time.monotonic()
    with pytest.raises(PacsError, match="disk full"):
        share_out(work, range(4), [first, other], Limits(attempts=5, backoff_s=30))
    assert time.monotonic() - begin < 5


def test_after_an_error_the_connections_are_new_ones() -> None:
    """Those of before were cut off for good: none may be opened anew by a worker that is late."""
    made: list[Line] = []

    def make() -> Line:
        made.append(Line())
        return made[-1]

    def refuse(line: Line, job: int) -> None:
        raise PacsError("disk full")

    connections = Connections(make, Limits(associations=3))
    with pytest.raises(PacsError, match="disk full"):
        connections.share_out(refuse, range(9))
    assert len(made) == 4
    assert all(line.cut.is_set() and line.closed for line in made[:3])
    connections.share_out(do, range(2))
    assert made[3].did
