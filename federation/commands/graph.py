"""``iodeep model history --graph``: branches, rounds and releases of a line as a graph."""

from typing import Any

import typer

from federation.commands.output import print_json, print_table, release_facts, short
from federation.iodeep.labels import Line
from federation.lineage import Drawn, History, Version, draw, read_history
from federation.registry import Registry
from federation.releases import Refused
from federation.task import TASKS


def print_graph(registry: Registry, line: Line, *, json: bool) -> None:
    """Read the line's history and print it: a drawing for people, or what it is made of."""
    history = read_history(registry, line)
    if json:
        print_json(_as_json(history))
        return
    rows: list[dict[str, Any]] = []
    for drawn in draw(history.versions):
        row = _row(history, drawn)
        if drawn.start and rows:
            rows.append(dict.fromkeys(row, ""))  # or it would seem to follow what is above it
        rows.append(row)
    print_table(str(line), rows)
    for note in _notes(history):
        typer.echo(note)


def _row(history: History, drawn: Drawn) -> dict[str, Any]:
    first, last = drawn.versions[0], drawn.versions[-1]
    many = len(drawn.versions) > 1
    scores = [version.score for version in drawn.versions if version.score is not None]
    return {
        "branch:round": f"{drawn.lanes}{drawn.mark} "
        + (f"rounds {first.round}-{last.round}" if many else first.name),
        "version": f"{len(drawn.versions)} versions" if many else short(first.reference.uid),
        "weights": "" if many else first.weights_digest[:12],
        f"validation {history.task.word}": _range(scores),
        "": "" if many else ", ".join(_remarks(history, drawn)),
    }


def _range(scores: list[float]) -> str:
    if not scores:
        return "-"
    low, high = min(scores), max(scores)
    return f"{low:.4f}" if low == high else f"{low:.4f}-{high:.4f}"


def _remarks(history: History, drawn: Drawn) -> list[str]:
    (version,) = drawn.versions
    remarks = []
    if version.released:
        remarks.append("RELEASED")
    if version.releases:
        documents = (f"{release.number} ({release.action})" for release in version.releases)
        remarks.append(f"release {', '.join(documents)}")
    parent = history.find(version.parent) if version.parent else None
    if version.parent and parent is None:
        remarks.append(f"its parent {short(version.parent.uid)} is not here")
    if parent and parent.branch != version.branch:
        remarks.append(f"from {parent.name}")
    if drawn.best:
        remarks.append("best of its branch")
    return remarks


def _notes(history: History) -> list[str]:
    notes = [
        f"release {release.number} ({release.action}) points to {release.branch}:{release.round} "
        f"{short(release.of.uid)}, which is not whole in this archive"
        + (" and is the released version" if release is history.releases.stack[-1] else "")
        for release in history.astray
    ]
    if refused := _refused(history):
        numbers = ", ".join(str(one.release.number) for one in refused)
        notes.append(f"not signed by a key of --signer, so not counted: release {numbers}")
    return notes


def _refused(history: History) -> list[Refused]:
    return sorted(history.releases.refused, key=lambda one: (one.release.number, one.release.uid))


def _as_json(history: History) -> dict[str, Any]:
    stack = history.releases.stack
    return {
        "line": str(history.line),
        "released": stack[-1].of.uid if stack else None,
        "branches": [
            {
                "branch": branch.name,
                "begun": branch.date,
                "versions": [_version_json(history, v) for v in history.of_branch(branch.name)],
            }
            for branch in history.branches
        ],
        "releases": [release_facts(release) for release in history.releases.documents],
        "refused": [
            release_facts(one.release) | {"problem": one.problem} for one in _refused(history)
        ],
    }


def _version_json(history: History, version: Version) -> dict[str, Any]:
    return {
        "round": version.round,
        "version": version.reference.uid,
        "digest": version.reference.digest,
        "parent": _parent_json(history, version),
        "weights_digest": version.weights_digest,
        "parameters": version.parameters,
        "sites": version.sites,
        f"validation_{TASKS[version.task].headline}": version.score,
        "releases": [release.number for release in version.releases],
        "released": version.released,
    }


def _parent_json(history: History, version: Version) -> dict[str, Any] | None:
    if version.parent is None:
        return None
    parent = history.find(version.parent)
    return {
        "version": version.parent.uid,
        "digest": version.parent.digest,
        "here": parent is not None,
        "branch": parent.branch if parent else None,
        "round": parent.round if parent else None,
    }
