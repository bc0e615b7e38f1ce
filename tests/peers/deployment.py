"""A federation among machines: an aggregator and hospitals, each typed into being.

    with deployed(folder, "A", "B") as federation:
        federation.run(CONFIG, "rounds=2")

Every command is one that a person would type, on the machine where it would be typed.
"""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from federation.pacs import Archive
from tests.peers import peer
from tests.peers.networks import Machine, Machines, network
from tests.peers.orthanc import AE_TITLE, orthanc

AGGREGATOR = "aggregator"
PORT = 8443
_IODEEP = (sys.executable, "-c", "from federation.cli import main; main()")
_UP_S = 180  # more than the wait after a first connection that is refused
_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


@dataclass(kw_only=True)
class Background:
    """A command that runs until it is stopped."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_for(self, text: str, *, within_s: float = _UP_S) -> None:
        """Until it has printed a text. Raises :class:`RuntimeError` with what it said instead."""
        until = time.monotonic() + within_s
        while text not in self.said:
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"no {text!r} but:\n{self.said}")
            time.sleep(0.1)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(60)


@dataclass(kw_only=True)
class Hospital:
    """A hospital's machine, its folder and the address of its archive as seen from there."""

    name: str
    machine: Machine
    folder: Path
    archive: str
    joined: Background | None = None

    @property
    def document(self) -> Path:
        return self.folder / "site.toml"

    def change(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change its document, as its administrator would."""
        document = tomllib.loads(self.document.read_text())
        change(document)
        self.document.write_text(tomli_w.dumps(document))


@dataclass(kw_only=True)
class Federation:
    """The aggregator's folder and machine, and the hospitals by name."""

    home: Path
    machines: Machines
    hospitals: dict[str, Hospital] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)
    served: Background | None = None

    @property
    def address(self) -> str:
        return self.machines[AGGREGATOR].address

    def type(
        self, machine: str, *words: object, code: int | None = 0, stdin: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Type a command on a machine."""
        done = subprocess.run(
            [*self.machines[machine].enter, *_IODEEP, *map(str, words)],
            cwd=self.home.parent, env={**os.environ, **_QUIET}, input=stdin,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, done.stderr + done.stdout
        return done

    def background(self, machine: str, log: str, *words: object) -> Background:
        """Type a command that does not end on a machine."""
        path = self.home.parent / log
        with path.open("ab") as file:
            process = subprocess.Popen(
                [*self.machines[machine].enter, *_IODEEP, *map(str, words)],
                cwd=self.home.parent, env={**os.environ, **_QUIET},
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        background = Background(process=process, log=path)
        self.stack.callback(background.stop)
        return background

    def serve(self) -> Background:
        """`iodeep server serve`, until sites can connect."""
        self.served = self.background(AGGREGATOR, "serve.log", "server", "serve", self.home)
        self.served.wait_for("sites can connect")
        return self.served

    def invite(self, name: str) -> tuple[Path, str]:
        """An invitation, and the fingerprint that is read out."""
        said = self.type(AGGREGATOR, "server", "invite", self.home, name, "--json").stdout
        return self.home.parent / f"{name}.invitation", json.loads(said)["fingerprint"]

    def initialise(self, name: str, archive: str) -> tuple[Hospital, str]:
        """A hospital's folder made from its invitation, and the fingerprint that it reads out."""
        invitation, fingerprint = self.invite(name)
        said = self.type(
            name, "site", "init", invitation, "--fingerprint", fingerprint, "--images", archive,
            "--json",
        ).stdout  # fmt: skip
        hospital = Hospital(
            name=name, machine=self.machines[name], folder=self.home.parent / name, archive=archive
        )
        self.hospitals[name] = hospital
        return hospital, json.loads(said)["fingerprint"]

    def approve(self, hospital: Hospital, fingerprint: str) -> None:
        """The aggregator takes it in, after the telephone call."""
        request = hospital.folder / f"{hospital.name}.request"
        self.type(AGGREGATOR, "server", "approve", self.home, request, "--fingerprint", fingerprint)

    def join(self, hospital: Hospital) -> Background:
        """`iodeep site join`, in the background."""
        hospital.joined = self.background(
            hospital.name, f"join-{hospital.name}.log", "site", "join", hospital.document
        )
        return hospital.joined

    def run(self, config: Path, *overrides: str, code: int = 0) -> dict[str, Any]:
        """`iodeep run` among the hospitals; its result."""
        done = self.type(
            AGGREGATOR, "run", config, *overrides, "federation.mode=deployment",
            "--aggregator", self.home, "--json", code=code,
        )  # fmt: skip
        return json.loads(done.stdout) if code == 0 else {"error": done.stderr}


@contextmanager
def deployed(folder: Path, *names: str, line: str = "MR/*/*") -> Iterator[Federation]:
    """An aggregator that serves, and machines for hospitals, who are not invited yet."""
    peer("nginx")
    with ExitStack() as stack:
        machines = stack.enter_context(network(folder, AGGREGATOR, *names))
        federation = Federation(home=folder / AGGREGATOR, machines=machines, stack=stack)
        federation.type(
            AGGREGATOR, "server", "init", federation.home, "--name", "fed",
            "--address", f"{federation.address}:{PORT}",
            "--listen", f"{federation.address}:{PORT}", "--line", line,
        )  # fmt: skip
        federation.serve()
        yield federation


@contextmanager
def embedded_archive(folder: Path) -> Iterator[str]:
    """A hospital's archive in a folder; its address."""
    Archive(folder).close()
    yield f"folder:{folder}"


@contextmanager
def orthanc_at(folder: Path, machine: Machine) -> Iterator[str]:
    """A hospital's Orthanc on its own machine; its address as seen from there."""
    with orthanc(folder, enter=machine.enter) as archive:
        yield archive.dimse


def environment_of(pid: int) -> Mapping[str, str]:
    """What a process was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


__all__ = ["AE_TITLE", "Background", "Federation", "Hospital", "deployed"]
