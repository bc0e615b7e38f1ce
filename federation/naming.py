"""Versions by the words that people name them with."""

import re

from federation.errors import ConfigError, RegistryError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import VersionManifest
from federation.registry import Registry


def newest_branch(registry: Registry, line: Line) -> str:
    """The branch that was begun last. Raises :class:`RegistryError` where there is none."""
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
