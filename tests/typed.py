"""Pages that show what was typed, and what it printed: read, to be typed again.

In a fenced block a command stands behind ``$``, and goes on where a line ends in a backslash; what
follows is what it printed. A block below a line that is nothing but a file's name and a colon is
what that file holds.
"""

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"

_BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)((?:\n(?!\$ ).*)*)", re.MULTILINE)
_FILE = re.compile(r"^`([\w.-]+)`:\n\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Typed:
    """A command, and what it printed."""

    command: str
    printed: str


def read_page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """From a heading of the second level to the next one."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    assert found is not None, f"no section {heading!r}"
    return found[1]


def commands(page: str) -> list[Typed]:
    return [
        Typed(command=command, printed=printed.strip("\n"))
        for block in _BLOCK.findall(page)
        for command, printed in _COMMAND.findall(block)
    ]


def files(page: str) -> dict[str, str]:
    """What files hold, by name."""
    return dict(_FILE.findall(page))
