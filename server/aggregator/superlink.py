"""What runs at the aggregator in place of ``flower-superlink``: Flower's, with some of it replaced.

It believes a site's messages to be its own only, and gives its tasks to who has the secret (see
:mod:`federation.flower.executor`).
"""

import sys
from pathlib import Path

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import TaskType
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.superlink.cli.flower_superlink import flower_superlink
from flwr.superlink.servicer.fleet import fleet_handlers as theirs

from federation.flower.executor import execute_beside, write_secret
from federation.flower.lock import replace
from server.aggregator.home import Home


def main() -> None:
    """Serve the aggregator whose folder is the argument, until the process is ended."""
    home = Home(Path(sys.argv[1]))
    lock()
    port, authority = home.document.loopback.superlink, str(home.certificate("ca"))
    secret = write_secret(home.superlink)
    execute_beside(
        TaskType.SERVER_APP, "server.aggregator.locked",
        port=port, secret=secret, trust=("--root-certificates", authority),
    )  # fmt: skip
    sys.argv[1:] = [
        "--ssl-ca-certfile", authority,
        "--ssl-certfile", str(home.certificate("loopback")),
        "--ssl-keyfile", str(home.private_key("loopback")),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        "--isolation", "process",
        "--superexec-auth-secret-file", str(secret),
        "--database", str(home.database),
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    flower_superlink()


def lock() -> None:
    """Make Flower's SuperLink look whose a message is that a SuperNode sends.

    Raises :class:`~federation.errors.ConfigError` where Flower is not the one this was made for.
    """
    push = theirs.push_messages

    def push_own(request: PushMessagesRequest, state: LinkState) -> PushMessagesResponse:
        check_own(request)
        return push(request, state)

    replace(theirs.__name__, {"push_messages": push_own})


def check_own(request: PushMessagesRequest) -> None:
    """Whether what a SuperNode sends is one answer of its own to the aggregator.

    Flower compares the key with the request's node, and looks no further: a site could send
    messages to others, in any name. Raises its :class:`FlowerError` (403).
    """
    sent = [message.metadata for message in request.messages_list]
    if len(sent) == len(request.message_object_trees) == 1 and all(
        one.src_node_id == request.node.node_id
        and one.dst_node_id == SUPERLINK_NODE_ID
        and one.reply_to_message_id
        for one in sent
    ):
        return
    raise FlowerError(
        ApiErrorCode.NO_PERMISSIONS,
        f"SuperNode {request.node.node_id} sent what is no answer of its own",
    )


if __name__ == "__main__":
    main()
