"""Flower's Grid over worker processes: sites that work at the same time.

A worker is a process that answers one message after another, of whichever site; what a site
keeps lies in its archive and its work folder, so it need not be the same one every time.
Messages cross as Flower's protobuf. A reply waits as a file until it is pulled, so the server
holds one update at a time here too, in whatever order the sites finish.
"""

import importlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from federation.closing import Closing
from federation.grid.local import LocalGrid, answer, failed, late, node_context
from federation.quiet import keep_libraries_quiet

# What a worker is taken to need until one has told: torch, MONAI and a small network.
_FIRST_GUESS_BYTES = 10**9
_STOP_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What all workers together may use: so many processes, so many bytes of memory."""

    processes: int
    memory_bytes: int

    def workers(self, peak_bytes: int) -> int:
        """How many workers of that peak memory fit; one always does."""
        return max(1, min(self.processes, self.memory_bytes // max(1, peak_bytes)))


@dataclass(kw_only=True, slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    message: Message | None = None
    deadline: float = field(default=float("inf"))


class WorkerGrid(LocalGrid, Closing):
    """A grid whose sites work in processes, as many at once as the budget allows.

    ``client_app`` is a reference, ``module:name``. A message's ttl begins when a worker takes
    it on; a worker that is not done by then is ended, and so is one that dies on its own: the
    answer is an error, and the next message gets a new worker. Closing ends all of them.
    """

    def __init__(
        self,
        client_app: str,
        sites: Mapping[str, Mapping[str, str]],
        budget: Budget,
        *,
        folder: Path | None = None,
    ) -> None:
        """``folder`` is where replies wait, in one of their own (the system's temporary one)."""
        super().__init__(sites)
        self._app = client_app
        self._budget = budget
        self._peak_bytes = _FIRST_GUESS_BYTES
        self._processes = _processes_that_share(client_app)
        self._folder = tempfile.TemporaryDirectory(prefix="replies-", dir=folder)
        self._queue: deque[Message] = deque()
        self._workers: list[_Worker] = []
        self._done: dict[str, Message | Path] = {}

    def _push(self, message: Message) -> None:
        self._queue.append(message)
        self._dispatch()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages; waits for those still being worked on."""
        return [self._pull(i) for i in message_ids if i in self._pending() or i in self._done]

    def close(self) -> None:
        """End all workers and forget what they answered. Closing twice is harmless."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in list(self._workers):
            self._end(worker)
        self._queue.clear()
        self._done.clear()
        self._folder.cleanup()

    # --- the workers ----------------------------------------------------------------------

    def _pending(self) -> set[str]:
        busy = [worker.message for worker in self._workers if worker.message is not None]
        return {message.metadata.message_id for message in (*self._queue, *busy)}

    def _pull(self, identifier: str) -> Message:
        while identifier not in self._done:
            self._dispatch()
            self._listen()
        reply = self._done.pop(identifier)
        if isinstance(reply, Message):
            return reply
        content = reply.read_bytes()
        reply.unlink()
        return message_from_proto(ProtoMessage.FromString(content))

    def _dispatch(self) -> None:
        """Give waiting messages to idle workers, and start or end workers as the budget says."""
        allowed = self._budget.workers(self._peak_bytes)
        idle = [worker for worker in self._workers if worker.message is None]
        while idle and len(self._workers) > allowed:
            self._end(idle.pop())
        while self._queue and (idle or len(self._workers) < allowed):
            worker = idle.pop() if idle else self._start()
            self._give(worker, self._queue.popleft())

    def _start(self) -> _Worker:
        ours, theirs = self._processes.Pipe()
        process = self._processes.Process(
            target=_work, args=(theirs, self._app, self._folder.name, list(sys.path)), daemon=True
        )
        process.start()
        theirs.close()
        worker = _Worker(process=process, connection=ours)
        self._workers.append(worker)
        return worker

    def _give(self, worker: _Worker, message: Message) -> None:
        node = message.metadata.dst_node_id
        message.metadata.created_at = time.time()
        worker.message = message
        worker.deadline = time.monotonic() + message.metadata.ttl
        header = {"node": node, "config": self._node_configs[node]}
        try:
            worker.connection.send_bytes(json.dumps(header).encode())
            worker.connection.send_bytes(message_to_proto(message).SerializeToString())
        except OSError:  # it died; listening finds out and answers
            pass

    def _listen(self) -> None:
        """Wait until a worker has answered, has died or is late."""
        busy = {worker.connection: worker for worker in self._workers if worker.message}
        first = min(worker.deadline for worker in busy.values())
        ready: list[Any] = list(wait(list(busy), max(0.0, first - time.monotonic())))
        for worker in [busy[connection] for connection in ready]:
            self._hear(worker)
        for worker in busy.values():
            if worker.message is not None and time.monotonic() > worker.deadline:
                self._done[worker.message.metadata.message_id] = late(worker.message)
                self._end(worker)

    def _hear(self, worker: _Worker) -> None:
        assert worker.message is not None
        message, worker.message = worker.message, None
        identifier = message.metadata.message_id
        try:
            peak_bytes = json.loads(worker.connection.recv_bytes())["peak_bytes"]
        except (EOFError, OSError):
            worker.process.join(_STOP_S)
            reason = f"its process ended with {worker.process.exitcode}"
            self._done[identifier] = failed(message, reason)
            self._end(worker)
            return
        self._peak_bytes = max(self._peak_bytes, peak_bytes)
        self._done[identifier] = Path(self._folder.name, identifier)

    def _end(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.terminate()
        worker.process.join(_STOP_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _processes_that_share(client_app: str) -> Any:
    """Where processes come from: forked off one that has imported the app and nothing else.

    torch and MONAI are then imported once, and their pages held once, for all workers; and
    while this process goes on. torch's optimisers import ``torch._dynamo`` when first used.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([client_app.partition(":")[0], "torch._dynamo"])
    forkserver.ensure_running()
    return context


# --- in the worker ------------------------------------------------------------------------


def _work(connection: Connection, reference: str, folder: str, path: list[str]) -> None:
    """Answer messages until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_libraries_quiet()
    sys.path[:] = path
    module, _, name = reference.partition(":")
    app = getattr(importlib.import_module(module), name)
    while True:
        try:
            header = json.loads(connection.recv_bytes())
            message = message_from_proto(ProtoMessage.FromString(connection.recv_bytes()))
        except EOFError:
            return
        reply = answer(app, message, node_context(header["node"], header["config"]))
        content = message_to_proto(reply).SerializeToString()
        Path(folder, message.metadata.message_id).write_bytes(content)
        connection.send_bytes(json.dumps({"peak_bytes": _peak_bytes()}).encode())


def _peak_bytes() -> int:
    """The most memory this process has held.

    Linux' ``ru_maxrss`` would count what the parent held when it started us.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return psutil.Process().memory_info().rss


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on writing into an archive."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
