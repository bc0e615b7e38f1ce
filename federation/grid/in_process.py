"""Flower's Grid within one process: a site's work is a function call."""

import time
from collections.abc import Iterable, Mapping

from flwr.app import Message
from flwr.clientapp import ClientApp

from federation.grid.local import LocalGrid, answer, late, node_context


class InProcessGrid(LocalGrid):
    """Nodes are calls of one ClientApp, each with its own context.

    A site works when its answer is pulled, so one update is held at a time.
    """

    def __init__(self, client_app: ClientApp, sites: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__(sites)
        self._app = client_app
        self._contexts = {
            node: node_context(node, config) for node, config in self._node_configs.items()
        }
        self._waiting: dict[str, Message] = {}

    def _push(self, message: Message) -> None:
        self._waiting[message.metadata.message_id] = message

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._work(self._waiting.pop(i)) for i in message_ids if i in self._waiting]

    def _work(self, message: Message) -> Message:
        """Let the site answer. Its time begins now, as sites work one after the other."""
        begin = time.monotonic()
        message.metadata.created_at = time.time()
        reply = answer(self._app, message, self._contexts[message.metadata.dst_node_id])
        return late(message) if time.monotonic() - begin > message.metadata.ttl else reply
