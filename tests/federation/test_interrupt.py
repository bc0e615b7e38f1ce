"""A Ctrl-C that a library swallows is heeded all the same."""

import contextlib
import signal
from collections.abc import Iterator

import pytest

from federation.interrupt import stop_if_interrupted, watch_interrupts


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_is_raised_where_it_comes() -> None:
    watch_interrupts()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stop_if_interrupted()
    stop_if_interrupted()  # once is enough


def test_an_interrupt_that_was_swallowed_is_raised_later() -> None:
    watch_interrupts()
    stop_if_interrupted()
    with contextlib.suppress(BaseException):  # as libraries do
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stop_if_interrupted()
