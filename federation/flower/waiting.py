"""How long Flower waits for what belongs to an answer.

An answer is announced first, and its tensors come after. Flower waits two hours for them, whoever
asks; here it waits as long as whoever asks does.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from federation.flower.lock import replace

_GRID = "flwr.superlink.grid.http_grid"
_deadline: ContextVar[float] = ContextVar("deadline")


@contextmanager
def waiting_until(deadline: float) -> Iterator[None]:
    """What is pulled from a grid within has until then, by :func:`time.monotonic`."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def lock() -> None:
    """Make Flower's grid keep to it.

    Raises :class:`~federation.errors.ConfigError` where Flower is not the one this was made for.
    """
    pull: Callable[..., dict[str, bytes]] = import_module(_GRID).pull_objects

    def pull_in_time(*args: Any, **further: Any) -> dict[str, bytes]:
        left = max(0.0, _deadline.get() - time.monotonic())
        return pull(*args, **further, max_time=left)

    replace(_GRID, {"pull_objects": pull_in_time})
