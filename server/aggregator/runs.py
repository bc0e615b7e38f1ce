"""Runs of a deployed federation: started through the SuperLink, followed in their folders."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.errors import ConfigError, RoundError
from federation.whole import write_over
from server.aggregator.control import Control, Run
from server.aggregator.home import Home

_NOTE = "flower.json"
_LOOK_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A run that was started: its number at the SuperLink, and its folder."""

    number: int
    folder: Path


def start(home: Home, control: Control, branch: str, **config: str) -> Started:
    """Start a run, or go on with one. Raises :class:`~federation.errors.FlowerError`.

    branch: names its folder too
    config: ``work``, and what that kind of work needs, as :mod:`server.app` says
    """
    folder = home.runs / branch
    folder.mkdir(parents=True, exist_ok=True)
    number = control.start({"branch": branch, **config})
    note = {"run": number, "work": config["work"]}
    write_over(folder / _NOTE, json.dumps(note).encode() + b"\n")
    return Started(number=number, folder=folder)


def run_config(home: Home, given: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of our ServerApp: what the run is, and where things are here.

    Raises :class:`ConfigError` for a branch that is no name of a folder.
    """
    branch = str(given.get("branch", ""))
    if not branch.replace("-", "").replace("_", "").isalnum() or len(branch) > 16:
        raise ConfigError(f"{branch!r:.40} is no name of a branch; start runs with `iodeep run`")
    return {
        **given,
        "archive": home.document.archive,
        "key": str(home.key),
        "run-folder": str(home.runs / branch),
    }


def find(home: Home, branch: str) -> Started:
    """A run by its branch, started before. Raises :class:`ConfigError` where there is none."""
    note = home.runs / branch / _NOTE
    if not note.exists():
        known = sorted(path.parent.name for path in home.runs.glob(f"*/{_NOTE}"))
        raise ConfigError(f"no run {branch!r} was started here; runs: {', '.join(known) or 'none'}")
    return Started(number=json.loads(note.read_text(encoding="utf-8"))["run"], folder=note.parent)


def follow(control: Control, started: Started) -> Iterator[Run]:
    """The state of a run, about once a second, the last one finished."""
    while True:
        (run,) = control.runs(started.number)
        yield run
        if run.is_finished:
            return
        time.sleep(_LOOK_S)


def check_completed(run: Run, started: Started) -> None:
    """Raises :class:`RoundError` where a finished run did not do what it was for."""
    if run.state != "completed":
        why = run.detail or ("by `iodeep server stop`" if run.state == "stopped" else "unknown why")
        more = (
            ". Every finished round is whole in the archives; to go on: the same command with "
            f"--resume and --out {started.folder}"
        )
        raise RoundError(
            f"run {started.folder.name} ended as {run.state}: {why}"
            + (more if run.work == "rounds" else "")
        )


def all_started(home: Home) -> list[Started]:
    """The runs that were started here, as their folders tell."""
    return [find(home, note.parent.name) for note in sorted(home.runs.glob(f"*/{_NOTE}"))]
