"""`iodeep site audit`: whether a site's audit log is whole, and what came last."""

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import typer

from federation.audit import AuditLog, Entry, Head, verify
from federation.commands.output import print_json, print_table
from federation.config import Site
from federation.errors import AuditError
from federation.iodeep.signature import SigningKey

_SHOWN = {"message": 8, "digest": 12, "weights": 12, "version": 12}
"""Facts that a table shows only the beginning or, of a UID, the end of."""

_LEFT_OUT = ("run", "group", "type", "software")


def run_audit(site: Site, head: str | None, last: int, *, as_json: bool) -> bool:
    """Print what the log came to; whether it is whole."""
    known = Head.parse(head) if head is not None else None
    key = SigningKey.read(site.key).public if site.key else None
    found = verify(site.audit, key, known)
    entries = _last(AuditLog(site.audit, None), last)
    problems = [
        {"problem": one.kind, "line": one.line, "entry": one.entry, "what": one.text}
        for one in found.problems
    ]
    if as_json:
        print_json(
            {
                "log": str(site.audit),
                "whole": found.is_whole,
                "entries": found.entries,
                "head": str(found.head) if found.head else None,
                "signed": key is not None,
                "ahead": found.ahead,
                "torn_bytes": found.torn,
                "problems": problems,
                "more_problems": found.more,
                "last": [_as_json(entry) for entry in entries],
            }
        )
        return found.is_whole
    print_table(str(site.audit), [_as_row(entry) for entry in entries])
    print_table("", problems)
    if found.more:
        typer.echo(f"and {found.more} more problems")
    if found.torn:
        typer.echo(f"{found.torn} bytes of an entry were left by a kill; the next one notes them")
    outcome = "whole" if found.is_whole else "NOT whole"
    typer.echo(f"{found.entries} entries, {outcome}; head {found.head or 'none'}")
    return found.is_whole


def _last(log: AuditLog, count: int) -> list[Entry]:
    """The last entries, oldest first; none beyond one that cannot be read."""
    found: list[Entry] = []
    with suppress(AuditError):  # the problems say where
        for entry in islice(log.newest(), count):
            found.append(entry)
    return found[::-1]


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "number": entry.number,
        "time": entry.time,
        "event": entry.event,
        "facts": dict(entry.facts),
        "digest": entry.digest,
    }


def _as_row(entry: Entry) -> dict[str, Any]:
    return {
        "entry": entry.number,
        "time": entry.time,
        "event": entry.event,
        "facts": _summary(entry.facts),
    }


def _summary(facts: Mapping[str, Any]) -> str:
    words = []
    for name, value in facts.items():
        if value is None or name in _LEFT_OUT:
            continue
        text = str(value)
        length = _SHOWN.get(name, len(text))
        if length < len(text):
            text = f"…{text[-length:]}" if name == "version" else f"{text[:length]}…"
        words.append(f"{name} {text}")
    return ", ".join(words)
