"""``iodeep model diff``: what changed between two versions of a line."""

import json as json_library
import math
from typing import Annotated, Any

import typer
from pydantic import JsonValue

from federation.commands.arguments import (
    BranchOption,
    Json,
    LineArgument,
    Pacs,
    Signers,
    trust_of,
)
from federation.commands.output import print_json, print_table, short
from federation.commands.progress import open_archive
from federation.errors import RegistryError
from federation.iodeep.difference import (
    Difference,
    Fact,
    TensorDifference,
    TensorSummary,
    compare_versions,
)
from federation.iodeep.labels import Line
from federation.iodeep.manifest import VersionManifest
from federation.naming import named_version, newest_branch
from federation.registry import Registry


def diff(
    line: LineArgument,
    pacs: Pacs,
    before: Annotated[
        str | None, typer.Argument(help="A version; without it, the parent of AFTER.")
    ] = None,
    after: Annotated[
        str | None, typer.Argument(help="A version; without it, the branch's latest.")
    ] = None,
    branch: BranchOption = None,
    top: Annotated[int, typer.Option(min=0, help="How many tensors to show.")] = 20,
    signer: Signers = None,
    json: Json = False,
) -> None:
    """Compare two versions: labels, architecture, preprocessing, lineage, and every tensor.

    A version is named by BRANCH:ROUND, BRANCH (its latest), ROUND (of --branch),
    a UID, or the end of one as tables show it (…12345678). Unless given, AFTER is
    the latest of --branch or the newest branch, and BEFORE its parent.
    """
    with open_archive(pacs) as gateway:
        registry = Registry(gateway, trust=trust_of(signer))
        parsed = Line.parse(line)
        usual = branch or newest_branch(registry, parsed)
        second = named_version(registry, parsed, after or f"{usual}:", usual)
        if before:
            first = named_version(registry, parsed, before, usual)
        else:
            first = _parent(registry, second)
        with registry.pull(first) as ours, registry.pull(second) as theirs:
            difference = compare_versions(ours, theirs)
    if json:
        print_json(_as_json(difference))
        return
    typer.echo(f"before  {_named(first)}\nafter   {_named(second)}\n")
    _print_facts(difference.facts)
    _print_tensors(difference, top)


def _parent(registry: Registry, version: VersionManifest) -> VersionManifest:
    """Raises :class:`RegistryError` where the parent is not there."""
    parent = version.lineage.parent
    # Most often on the same branch, which has been read already.
    branches = [version.branch, *(found.name for found in registry.branches(version.line))]
    for name in dict.fromkeys(branches):
        for other in registry.versions(version.line, name):
            if other.reference == parent:
                return other
    told = f"its parent {parent.uid} is not here" if parent else "it has no parent"
    raise RegistryError(
        f"nothing to compare branch {version.branch!r}, round {version.round} with: {told}. "
        "Name two versions, such as BRANCH:ROUND BRANCH:ROUND"
    )


# --- for people ---------------------------------------------------------------------------


def _named(version: VersionManifest) -> str:
    return f"{version.branch}:{version.round}  {version.uid}"


def _print_facts(facts: tuple[Fact, ...]) -> None:
    sections = list(dict.fromkeys(fact.section for fact in facts))
    changed = [fact for fact in facts if not fact.same]
    same = [name for name in sections if name not in {fact.section for fact in changed}]
    if same:
        typer.echo(f"the same: {', '.join(same)}\n")
    if changed:
        rows = [
            {
                "": fact.section,
                "what": fact.name,
                "before": "-" if fact.only == "after" else _shown(fact.name, fact.before),
                "after": "-" if fact.only == "before" else _shown(fact.name, fact.after),
            }
            for fact in changed
        ]
        print_table("", rows)
        typer.echo()


def _shown(name: str, value: JsonValue) -> str:
    match name, value:
        case _, None:
            return "none"
        case "parent", str(uid):
            return short(uid)
        case "digest" | "config_digest", str(digest):
            return digest[:12]
        case _, str(text):
            return text
        case _:
            return json_library.dumps(value)


def _print_tensors(difference: Difference, top: int) -> None:
    changed = [tensor for tensor in difference.tensors if tensor.change != "same"]
    if shown := changed[:top]:
        finite = not any(tensor.not_finite for tensor in shown)
        print_table("", [_row(tensor, finite=finite) for tensor in shown])
        typer.echo()
    if len(changed) > top:
        typer.echo(f"{len(changed) - top} more tensors changed; --top {len(changed)} shows all")
    totals = difference.totals
    words = {"same": "the same", "values": "with other values", "shape": "of another shape",
             "dtype": "of another dtype"}  # fmt: skip
    counts = ", ".join(
        f"{totals.tensors[kind]} {words.get(kind, kind)}" for kind in sorted(totals.tensors)
    )
    typer.echo(f"{len(difference.tensors)} tensors: {counts}")
    typer.echo(f"{totals.differing:,} of {totals.values:,} compared values differ")
    if totals.before or totals.after:
        typer.echo(
            f"L2 norm of all weights {totals.before:.4g} before, {totals.after:.4g} after, "
            f"{totals.difference:.4g} of the difference ({_percent(totals.relative)})"
        )
    if totals.not_finite_before or totals.not_finite_after:
        typer.echo(
            f"NOT FINITE: {totals.not_finite_before:,} values before, "
            f"{totals.not_finite_after:,} after; norms leave them out"
        )


def _row(tensor: TensorDifference, *, finite: bool) -> dict[str, Any]:
    sides = [side for side in (tensor.before, tensor.after) if side]
    kinds = dict.fromkeys(f"{side.dtype} {list(side.shape)}".replace(", ", ",") for side in sides)
    row = {
        "change": _change(tensor),
        "tensor": tensor.name,
        "dtype and shape": " → ".join(kinds),
        "‖before‖": _norm(tensor.before.norm if tensor.before else None),
        "‖after‖": _norm(tensor.after.norm if tensor.after else None),
        "‖difference‖": _norm(tensor.difference),
    }
    if not finite:
        counts = (f"{side.not_finite:,}" if side else "-" for side in (tensor.before, tensor.after))
        row["not finite"] = " → ".join(counts)
    return row


def _change(tensor: TensorDifference) -> str:
    if tensor.difference is not None:
        return _percent(tensor.relative)
    if tensor.differing is not None:
        return f"{tensor.differing:,} of {tensor.elements:,}"
    return tensor.change


def _norm(norm: float | None) -> str:
    return "-" if norm is None else f"{norm:.4g}"


def _percent(relative: float | None) -> str:
    return "from 0" if relative is None else f"{100 * relative:.3g} %"


# --- for machines -------------------------------------------------------------------------


def _as_json(difference: Difference) -> dict[str, Any]:
    totals = difference.totals
    return {
        "line": str(difference.before.line),
        "before": _version_json(difference.before),
        "after": _version_json(difference.after),
        "facts": [_fact_json(fact) for fact in difference.facts],
        "tensors": [_tensor_json(tensor) for tensor in difference.tensors],
        "totals": {
            "tensors": dict(totals.tensors),
            "values": totals.values,
            "differing": totals.differing,
            "norm_before": _number(totals.before),
            "norm_after": _number(totals.after),
            "norm_difference": _number(totals.difference),
            "relative": totals.relative,
            "not_finite_before": totals.not_finite_before,
            "not_finite_after": totals.not_finite_after,
        },
    }


def _version_json(version: VersionManifest) -> dict[str, Any]:
    return {
        "branch": version.branch,
        "round": version.round,
        "version": version.uid,
        "digest": version.digest,
    }


def _fact_json(fact: Fact) -> dict[str, Any]:
    """Without the side that says nothing: null may be what the other says."""
    sides = {"before": fact.before, "after": fact.after}
    said = {side: value for side, value in sides.items() if fact.only in (None, side)}
    return {"section": fact.section, "name": fact.name, "same": fact.same, **said}


def _tensor_json(tensor: TensorDifference) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "change": tensor.change,
        "before": _summary_json(tensor.before),
        "after": _summary_json(tensor.after),
        "differing": tensor.differing,
        "norm_difference": _number(tensor.difference),
        "relative": tensor.relative,
    }


def _summary_json(side: TensorSummary | None) -> dict[str, Any] | None:
    if side is None:
        return None
    return {
        "dtype": side.dtype,
        "shape": list(side.shape),
        "norm": _number(side.norm),
        "not_finite": side.not_finite,
    }


def _number(norm: float | None) -> float | None:
    """JSON has no infinity, which a norm above float64's range is."""
    return norm if norm is not None and math.isfinite(norm) else None
