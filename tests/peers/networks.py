"""Machines with an address of their own: network namespaces (iproute2), joined by a bridge.

    with network("aggregator", "a", "b") as machines:
        subprocess.run([*machines["a"].enter, "flower-supernode", …])
        machines.outsiders()   # where else packets were to go

Where namespaces are not permitted the machines are addresses of loopback, and what they send
elsewhere is not seen.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers import lack

_RESOLVERS = Path("/etc/netns")  # `ip netns exec` puts what is here over /etc
_WATCH = """
import socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
print("watching", flush=True)
while True:
    frame = sock.recv(65535)
    if frame[12:14] == b"\\x08\\x00" and frame[23] in (6, 17):  # TCP and UDP over IPv4
        print(socket.inet_ntoa(frame[30:34]), flush=True)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """address: its IP address; enter: what to put before a command that shall run there"""

    address: str
    enter: tuple[str, ...]


class Machines(Mapping[str, Machine]):
    """The machines by name."""

    def __init__(self, machines: Mapping[str, Machine], seen: Path | None) -> None:
        self._machines = machines
        self._seen = seen

    @property
    def are_apart(self) -> bool:
        """Whether they are in namespaces of their own."""
        return self._seen is not None

    def outsiders(self) -> set[str]:
        """Addresses that packets went to or were to go to, other than the machines' own."""
        assert self._seen is not None
        found = set(self._seen.read_text().split()) - {"watching"}
        return found - {machine.address for machine in self._machines.values()}

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._machines)

    def __len__(self) -> int:
        return len(self._machines)


@contextmanager
def network(folder: Path, *names: str) -> Iterator[Machines]:
    """Machines that reach each other, and a gateway and name server that answer nothing."""
    if os.getuid() != 0 or shutil.which("ip") is None or not _permitted():
        if os.environ.get("IODEEP_PEERS") == "required" and os.getuid() == 0:
            lack("network namespaces (apt-get install iproute2)")
        yield Machines(
            {
                name: Machine(address=f"127.0.0.{number}", enter=())
                for number, name in enumerate(names, start=2)
            },
            None,
        )
        return
    with ExitStack() as stack:
        tag = secrets.token_hex(2)
        lan = _namespace(stack, f"io{tag}lan")
        _ip("-n", lan, "link", "add", "br0", "type", "bridge")
        _ip("-n", lan, "addr", "add", "10.211.0.254/24", "dev", "br0")
        _ip("-n", lan, "link", "set", "br0", "up")
        machines = {}
        for number, name in enumerate(names, start=1):
            machines[name] = _machine(stack, lan, f"io{tag}{name[:5]}", f"10.211.0.{number}")
        seen = folder / "packets"
        with seen.open("w") as file:
            watch = subprocess.Popen(
                ["ip", "netns", "exec", lan, sys.executable, "-c", _WATCH], stdout=file
            )
        stack.callback(watch.wait)
        stack.callback(watch.kill)
        while "watching" not in seen.read_text():
            time.sleep(0.05)
        yield Machines(machines, seen)


def _permitted() -> bool:
    name = f"io{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode == 0:
        _ip("netns", "del", name)
    return made.returncode == 0


def _machine(stack: ExitStack, lan: str, name: str, address: str) -> Machine:
    _namespace(stack, name)
    resolver = _RESOLVERS / name
    resolver.mkdir(parents=True)
    stack.callback(shutil.rmtree, resolver)
    (resolver / "resolv.conf").write_text("nameserver 10.211.0.254\n")
    port = f"v{address.rpartition('.')[2]}"
    _ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", port, "netns", lan)
    _ip("-n", lan, "link", "set", port, "master", "br0", "up")
    _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", name, "link", "set", "eth0", "up")
    _ip("-n", name, "route", "add", "default", "via", "10.211.0.254")
    return Machine(address=address, enter=("ip", "netns", "exec", name))


def _namespace(stack: ExitStack, name: str) -> str:
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "del", name)
    _ip("-n", name, "link", "set", "lo", "up")
    return name


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
