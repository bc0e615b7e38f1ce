"""Whose a message is that a SuperNode sends: its own, whatever it says."""

import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError

from server.aggregator.superlink import check_own

NODE, OTHER, SUPERLINK = 7, 8, 1


def request(count: int = 1, **changes: object) -> PushMessagesRequest:
    facts = {"src_node_id": NODE, "dst_node_id": SUPERLINK, "reply_to_message_id": "a", **changes}
    return PushMessagesRequest(
        node=Node(node_id=NODE),
        messages_list=[Message(metadata=Metadata(**facts))] * count,  # type: ignore[arg-type]
        message_object_trees=[ObjectTree(object_id="b")],
    )


def test_an_answer_of_its_own_passes() -> None:
    check_own(request())


@pytest.mark.parametrize(
    "wrong",
    [
        request(src_node_id=SUPERLINK),
        request(src_node_id=OTHER),
        request(dst_node_id=OTHER),
        request(reply_to_message_id=""),
        request(count=0),
        request(count=2),
    ],
    ids=["aggregator's name", "another's name", "to another", "no answer", "none", "two"],
)
def test_anything_else_is_refused(wrong: PushMessagesRequest) -> None:
    with pytest.raises(FlowerError, match="no answer of its own"):
        check_own(wrong)
