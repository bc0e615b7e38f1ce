"""A line to an archive that can be slow, break, or fall silent.

with proxy(port, Fault(after_bytes=100_000, direction="sent", connections=1)) as line:
    open_gateway(f"dimse://PEER@127.0.0.1:{line.port}")
"""

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

Direction = Literal["sent", "received"]
"""As the side sees it that connects: ``sent`` goes to the archive."""

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What a connection suffers.

    delay_s:     before each piece of up to 64 KiB is passed on
    bytes_per_s: in each direction of each connection; no limit unless given
    after_bytes: of each connection in ``direction``, that pass before ``then``
    then:        ``cut``: both ends are reset; ``end``: no more comes, and the receiver is told so,
                 as if all had been sent; ``hang``: no more comes and nobody is told
    direction:   in which ``after_bytes`` are counted, and ``end`` and ``hang`` hold; both unless
                 given
    connections: so many have it, those after it pass undisturbed; all unless given
    """

    delay_s: float = 0
    bytes_per_s: float | None = None
    after_bytes: int | None = None
    then: Literal["cut", "end", "hang"] = "cut"
    direction: Direction | None = None
    connections: int | None = None


class Proxy:
    """Passes on what comes to ``port``, each connection with the fault set when it began.

    Counts its ``connections``, and the bytes ``passed`` in each direction.
    """

    def __init__(self, to: int, host: str = "127.0.0.1") -> None:
        self._to = (host, to)
        self._fault = Fault()
        self._left: int | None = None
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self._down_after: int | None = None
        self._listening: socket.socket | None = None
        self.connections = 0
        self.passed: Counter[Direction] = Counter()
        self.port = 0
        self.listen()

    def set(self, fault: Fault) -> None:
        """Let connections that begin from now on have a fault."""
        with self._lock:
            self._fault, self._left = fault, fault.connections

    def listen(self) -> None:
        """Take connections, at the same port as before, and stay."""
        self._down_after = None
        listening = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = listening.getsockname()[1]
        self._listening = listening
        threading.Thread(target=self._relay, args=(listening,), daemon=True).start()

    def refuse(self) -> None:
        """Take no more connections: who tries is told that nobody listens. Others go on."""
        if self._listening is not None:
            with suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
            self._listening.close()
        self._listening = None

    def go_down(self, *, after_bytes: int) -> None:
        """Close as soon as so many bytes more, of all connections together, were sent."""
        self._down_after = self.passed["sent"] + after_bytes

    def cut(self) -> None:
        """Reset all connections there are."""
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            _reset(end)

    def close(self) -> None:
        """Refuse, and cut."""
        self.refuse()
        self.cut()

    def _relay(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listening.accept()
                self._connect(near)

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._to)
        except OSError:
            _reset(near)
            return
        with self._lock:
            self._ends += [near, far]
            self.connections += 1
            fault = self._fault if self._left != 0 else Fault()
            if self._left:
                self._left -= 1
        ways: list[tuple[socket.socket, socket.socket, Direction]] = [
            (near, far, "sent"),
            (far, near, "received"),
        ]
        for end in (near, far):  # before either thread may close them
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if fault.bytes_per_s is not None:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
        for source, target, direction in ways:
            threading.Thread(
                target=self._pass_on, args=(source, target, direction, fault), daemon=True
            ).start()

    def _pass_on(
        self, source: socket.socket, target: socket.socket, direction: Direction, fault: Fault
    ) -> None:
        left = fault.after_bytes if fault.direction in (None, direction) else None
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                time.sleep(fault.delay_s + len(data) / (fault.bytes_per_s or float("inf")))
                target.sendall(data[:left])
                self.passed[direction] += len(data[:left])
                if self._down_after is not None and self.passed["sent"] >= self._down_after:
                    self.close()
                    return
                if left is not None:
                    left -= len(data[:left])
                    if left == 0:
                        _break(source, target, fault)
                        return
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _break(source: socket.socket, target: socket.socket, fault: Fault) -> None:
    if fault.then == "cut":
        _reset(source)
        _reset(target)
    elif fault.then == "end":
        target.shutdown(socket.SHUT_WR)
        while source.recv(_CHUNK):
            pass


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RD)  # wakes who waits in recv
    end.close()


@contextmanager
def proxy(to: int, fault: Fault | None = None) -> Iterator[Proxy]:
    """A port of loopback from which all is passed on to another one; closed at the end."""
    line = Proxy(to)
    if fault is not None:
        line.set(fault)
    try:
        yield line
    finally:
        line.close()
