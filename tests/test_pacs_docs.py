"""docs/pacs.md: what stands there as typed is typed again, beside Orthanc and dcmqrscp."""

import ast
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from federation.closing import Closing
from federation.pacs import Limits
from tests.peers import lack, peer
from tests.peers.process import free_port, running
from tests.typed import Typed, commands, files, read_page, section

ROOT = Path(__file__).parents[1]
PAGE = "pacs.md"
FOLDER = "/srv/iodeep"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PORTS = ("4242", "8042", "11112", "11113", "11114", "11115")
UP_AT = {"/usr/sbin/Orthanc": "8042", "dcmqrscp": "11114"}
"""Programs that go on, and the last port that each listens at."""

_HTTPS = re.compile(r"^### DICOMweb over HTTPS\n.*?(?=^##)", re.MULTILINE | re.DOTALL)
_DOCTOR = re.compile(r"iodeep site doctor \S+")
_FINDING = re.compile(r"^ (pass|warn|fail) +(\w+) +(.+?)  ", re.MULTILINE)
_OF_THIS_MACHINE = {("machine", "device"), ("machine", "disk")}
_BY_CHANCE = re.compile(r"\S*(?:\d|phantom-\w{4}\b)\S*")
_FAULT = re.compile(r"^\| (?:keys|images|data|models) [^|]*\|([^|]*)\|", re.MULTILINE)


@pytest.mark.parametrize(
    ("programs", "headings"),
    [
        (("Orthanc", "curl"), ("Certificates", "Orthanc", "What rounds take")),
        (("dcmqrscp",), ("DCMTK's dcmqrscp",)),
        ((), ("Certificates", "The archive that comes with IODeep")),
    ],
    ids=["orthanc", "dcmqrscp", "iodeep"],
)
def test_the_page_works_as_typed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    programs: tuple[str, ...],
    headings: tuple[str, ...],
) -> None:
    for program in programs:
        peer(program)
    if "Orthanc" in programs and not PLUGIN.exists():
        lack(f"Orthanc's DICOMweb plugin is not at {PLUGIN}")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", "configs")
    ports = dict(zip(PORTS, _free_ports(), strict=False))
    page = _here(read_page(PAGE), ports)
    text = "".join(section(page, heading) for heading in ("A site to try with", *headings))
    for name, content in files(text).items():
        Path(name).write_text(content)
    with Terminal(ports) as terminal:
        for typed in commands(text):
            terminal.type(typed)


def test_faults_are_called_what_doctor_calls_them() -> None:
    sources = [*ROOT.glob("clients/doctor/*.py"), *ROOT.glob("federation/pacs/**/*.py")]
    sources += [ROOT / "federation" / "secret.py", ROOT / "clients" / "data" / "quarantine.py"]
    said = "\n".join(text for path in sources for text in _texts(path))
    faults = _FAULT.findall(section(read_page(PAGE), "When doctor finds a fault"))
    assert len(faults) >= 10
    for words in re.findall("`([^`]+)`", "".join(faults)):
        assert words in said


def test_every_limit_is_in_the_page() -> None:
    text = section(read_page(PAGE), "How an archive is named")
    for name, field in Limits.model_fields.items():
        unless_given = "no limit" if field.default is None else f"{field.default:g}"
        assert re.search(rf"^\| `{name}` \|.*\| {unless_given} \|$", text, re.MULTILINE), name


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
        if program in self._up_at or (typed.command.startswith("iodeep pacs serve") and not fails):
            self._start(typed, port=self._up_at.get(program))
            return
        status, printed = self._run(typed.command)
        assert bool(status) == fails, f"{typed.command}\n{printed}"
        if "iodeep site doctor" in typed.command:
            assert _findings(printed) == _findings(typed.printed), f"{typed.command}\n{printed}"
        else:
            assert _told(printed) == _told(typed.printed), typed.command

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


def _here(page: str, ports: Mapping[str, str]) -> str:
    """The page for this folder and free ports, without what needs nginx or takes long."""
    page = _HTTPS.sub("", page).replace(FOLDER, str(Path.cwd()))
    page = re.sub(rf"\b({'|'.join(ports)})\b", lambda found: ports[found[1]], page)
    return _DOCTOR.sub(r"\g<0> --part-mb 1", page)


def _free_ports() -> Iterator[str]:
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


def _texts(source: Path) -> Iterator[str]:
    """Every piece of text in a module."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
