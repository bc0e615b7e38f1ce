"""The SuperNode's steps from a message to its answer, over Flower's own state."""

import secrets
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.start_client_internal import _insert_message, _push_messages

from clients.joining.supernode import Turns


def message(run: int) -> Message:
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run, 1, 1
    made = Message(RecordDict({"asked": ConfigRecord({"n": secrets.token_hex(4)})}), 7, "train")
    made.metadata.__dict__["_message_id"] = made.object_id
    return made


def test_each_message_gets_its_own_answer_though_an_older_one_is_left() -> None:
    """A run ended while the site was at work, and Flower gave up the message, not the work."""
    store = ObjectStoreFactory()
    state = NodeStateFactory(objectstore_factory=store).state()
    given_up, current = message(1), message(2)
    late = Message(given_up.content, reply_to=given_up)
    answer = Message(current.content, reply_to=current)
    sent: list[str] = []

    def pull(*, receive: Any, **_: Any) -> int:
        receive()
        _insert_message(late, state, store.store())
        return 2

    def send(reply: Message, *_: Any) -> tuple[set[str], str]:
        sent.append(reply.metadata.reply_to_message_id)
        if reply.metadata.run_id == 1:  # only now is the answer there that is wanted
            _insert_message(answer, state, store.store())
        return set(), ""

    turns = Turns(pull, _push_messages)
    turns.pull(receive=lambda: (current, get_object_tree(current)))
    turns.push(state=state, object_store=store.store(), send=send, push_object=lambda *_: None)
    assert sent == [given_up.metadata.message_id, current.metadata.message_id]
