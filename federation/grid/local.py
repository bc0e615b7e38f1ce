"""What grids on one machine have in common: their nodes, and how an app answers."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from federation.errors import ConfigError

RUN = 1

_SERVER_NODE = 1
_FIRST_NODE = 2
_LATE = 1  # error codes of the answers that the grid makes itself
_FAILED = 2


class LocalGrid(Grid):
    """A grid whose nodes are named by this machine; how they are reached is left open.

    ``sites`` maps each node's name to its ``node_config``. Use one grid at a time: Flower
    keeps the identity of the running task in the process.
    """

    def __init__(self, sites: Mapping[str, Mapping[str, str]]) -> None:
        self._run = Run.create_empty(run_id=RUN)
        self._nodes = dict(enumerate(sites, start=_FIRST_NODE))
        self._node_configs = {node: dict(sites[name]) for node, name in self._nodes.items()}
        # Messages take run and node from here: the server's side is the one that creates them.
        TaskIdentity.run_id = RUN
        TaskIdentity.task_id = 1
        TaskIdentity.node_id = _SERVER_NODE

    @abstractmethod
    def _push(self, message: Message) -> None:
        """Take on a message, which has its identifier."""

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
            self._push(message)
            pushed.append(identifier)
        return pushed

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        del timeout  # a message's own ttl bounds it
        return self.pull_messages(self.push_messages(messages))


def node_context(node: int, config: Mapping[str, str]) -> Context:
    """What a node's ClientApp finds besides the message."""
    return Context(
        run_id=RUN, node_id=node, node_config=dict(config), state=RecordDict(), run_config={}
    )


def answer(app: ClientApp, message: Message, context: Context) -> Message:
    """The app's reply; where it raises, an error as Flower's, but without the error's text."""
    try:
        return app(message, context)
    except Exception as error:
        return failed(message, type(error).__name__)


def failed(message: Message, reason: str) -> Message:
    return Message(Error(_FAILED, reason), reply_to=message)


def late(message: Message) -> Message:
    return Message(Error(_LATE, "the answer came after its deadline"), reply_to=message)
