"""The Flower ServerApp: from a run's configuration to its rounds.

The resolved experiment travels as one string in Flower's run config, which takes scalars
only. The same app runs in a simulation and in a deployment.
"""

import json
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from federation.config import parse_experiment
from federation.errors import ConfigError
from federation.interrupt import stop_if_interrupted
from federation.iodeep.signature import SigningKey
from federation.pacs import open_gateway
from federation.registry import Registry
from federation.trust import Rule, TrustList
from server.events import Event
from server.report.folder import RunFolder
from server.report.progress import LiveProgress
from server.rounds import Rounds

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run an experiment.

    ``context.run_config`` holds ``experiment`` (a resolved document, as JSON), ``archive``
    (the aggregator's address), ``key`` (the file of the private key that signs what it writes),
    ``branch`` (where versions are written) and ``run-folder``.
    """
    experiment = parse_experiment(json.loads(_setting(context, "experiment")))
    folder = RunFolder(Path(_setting(context, "run-folder")))
    key = SigningKey.read(Path(_setting(context, "key")))
    trust = TrustList([Rule.of_key(key.public)])
    with open_gateway(_setting(context, "archive")) as gateway, LiveProgress() as progress:
        Rounds(
            experiment,
            grid=grid,
            registry=Registry(gateway, trust=trust, signer=key),
            branch=_setting(context, "branch"),
            observers=(folder, progress, _stop),
        ).run()


def _stop(_: Event) -> None:
    """Between one thing and the next, heed a Ctrl-C that got lost."""
    stop_if_interrupted()


def _setting(context: Context, key: str) -> str:
    value = context.run_config.get(key)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"the run config lacks {key!r}; start runs with `iodeep run`")
    return value
