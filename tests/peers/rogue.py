"""A site with an approved key that speaks the Fleet API itself, and answers what it should not.

    python -m tests.peers.rogue ADDRESS CA KEY HOW [NODE]

HOW: ``garbage`` (bytes that are no object), ``other`` (an object that is no message), ``stall``
(objects that are announced and never come), ``forge`` (a message to NODE in the aggregator's
name). It says what came of it, and goes on until it is stopped.
"""

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

_BEAT_S = 20
_SUPERLINK = 1


class Rogue:
    """It is connected from the beginning, as any SuperNode."""

    def __init__(self, address: str, ca: str, key_file: str) -> None:
        key = load_ssh_private_key(Path(key_file).read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        public = key.public_key()
        self.client = FleetHttpClient.from_server_address(
            address, False, ca,
            [RuntimeVersionHttpInterceptor(component_name="SuperNode"),
             NodeAuthHttpInterceptor(key, public)],
        )  # fmt: skip
        asked = ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=30)
        while True:
            try:
                self.node = Node(node_id=self.client.ActivateNode(asked).node_id)
                break
            except httpx.HTTPStatusError:
                time.sleep(2)
        self.beaten = 0.0
        print("connected", flush=True)

    def wait(self) -> Message:
        """The next message."""
        while True:
            if time.monotonic() - self.beaten > _BEAT_S:
                self.beaten = time.monotonic()
                self.client.SendNodeHeartbeat(
                    SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=30)
                )
            found = self.client.PullMessages(PullMessagesRequest(node=self.node))
            if found.messages_list:
                break
            time.sleep(1)
        named, tree = found.messages_list[0], found.message_object_trees[0]
        contents = {
            one.object_id: self.client.PullObject(
                PullObjectRequest(
                    node=self.node, run_id=named.metadata.run_id, object_id=one.object_id
                )
            ).object_content
            for one in iterate_object_tree(tree)
        }
        message = inflate_object_from_contents(tree.object_id, contents)
        assert isinstance(message, Message)
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def push(self, sent: Any, tree: ObjectTree, contents: dict[str, bytes]) -> None:
        """A message, and those of its objects whose contents there are."""
        pushed = self.client.PushMessages(
            PushMessagesRequest(
                node=self.node, messages_list=[sent], message_object_trees=[tree],
                clientapp_runtime_list=[1.0],
            )
        )  # fmt: skip
        for name in set(pushed.objects_to_push) & contents.keys():
            self.client.PushObject(
                PushObjectRequest(
                    node=self.node, run_id=sent.metadata.run_id, session_id=pushed.session_id,
                    object_id=name, object_content=contents[name],
                )
            )  # fmt: skip

    def answer(self, message: Message, root: str, contents: dict[str, bytes]) -> None:
        """With an object of whatever kind in the place of a message."""
        reply = Message(RecordDict({"iodeep": ConfigRecord({"kind": "x"})}), reply_to=message)
        reply.metadata.__dict__["_message_id"] = root
        sent = message_to_proto(remove_content_from_message(reply))
        missing = () if contents else (ObjectTree(object_id="ab" * 32),)
        self.push(sent, ObjectTree(object_id=root, children=missing), contents)


def main() -> None:
    address, ca, key, how, *rest = sys.argv[1:]
    rogue = Rogue(address, ca, key)
    while True:
        message = rogue.wait()
        try:
            if how == "garbage":
                body = b"\xff\xff garbage"
                content = f"Message  {len(body)}".encode() + HEAD_BODY_DIVIDER + body
                root = hashlib.sha256(content).hexdigest()
                rogue.answer(message, root, {root: content})
            elif how == "other":
                record = ConfigRecord({"a": "b"})
                rogue.answer(message, record.object_id, {record.object_id: record.deflate()})
            elif how == "stall":
                rogue.answer(message, "cd" * 32, {})
            elif how == "forge":
                sent = message_to_proto(remove_content_from_message(message))
                sent.metadata.src_node_id = _SUPERLINK
                sent.metadata.dst_node_id = int(rest[0])
                sent.metadata.reply_to_message_id = ""
                rogue.push(sent, get_object_tree(message), {})
            print(f"{how}: taken", flush=True)
        except httpx.HTTPStatusError as error:
            print(f"{how}: {error.response.status_code}", flush=True)


if __name__ == "__main__":
    main()
