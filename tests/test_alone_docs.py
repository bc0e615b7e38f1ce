"""docs/alone.md: what stands there as typed is typed again, beside Orthanc."""

import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from federation.config import FinetuneTable, ServiceTable, Site
from tests.peers import peer
from tests.terminal import Terminal, free_ports, in_this_folder
from tests.test_pacs_docs import PAGE as ARCHIVES
from tests.typed import commands, files, read_page, section

ROOT = Path(__file__).parents[1]
PAGE = "alone.md"


def test_the_page_works_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("Orthanc", "getscu", "storescu"):
        peer(program)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", "configs")
    ports = free_ports()
    page = in_this_folder(read_page(PAGE), ports)
    archives = in_this_folder(read_page(ARCHIVES), ports)
    for name, content in {**files(archives), **files(page)}.items():
        Path(name).write_text(content)
    service = f"\n[service]\nport = {ports['11113']}\n"
    Path("site.toml").write_text(files(page)["site.toml"] + service)
    with Terminal(ports) as terminal:
        for typed in commands(page):
            terminal.type(typed)


@pytest.mark.parametrize(
    ("kind", "heading"), [(FinetuneTable, "Fine-tuning"), (ServiceTable, "Studies that are sent")]
)
def test_every_key_is_in_the_page(kind: type, heading: str) -> None:
    text = section(read_page(PAGE), heading)
    for name in kind.model_fields:
        assert f"`{name}`" in text, name


def test_the_rules_are_some() -> None:
    block = read_page(PAGE).rpartition("```toml\n")[2].partition("```")[0]
    rules = ServiceTable.model_validate(tomllib.loads(block)["service"]).rules
    assert rules[0].skip
    assert rules[1].line is not None
    assert "service" in Site.model_fields
