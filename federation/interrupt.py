"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever the main thread happens to be: in a finaliser or in a
library's callback it is swallowed, and the work would go on as if nothing had been said.
"""

import signal
import threading
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
