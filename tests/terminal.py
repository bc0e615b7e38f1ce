"""Pages typed again in a shell, beside programs that go on."""

import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from federation.closing import Closing
from tests.peers.process import free_port, running
from tests.typed import Typed

FOLDER = "/srv/iodeep"
PORTS = ("4242", "8042", "11112", "11113", "11114", "11115")
UP_AT = {"/usr/sbin/Orthanc": "8042", "dcmqrscp": "11114"}
"""Programs that go on, and the last port that each listens at."""

_FINDING = re.compile(r"^ (pass|warn|fail) +(\w+) +(.+?)  ", re.MULTILINE)
_OF_THIS_MACHINE = {("machine", "device"), ("machine", "disk")}
_BY_CHANCE = re.compile(r"\S*(?:\d|(?:phantom|hospital-a)-\w{4}\b)\S*")
_SERVES = re.compile(r"iodeep (pacs|site) serve")


class Terminal(Closing):
    """A shell, and others in which programs go on. In the working directory; close it."""

    def __init__(self, ports: Mapping[str, str]) -> None:
        self._up_at = {program: int(ports[port]) for program, port in UP_AT.items()}
        self._going_on: dict[str, ExitStack] = {}
        self._shell = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, bufsize=1,
        )  # fmt: skip

    def type(self, typed: Typed) -> None:
        """Type a command, and compare what it prints."""
        fails = any(line.startswith("iodeep: ") for line in typed.printed.splitlines())
        program = typed.command.partition(" ")[0]
        if program in self._up_at or (_SERVES.match(typed.command) and not fails):
            self._start(typed, port=self._up_at.get(program))
            return
        status, printed = self._run(typed.command)
        assert bool(status) == fails, f"{typed.command}\n{printed}"
        if "iodeep site doctor" in typed.command:
            assert _findings(printed) == _findings(typed.printed), f"{typed.command}\n{printed}"
        else:
            assert _told(printed) == _told(typed.printed), f"{typed.command}\n{printed}"

    def _run(self, command: str) -> tuple[int, str]:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{{ {command}\n}} < /dev/null; printf '\\nended %s\\n' $?\n")
        printed = ""
        for line in self._shell.stdout:
            if re.fullmatch(r"ended \d+\n", line):
                return int(line.split()[1]), printed
            printed += line
        raise AssertionError(f"the shell ended at {command}\n{printed}")

    def _start(self, typed: Typed, *, port: int | None) -> None:
        """In a terminal of its own; what listened at a known port ends first."""
        log = Path(f"{len(self._going_on)}.log")

        def answers() -> bool:
            if port is None:
                return _told(log.read_text()) == _told(typed.printed)
            with socket.socket() as one:
                return one.connect_ex(("127.0.0.1", port)) == 0

        name = typed.command if port is None else str(port)
        if name in self._going_on:
            self._going_on.pop(name).close()
        self._going_on[name] = ExitStack()
        self._going_on[name].enter_context(
            running(["bash", "-c", f"exec {typed.command}"], log=log, answers=answers)
        )

    def close(self) -> None:
        for stack in self._going_on.values():
            stack.close()
        self._shell.communicate()


def in_this_folder(page: str, ports: Mapping[str, str]) -> str:
    """A page for the working directory and free ports."""
    page = page.replace(FOLDER, str(Path.cwd()))
    return re.sub(rf"\b({'|'.join(ports)})\b", lambda found: ports[found[1]], page)


def free_ports() -> dict[str, str]:
    """For each port of the pages a free one."""
    return dict(zip(PORTS, _ports(), strict=False))


def _ports() -> Iterator[str]:
    seen: set[int] = set()
    while True:
        if (port := free_port()) not in seen:
            seen.add(port)
            yield str(port)


def _told(printed: str) -> list[str]:
    """The words, but for what another time or place has otherwise."""
    return _BY_CHANCE.sub("#", printed).split()


def _findings(printed: str) -> list[tuple[str, ...]]:
    """What doctor looked at and how it was, but for this machine."""
    return [row for row in _FINDING.findall(printed) if row[1:] not in _OF_THIS_MACHINE]
