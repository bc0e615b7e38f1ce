"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever the main thread happens to be: in a finaliser or in a
library's callback it is swallowed, and the work would go on as if nothing had been said.
"""

import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_asked_to_stop = threading.Event()


def watch_interrupts() -> None:
    """Remember Ctrl-C, besides raising KeyboardInterrupt. Call it in the main thread."""
    signal.signal(signal.SIGINT, _remember)


def stop_if_interrupted() -> None:
    """Raise KeyboardInterrupt where there was a Ctrl-C since :func:`watch_interrupts`."""
    if _asked_to_stop.is_set():
        _asked_to_stop.clear()
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    _asked_to_stop.set()
    signal.default_int_handler(number, frame)


@contextmanager
def until_asked_to_end() -> Iterator[Callable[[float | None], bool]]:
    """From now on Ctrl-C and SIGTERM end nothing by themselves: the value waits for one of them,
    so many seconds or for ever, and says whether there was one.

    Which thread the kernel hands them to makes no difference, not even one of a library's.
    """
    bell, rope = socket.socketpair()
    rope.setblocking(False)
    with bell, rope:
        signal.set_wakeup_fd(rope.fileno())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        try:
            yield lambda wait_s: bool(select.select([bell], [], [], wait_s)[0])
        finally:
            signal.set_wakeup_fd(-1)
