"""What runs at a site in place of ``flwr-clientapp``: our ClientApp, whatever was sent.

It is started for every message (see :mod:`federation.flower.executor`). The bundle that came with
the run is neither unpacked nor imported, and none of its configuration is read; what it was is
noted in the site's audit log.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from flwr.app import Context, Message
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

from clients.log import write_log
from federation.audit import AuditLog
from federation.config import read_site
from federation.flower.bundle import bundle, digest_of
from federation.flower.executor import take_token
from federation.flower.lock import refuse_to_install, replace
from federation.iodeep.signature import SigningKey
from federation.messages import Refusal, code_of, pack

_RUNTIME = "flwr.supernode.runtime.run_clientapp"
_NOWHERE = Path("/nonexistent")

ClientApp = Callable[[Message, Context], Message]


def main() -> None:
    """Answer one message."""
    lock()
    take_token()
    flwr_clientapp()


def lock() -> None:
    """Make Flower's runtime run the ClientApp that is installed here.

    Raises :class:`~federation.errors.ConfigError` where Flower is not the one this was made for.
    """
    sent: list[bytes] = []

    def take_note(content: bytes, **_: object) -> Path:
        sent.append(content)
        return _NOWHERE

    def run(message: Message, context: Context) -> Message:
        try:
            _record(context, sent)
            app: ClientApp = import_module("clients.app").app
            return app(message, context)
        except Exception as error:  # its text would leave
            code = code_of(error)
            write_log(None, message.metadata.message_type, code, error)
            return Message(pack(Refusal(site="unknown", code=code)), reply_to=message)

    replace(
        _RUNTIME,
        {
            "install_from_fab": take_note,
            "get_project_dir": lambda *_: _NOWHERE,
            "install_app_dependencies": refuse_to_install,
            "get_load_client_app_fn": lambda **_: lambda *_: run,
        },
    )


def _record(context: Context, sent: list[bytes]) -> None:
    """Note a bundle that is not the one that names our apps; it had no effect."""
    site = read_site(Path(str(context.node_config["site"])))
    ours = digest_of(bundle())
    for content in sent:
        if (found := digest_of(content)) != ours:
            key = SigningKey.read(site.key) if site.key else None
            AuditLog(site.audit, key).append(
                "bundle", run=str(context.run_id), bundle=found, bytes=len(content)
            )


if __name__ == "__main__":
    main()
