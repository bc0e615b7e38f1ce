"""``iodeep model promote | rollback | released``: which version of a line is the one to use."""

from pathlib import Path
from typing import Annotated

import typer

from federation import releases
from federation.commands.arguments import (
    BranchOption,
    Json,
    LineArgument,
    Pacs,
    Signers,
    trust_of,
)
from federation.commands.output import print_json, print_table, release_facts
from federation.commands.progress import open_archive
from federation.iodeep.labels import Line
from federation.iodeep.manifest import ReleaseManifest
from federation.iodeep.signature import SigningKey
from federation.naming import newest_branch, version_of
from federation.registry import Registry

Key = Annotated[Path, typer.Option(help="The private key that signs, of `iodeep key create`.")]
Reason = Annotated[str | None, typer.Option(help="Why, in a sentence; it is kept and shown.")]


def promote(
    line: LineArgument,
    pacs: Pacs,
    key: Key,
    branch: BranchOption = None,
    round: Annotated[int | None, typer.Option(help="The round; without it, the latest.")] = None,
    reason: Reason = None,
    signer: Signers = None,
    json: Json = False,
) -> None:
    """Release a version: write a signed Key Object Selection document that points to it."""
    own = SigningKey.read(key)
    with open_archive(pacs) as gateway:
        registry = Registry(gateway, trust=trust_of(signer, own.public), signer=own)
        parsed = Line.parse(line)
        version = version_of(registry, parsed, branch or newest_branch(registry, parsed), round)
        release = releases.promote(registry, version, reason)
    _say(release, json=json)


def rollback(
    line: LineArgument,
    pacs: Pacs,
    key: Key,
    reason: Reason = None,
    signer: Signers = None,
    json: Json = False,
) -> None:
    """Release again what was released before; nothing is deleted."""
    own = SigningKey.read(key)
    with open_archive(pacs) as gateway:
        registry = Registry(gateway, trust=trust_of(signer, own.public), signer=own)
        release = releases.roll_back(registry, Line.parse(line), reason)
    _say(release, json=json)


def released(line: LineArgument, pacs: Pacs, signer: Signers = None, json: Json = False) -> None:
    """Show the released version of a line, and all its release documents in their order."""
    with open_archive(pacs) as gateway:
        registry = Registry(gateway, trust=trust_of(signer))
        parsed = Line.parse(line)
        found = releases.read_releases(registry, parsed)
        version = releases.released(registry, parsed)
    current = found.current
    rows = [
        release_facts(release) | {"released": release == current} for release in found.documents
    ]
    refused = [{"document": r.release.uid, "problem": r.problem} for r in found.refused]
    if json:
        print_json(
            {
                "version": version.uid,
                "digest": version.digest,
                "branch": version.branch,
                "round": version.round,
                "documents": rows,
                "refused": refused,
            }
        )
        return
    print_table(f"{line}: {version.uid} (branch {version.branch}, round {version.round})", rows)
    if refused:
        print_table("documents that do not count", refused)


def _say(release: ReleaseManifest, *, json: bool) -> None:
    if json:
        print_json(release_facts(release) | {"released": True})
    else:
        typer.echo(
            f"{release.line}: release {release.number} is branch {release.branch}, "
            f"round {release.round}: {release.of.uid}"
        )
