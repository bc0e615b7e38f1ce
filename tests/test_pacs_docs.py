"""docs/pacs.md: what stands there as typed is typed again, beside Orthanc and dcmqrscp."""

import ast
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from federation.pacs import Limits
from tests.peers import lack, peer
from tests.terminal import Terminal, free_ports, in_this_folder
from tests.typed import commands, files, read_page, section

ROOT = Path(__file__).parents[1]
PAGE = "pacs.md"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_HTTPS = re.compile(r"^### DICOMweb over HTTPS\n.*?(?=^##)", re.MULTILINE | re.DOTALL)
_DOCTOR = re.compile(r"iodeep site doctor \S+")
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
    ports = free_ports()
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


def _here(page: str, ports: Mapping[str, str]) -> str:
    """The page for this folder and free ports, without what needs nginx or takes long."""
    return _DOCTOR.sub(r"\g<0> --part-mb 1", in_this_folder(_HTTPS.sub("", page), ports))


def _texts(source: Path) -> Iterator[str]:
    """Every piece of text in a module."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
