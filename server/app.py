"""The Flower ServerApp: from a run's configuration to its rounds, to a census or an offer.

The resolved experiment travels as one string in Flower's run config, which takes scalars
only. The same app runs in a simulation and in a deployment.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from federation.config import Experiment, parse_experiment
from federation.errors import ConfigError
from federation.interrupt import stop_if_interrupted
from federation.iodeep.labels import Line
from federation.iodeep.signature import SigningKey
from federation.pacs import open_gateway
from federation.registry import Registry
from federation.trust import Rule, TrustList
from server.events import Event
from server.offers import offer_release
from server.questions import take_census
from server.report.folder import RunFolder
from server.report.progress import LiveProgress
from server.rounds import Rounds

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Do the work of a run.

    ``context.run_config`` holds ``work``: ``rounds``, the default, ``census`` or ``offer``; and
    ``run-folder``, where what comes out of it is written. For rounds and a census: ``experiment``
    (a resolved document, as JSON). For rounds and an offer: ``archive`` (the aggregator's address)
    and ``key`` (the file of the private key that signs what it writes). For rounds: ``branch``
    (where versions are written). For an offer: ``line``, and perhaps ``sites`` (names with commas
    between them; all that are connected otherwise).
    """
    work = _setting(context, "work", "rounds")
    if work not in _WORKS:
        raise ConfigError(f"the run config asks for work {work!r:.40}; known: {', '.join(_WORKS)}")
    _WORKS[work](grid, context)


def _run_rounds(grid: Grid, context: Context) -> None:
    folder = RunFolder(_folder(context))
    with _registry(context) as registry, LiveProgress() as progress:
        Rounds(
            _experiment(context),
            grid=grid,
            registry=registry,
            branch=_setting(context, "branch"),
            observers=(folder, progress, _stop),
        ).run()


def _take_census(grid: Grid, context: Context) -> None:
    take_census(_experiment(context), grid, (_stop,)).write(_folder(context))


def _offer_release(grid: Grid, context: Context) -> None:
    line = Line.parse(_setting(context, "line"))
    sites = [name for name in _setting(context, "sites", ",").split(",") if name]
    with _registry(context) as registry:
        offer = offer_release(registry, line, grid, sites or None, observers=(_stop,))
    offer.write(_folder(context))


_WORKS: Mapping[str, Callable[[Grid, Context], None]] = {
    "rounds": _run_rounds,
    "census": _take_census,
    "offer": _offer_release,
}


@contextmanager
def _registry(context: Context) -> Iterator[Registry]:
    """The aggregator's archive, of which it believes what it signed itself."""
    key = SigningKey.read(Path(_setting(context, "key")))
    trust = TrustList([Rule.of_key(key.public)])
    with open_gateway(_setting(context, "archive")) as gateway:
        yield Registry(gateway, trust=trust, signer=key)


def _experiment(context: Context) -> Experiment:
    return parse_experiment(json.loads(_setting(context, "experiment")))


def _folder(context: Context) -> Path:
    return Path(_setting(context, "run-folder"))


def _stop(_: Event) -> None:
    """Between one thing and the next, heed a Ctrl-C that got lost."""
    stop_if_interrupted()


def _setting(context: Context, key: str, default: str = "") -> str:
    value = context.run_config.get(key) or default
    if not isinstance(value, str) or not value:
        raise ConfigError(f"the run config lacks {key!r}; start runs with `iodeep run`")
    return value
