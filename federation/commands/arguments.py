"""What several commands about models take."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from federation.errors import ConfigError, RegistryError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import Branch, VersionManifest
from federation.iodeep.signature import PublicKey
from federation.registry import Registry
from federation.trust import Rule, TrustList

Pacs = Annotated[str, typer.Argument(help="The archive: dimse://AE@host:port or folder:PATH.")]
LineArgument = Annotated[str, typer.Argument(help="The line, such as MR/hippocampus/-/unet.")]
BranchOption = Annotated[
    str | None, typer.Option(help="The branch; without it, the only one or the newest.")
]
NewBranch = Annotated[
    str, typer.Option(help="The branch to open.", callback=lambda name: _branch(name))
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Signers = Annotated[
    list[Path] | None,
    typer.Option(
        "--signer", help="A public key; with it, only what one of these signed is believed."
    ),
]


def _branch(name: str) -> str:
    try:
        return TypeAdapter(Branch).validate_python(name)
    except ValidationError:
        raise typer.BadParameter(
            f"{name!r:.40} is no branch: 1 to 16 letters, digits, inner hyphens and underscores"
        ) from None


def trust_of(signers: Sequence[Path] | None, *own: PublicKey) -> TrustList | None:
    """What ``--signer`` says, and one's own key; without it nothing is asked.

    Raises :class:`~federation.errors.ConfigError`.
    """
    if not signers:
        return None
    return TrustList([Rule.of_key(key) for key in (*own, *map(PublicKey.read, signers))])


def newest_branch(registry: Registry, line: Line) -> str:
    branches = registry.branches(line)
    if not branches:
        raise RegistryError(f"line {line} has no branch here; `iodeep model list` shows what is")
    return branches[-1].name


def version_of(registry: Registry, line: Line, branch: str, round: int | None) -> VersionManifest:
    """The version of a round, or without one the latest. Raises :class:`RegistryError`."""
    if round is None:
        return registry.latest(line, branch)
    versions = registry.versions(line, branch, round)
    if not versions:
        raise RegistryError(
            f"line {line} has no complete version of round {round} on branch {branch!r}; "
            "`iodeep model history` shows what there is"
        )
    return versions[-1]


def named_version(registry: Registry, line: Line, name: str, branch: str) -> VersionManifest:
    """The version that a word names: ``BRANCH:ROUND``, ``BRANCH`` (its latest), ``ROUND`` (of
    ``branch``), a UID, or the end of one as tables show it (``…12345678``).

    Raises :class:`ConfigError` where it names none, :class:`RegistryError` where that is not there.
    """
    if name.startswith(("2.25.", "…")):
        return _version_with_uid(registry, line, name)
    before, colon, after = name.partition(":")
    if not colon and before.isdecimal():
        before, after = "", before
    if (after and not _ROUND.fullmatch(after)) or not (before or after):
        raise ConfigError(
            f"{name!r:.80} names no version; expected BRANCH:ROUND, a branch, a round or a UID"
        )
    return version_of(registry, line, before or branch, int(after) if after else None)


_ROUND = re.compile(r"[0-9]{1,9}")


def _version_with_uid(registry: Registry, line: Line, name: str) -> VersionManifest:
    end = name.removeprefix("…")
    found = [
        version
        for branch in registry.branches(line)
        for version in registry.versions(line, branch.name)
        if (version.uid == name) or (end != name and end and version.uid.endswith(end))
    ]
    if len(found) != 1:
        many = f"{len(found)} complete versions" if found else "no complete version"
        raise RegistryError(
            f"line {line} has {many} with UID {name:.80}; "
            "`iodeep model history --graph` shows what there is"
        )
    return found[0]
