"""Flower's Grid within one process: a federation on one machine.

The apps are those of a deployment; only the transport is a function call. A site works when
its answer is pulled, so one update is held at a time.
"""

import time
from collections.abc import Iterable, Mapping
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from federation.errors import ConfigError

_SERVER_NODE = 1
_FIRST_NODE = 2
_LATE = 1  # error codes of the answers that the grid makes itself
_FAILED = 2


class InProcessGrid(Grid):
    """A grid whose nodes are calls of one ClientApp, each with its own context.

    ``sites`` maps each node's name to its ``node_config``. Use one grid at a time: Flower
    keeps the identity of the running task in the process.
    """

    def __init__(self, client_app: ClientApp, sites: Mapping[str, Mapping[str, str]]) -> None:
        self._app = client_app
        self._run = Run.create_empty(run_id=1)
        self._nodes = dict(enumerate(sites, start=_FIRST_NODE))
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config=dict(sites[name]),
                state=RecordDict(),
                run_config={},
            )
            for node, name in self._nodes.items()
        }
        self._waiting: dict[str, Message] = {}
        # Messages take run and node from here: the server's side is the one that creates them.
        TaskIdentity.run_id = 1
        TaskIdentity.task_id = 1
        TaskIdentity.node_id = _SERVER_NODE

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, name=name) for node, name in self._nodes.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = []
        for message in messages:
            if message.metadata.dst_node_id not in self._nodes:
                raise ConfigError(f"no node {message.metadata.dst_node_id} is in this federation")
            identifier = str(uuid4())
            message.metadata.__dict__["_message_id"] = identifier
            self._waiting[identifier] = message
            pushed.append(identifier)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._work(self._waiting.pop(i)) for i in message_ids if i in self._waiting]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        del timeout  # a message's own ttl bounds it
        return self.pull_messages(self.push_messages(messages))

    def _work(self, message: Message) -> Message:
        """Let the site answer. Its time begins now, as sites work one after the other."""
        begin = time.monotonic()
        context = self._contexts[message.metadata.dst_node_id]
        message.metadata.created_at = time.time()
        try:
            reply = self._app(message, context)
        except Exception as error:
            # As Flower does, but without the error's text.
            return Message(Error(_FAILED, type(error).__name__), reply_to=message)
        if time.monotonic() - begin > message.metadata.ttl:
            return Message(Error(_LATE, "the answer came after its deadline"), reply_to=message)
        return reply
