"""What runs at the aggregator in place of ``flwr-serverapp``: our ServerApp, whatever was sent.

It is started for every run (see :mod:`federation.flower.executor`). Of the run's configuration it
takes what a run is; where the archive, the key and the runs' folders are, the aggregator's own
folder says.
"""

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid
from flwr.superlink.cli.flwr_serverapp import flwr_serverapp

from federation.errors import ConfigError
from federation.flower import waiting
from federation.flower.bundle import CONFIG
from federation.flower.executor import take_token
from federation.flower.lock import refuse_to_install, replace
from server.aggregator.home import Home
from server.aggregator.runs import run_config

HOME = "IODEEP_AGGREGATOR"
"""The environment variable with the aggregator's folder."""

_RUNTIME = "flwr.superlink.runtime.run_serverapp"
_APP = {"tool": {"flwr": {"app": {"components": {"serverapp": "server.app:app"}}}}}

ServerApp = Callable[[Grid, Context], None]


def main() -> None:
    """Carry one run to its end."""
    lock()
    waiting.lock()
    take_token()
    flwr_serverapp()


def lock() -> None:
    """Make Flower's runtime run the ServerApp that is installed here.

    Raises :class:`~federation.errors.ConfigError` where Flower is not the one this was made for.
    """
    replace(
        _RUNTIME,
        {
            "install_from_fab": lambda *_, **__: None,
            "get_fab_metadata": lambda *_: ("", ""),
            "get_project_dir": lambda *_: Path("/nonexistent"),
            "get_project_config": lambda *_: _APP,
            "get_fused_config_from_dir": lambda _, given: _allowed(given),
            "install_app_dependencies": refuse_to_install,
            "run_": _run,
        },
    )


def _allowed(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key in CONFIG}


def _run(*, grid: Grid, context: Context, **_: object) -> Context:
    home = os.environ.get(HOME)
    if not home:
        raise ConfigError(f"{HOME} is not set; runs are started by `iodeep server serve`")
    context.run_config = run_config(Home(Path(home)), context.run_config)
    app: ServerApp = import_module("server.app").app
    app(grid, context)
    return context


if __name__ == "__main__":
    main()
