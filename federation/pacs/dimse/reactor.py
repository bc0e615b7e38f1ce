"""pynetdicom's two loops of an association, woken by what happens instead of looking for it.

One loop moves packets between the connection and two queues, the other takes messages out of a
queue. Both look for work a thousand times a second, whoever asks a question looks every 10 ms
whether the second has let go, and so a question that an archive answers in 1 ms takes 10, and
every open association keeps a processor busy. Here each loop sleeps until there is something.
"""

import select
import socket
import ssl
import threading
import time
import weakref
from contextlib import suppress
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association

_IDLE_S = 0.05  # for what nobody announces: a timer of pynetdicom's that ran out
_ENDING_S = 0.001
_REMINDED_S = 0.01


def wake_when_needed(association: Association, connection: socket.socket) -> None:
    """Call it when the connection is open, before anything is sent over it."""
    _wake_the_provider(association, connection)
    _wake_the_service(association)


def _wake_the_provider(association: Association, connection: socket.socket) -> None:
    """The loop of the upper layer (PS3.8): waits for the connection or for something to send."""
    dul: Any = association.dul
    bell, rope = socket.socketpair()
    bell.setblocking(False)
    rope.setblocking(False)
    ending = threading.Event()
    look, put, stop, kill = (
        dul._is_transport_event,
        dul.to_provider_queue.put,
        dul.stop_dul,
        dul.kill_dul,
    )

    def ring() -> None:
        with suppress(OSError):  # it rings already, or nobody listens any more
            rope.send(b"!")

    def look_when_there_is_something() -> Any:
        if dul.event_queue.empty() and dul.to_provider_queue.empty():
            _wait(connection, bell, _ENDING_S if ending.is_set() else _IDLE_S)
        return look()

    def put_and_ring(*args: Any, **kwargs: Any) -> None:
        put(*args, **kwargs)
        ring()

    def ending_soon(end: Any) -> Any:
        def ended() -> Any:
            ending.set()
            ring()
            return end()

        return ended

    def put_away(_: evt.Event) -> None:
        bell.close()
        rope.close()

    association.bind(evt.EVT_CONN_CLOSE, put_away)
    dul._run_loop_delay = 0
    dul._is_transport_event = look_when_there_is_something
    dul.to_provider_queue.put = put_and_ring
    dul.stop_dul, dul.kill_dul = ending_soon(stop), ending_soon(kill)


def _wait(connection: socket.socket, bell: socket.socket, limit_s: float) -> None:
    if isinstance(connection, ssl.SSLSocket) and connection.pending():
        return
    waiting = select.poll()
    try:
        waiting.register(connection, select.POLLIN)
        waiting.register(bell, select.POLLIN)
        waiting.poll(limit_s * 1000)
        with suppress(BlockingIOError):
            bell.recv(4096)
    except (OSError, ValueError):  # closed
        time.sleep(_ENDING_S)


def _wake_the_service(association: Association) -> None:
    """The loop of the association: waits for a message, a release or an abort."""
    news = threading.Event()
    queues: list[Any] = [association.dimse.msg_queue, association.dul.to_user_queue]
    for waiting in queues:
        waiting.put = _then_set(waiting.put, news)
    association._reactor_checkpoint = _Checkpoint(association, news)


def _then_set(put: Any, news: threading.Event) -> Any:
    def put_and_tell(*args: Any, **kwargs: Any) -> None:
        put(*args, **kwargs)
        news.set()

    return put_and_tell


class _Checkpoint(threading.Event):
    """Where the association's loop stops in each turn: until there is news, or nobody asks.

    pynetdicom calls the loop paused while it waits here: who wants to ask need not wait for it.
    An N-EVENT-REPORT is answered in a thread of its own, which ends with saying that the loop
    goes on, also where it waits: whoever asks next would wait for ever, were it not said again.
    """

    def __init__(self, association: Association, news: threading.Event) -> None:
        super().__init__()
        self._of = weakref.ref(association)
        self._news = news
        self.set()

    def set(self) -> None:
        super().set()
        self._news.set()

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002  # none is given
        self._news.wait(_IDLE_S)
        self._news.clear()
        while not super().wait(_REMINDED_S):
            association = self._of()
            if association is not None:
                association._is_paused = True
        return True
