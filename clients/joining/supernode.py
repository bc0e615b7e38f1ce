"""What runs at a site in place of ``flower-supernode``: Flower's, with some of it replaced.

The bundle of code that comes with a run is not opened, and each message is answered before the
next is asked for. Whoever takes its tasks has a secret (see :mod:`federation.flower.executor`).
"""

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.supercore.constant import TaskType
from flwr.supernode import start_client_internal as theirs
from flwr.supernode.cli.flower_supernode import flower_supernode

from federation.config import read_site
from federation.errors import ConfigError
from federation.flower.executor import execute_beside, write_secret
from federation.flower.lock import replace

_TRUST = ("--insecure",)  # of the interface on loopback


def main() -> None:
    """Connect the site whose document is the argument, until the process is ended."""
    document = Path(sys.argv[1]).resolve()
    lock()
    site = read_site(document)
    table = site.aggregator
    if table is None:
        raise ConfigError(f"{document} has no [aggregator]")
    port = _free_port()
    secret = write_secret(site.work / "flower")
    execute_beside(
        TaskType.CLIENT_APP, "clients.joining.locked", port=port, secret=secret, trust=_TRUST
    )
    sys.argv[1:] = [
        "--superlink", table.address,
        "--root-certificates", str(table.ca),
        "--auth-supernode-private-key", str(table.key),
        "--isolation", "process",
        "--superexec-auth-secret-file", str(secret),
        "--host", "127.0.0.1", "--port", str(port),
        "--node-config", f'site="{document}"',
    ]  # fmt: skip
    flower_supernode()


def lock() -> None:
    """Make Flower's SuperNode leave bundles closed, and keep answers to their messages.

    Raises :class:`~federation.errors.ConfigError` where Flower is not the one this was made for.
    """
    turns = Turns(theirs._pull_and_store_message, theirs._push_messages)
    replace(
        theirs.__name__,
        {
            "get_fused_config_from_fab": lambda *_: {},
            "_pull_and_store_message": turns.pull,
            "_push_messages": turns.push,
        },
    )


class Turns:
    """Flower's steps from a message to its answer, one message at a time.

    Flower sends the answer that is there, whichever it is: to a message that it gave up, as its run
    ended meanwhile, the program may answer yet. From then on each answer would leave only when the
    next message comes.
    """

    def __init__(self, pull: Callable[..., int | None], push: Callable[..., None]) -> None:
        self._pull = pull
        self._push = push
        self._asked: str | None = None

    def pull(self, *, receive: Callable[[], Any], **further: Any) -> int | None:
        """Flower's, with a look at which message comes."""

        def received() -> Any:
            found = receive()
            if found is not None:
                self._asked = found[0].metadata.message_id
            return found

        return self._pull(receive=received, **further)

    def push(self, *, send: Callable[..., Any], **further: Any) -> None:
        """Flower's, until the answer to that message was sent."""
        answered: set[str] = set()

        def sent(message: Message, *rest: Any) -> Any:
            answered.add(message.metadata.reply_to_message_id)
            return send(message, *rest)

        while self._asked not in answered:
            self._push(send=sent, **further)


def _free_port() -> int:
    """A port of loopback for those who take tasks."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


if __name__ == "__main__":
    main()
