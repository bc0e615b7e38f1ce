"""Which version of a line is the one to use, as signed documents in the archive say.

Nothing is edited or deleted: promoting and rolling back write a document each, and whoever reads
them in their order (number, then UID) comes to the same end.
"""

from dataclasses import dataclass

from federation.errors import RegistryError, SignatureError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import Reference, ReleaseManifest, VersionManifest
from federation.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A release document that does not count, and why."""

    release: ReleaseManifest
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Releases:
    """The release documents of a line, in their order.

    stack: what a rollback would go back through; the last is the released one
    """

    line: Line
    documents: tuple[ReleaseManifest, ...]
    refused: tuple[Refused, ...]
    stack: tuple[ReleaseManifest, ...]

    @property
    def current(self) -> ReleaseManifest:
        """The document that says which version is released. Raises :class:`RegistryError`."""
        if not self.stack:
            more = f"; {len(self.refused)} documents do not count" if self.refused else ""
            raise RegistryError(
                f"no version of line {self.line} is released here{more}. "
                "Release one with `iodeep model promote`"
            )
        return self.stack[-1]

    @property
    def before(self) -> ReleaseManifest:
        """What a rollback releases again. Raises :class:`RegistryError`."""
        if len(self.stack) < 2:
            raise RegistryError(
                f"there is no release of line {self.line} before {self.current.of.uid}, "
                "so nothing to go back to"
            )
        return self.stack[-2]


def read_releases(registry: Registry, line: Line) -> Releases:
    """The releases of a line; where the registry has a trust list, those that it believes."""
    documents: list[ReleaseManifest] = []
    refused: list[Refused] = []
    for release, signature in registry.releases(line):
        try:
            if registry.trust is not None:
                registry.trust.check(release, signature)
        except SignatureError as error:
            refused.append(Refused(release=release, problem=str(error)))
        else:
            documents.append(release)
    documents.sort(key=lambda release: (release.number, release.uid))
    return Releases(
        line=line,
        documents=tuple(documents),
        refused=tuple(refused),
        stack=_stack(documents),
    )


def _stack(documents: list[ReleaseManifest]) -> tuple[ReleaseManifest, ...]:
    """Promoting puts a version on top; going back takes off what lay above the version."""
    stack: list[ReleaseManifest] = []
    for release in documents:
        if release.action == "rollback":
            below = [number for number, other in enumerate(stack) if other.of == release.of]
            stack = stack[: below[-1]] if below else stack[:-1]
        stack.append(release)
    return tuple(stack)


def promote(
    registry: Registry,
    version: VersionManifest,
    reason: str | None = None,
) -> ReleaseManifest:
    """Release a version: whole in the archive, verified, and not the released one already.

    Raises :class:`RegistryError` where another promotion at the same time comes after this one.
    """
    releases = read_releases(registry, version.line)
    if releases.stack and releases.current.of == version.reference:
        return releases.current
    with registry.pull(version):
        pass  # every byte is there
    release = ReleaseManifest(
        line=version.line,
        branch=version.branch,
        round=version.round,
        of=version.reference,
        series=version.series_uid,
        number=_next(releases),
        action="promote",
        previous=_newest(releases),
        reason=reason,
    )
    return _publish(registry, release)


def roll_back(registry: Registry, line: Line, reason: str | None = None) -> ReleaseManifest:
    """Release again what was released before. Raises :class:`RegistryError`."""
    releases = read_releases(registry, line)
    before = releases.before
    release = before.model_copy(
        update={
            "number": _next(releases),
            "action": "rollback",
            "previous": _newest(releases),
            "reason": reason,
        }
    )
    return _publish(registry, release)


def released(registry: Registry, line: Line) -> VersionManifest:
    """The released version. Raises :class:`RegistryError` where it is not whole here."""
    current = read_releases(registry, line).current
    try:
        return registry.version(line, current.branch, current.series, current.of)
    except RegistryError as error:
        raise RegistryError(
            f"release {current.number} of line {line} points to version {current.of.uid} "
            f"(branch {current.branch}, round {current.round}), which is not whole in this archive"
        ) from error


def _next(releases: Releases) -> int:
    return max((release.number for release in releases.documents), default=0) + 1


def _newest(releases: Releases) -> Reference | None:
    return releases.documents[-1].reference if releases.documents else None


def _publish(registry: Registry, release: ReleaseManifest) -> ReleaseManifest:
    registry.publish(release)
    newest = read_releases(registry, release.line).current
    if newest.reference != release.reference:
        raise RegistryError(
            f"release {release.number} of {release.of.uid} was written, and at the same time "
            f"release {newest.number} of {newest.of.uid}, which comes after it and counts. "
            "Look at `iodeep model released`, then decide again"
        )
    return release
