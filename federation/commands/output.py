"""How commands print: tables for people, JSON for machines, both on stdout."""

import json
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from federation.iodeep.manifest import ReleaseManifest


def print_json(value: Any) -> None:
    """One JSON document, indented, on stdout."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Rows with the same keys as a table; cells are never cut short when piped.

    The first column names the row and is kept whole; on a narrow terminal the others fold. What
    stands in square brackets is text like any other, and no markup.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)
    shown = Text(_visible(title)) if title else None
    table = Table(title=shown, box=None, header_style="bold", title_justify="left")
    for number, key in enumerate(rows[0] if rows else ()):
        table.add_column(Text(_visible(key)), overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    console.print(table)


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4f}"
        case _:
            return _visible(str(value))


def short(identifier: str | None) -> str:
    """The end of a UID, enough to tell a few apart by."""
    return f"…{identifier[-8:]}" if identifier else "-"


def _visible(text: str) -> str:
    """What comes out of an archive must not steer the terminal: ESC becomes \\x1b."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def release_facts(release: ReleaseManifest) -> dict[str, Any]:
    """What there is to say of a release document."""
    return {
        "number": release.number,
        "action": release.action,
        "branch": release.branch,
        "round": release.round,
        "version": release.of.uid,
        "document": release.uid,
        "reason": release.reason,
    }
