"""All versions of a line and how they come from each other: what ``history --graph`` draws.

Each version names its parent. Those of a branch follow each other in a lane; a branch that starts
from a version of another one forks there. Nothing but manifests is read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from federation.errors import RegistryError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import AGGREGATOR, Reference, ReleaseManifest
from federation.registry import Branch, Registry
from federation.releases import Releases, read_releases
from federation.task import TASKS, Task, TaskName

SHORTEST_RUN = 4
"""How many unremarkable rounds in a row are drawn as one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A complete version of a line, as its manifest and the documents about it say.

    score:    the task's headline metric on validation, the aggregator's where there is one; None
              where not recorded
    releases: the release documents that point to it, in their order
    released: whether the one that counts now does
    """

    branch: str
    round: int
    reference: Reference
    parent: Reference | None
    weights_digest: str
    parameters: int
    sites: int
    task: TaskName = "segmentation"
    score: float | None = None
    releases: tuple[ReleaseManifest, ...] = ()
    released: bool = False

    @property
    def name(self) -> str:
        return f"{self.branch}:{self.round}"


@dataclass(frozen=True, kw_only=True)
class History:
    """The versions of a line in one archive, by branch, oldest first, then by round."""

    line: Line
    branches: tuple[Branch, ...]
    versions: tuple[Version, ...]
    releases: Releases

    @property
    def task(self) -> Task:
        """What the newest version of the newest branch is for, as are all others."""
        return TASKS[self.versions[-1].task]

    def of_branch(self, branch: str) -> list[Version]:
        return [version for version in self.versions if version.branch == branch]

    def find(self, reference: Reference) -> Version | None:
        """The version that a reference names; None where it is not among these."""
        return self._known.get(reference)

    @cached_property
    def _known(self) -> dict[Reference, Version]:
        return {version.reference: version for version in self.versions}

    @property
    def astray(self) -> tuple[ReleaseManifest, ...]:
        """The release documents whose version is not among these."""
        return tuple(d for d in self.releases.documents if d.of not in self._known)


def read_history(registry: Registry, line: Line) -> History:
    """All versions of a line, with the releases that the registry's trust list believes.

    Raises :class:`RegistryError` where the line has none.
    """
    releases = read_releases(registry, line)
    branches = registry.branches(line)
    versions = [v for branch in branches for v in _versions(registry, line, branch, releases)]
    if not versions:
        raise RegistryError(
            f"line {line} has no complete version here; `iodeep model list` shows what is"
        )
    return History(line=line, branches=tuple(branches), versions=tuple(versions), releases=releases)


def _versions(
    registry: Registry, line: Line, branch: Branch, releases: Releases
) -> Iterator[Version]:
    measured: dict[Reference, Mapping[str, float]] = {}
    evaluations = registry.evaluations(line, branch.name)
    for evaluation in sorted(evaluations, key=lambda found: found.by == AGGREGATOR):
        found = measured.get(evaluation.of, {})
        measured[evaluation.of] = {**found, **evaluation.measured.metrics}
    current = releases.stack[-1].of if releases.stack else None
    for version in registry.versions(line, branch.name):
        reference = version.reference
        headline = f"validation_{TASKS[version.task].headline}"
        yield Version(
            branch=version.branch,
            round=version.round,
            reference=reference,
            parent=version.lineage.parent,
            weights_digest=version.weights.digest,
            parameters=version.weights.parameters,
            sites=len(version.lineage.receipts),
            task=version.task,
            score=measured.get(reference, {}).get(headline),
            releases=tuple(d for d in releases.documents if d.of == reference),
            released=reference == current,
        )


# --- drawing ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A row of the drawing: one version, or a run of unremarkable ones that follow each other.

    lanes: what is drawn to the left of the row's mark
    mark:  the version's: ``★`` where it is released, else ``●``; ``┊`` for a run
    best:  whether it has its branch's best validation score, of several
    start: whether it does not hang on what is drawn above it
    """

    lanes: str
    mark: str
    versions: tuple[Version, ...]
    best: bool = False
    start: bool = False


def draw(versions: Sequence[Version]) -> list[Drawn]:
    """Versions as a graph, each below its parent, runs of :data:`SHORTEST_RUN` or more as one row.

    What leads round in a circle is drawn once: content-derived UIDs rule it out, a forger's bytes
    might not.
    """
    forest = _Forest(versions)
    rows: list[Drawn] = []
    run: list[_Place] = []

    def close_run() -> None:
        if len(run) >= SHORTEST_RUN:
            whole = tuple(place.version for place in run)
            rows.append(Drawn(lanes=run[0].lanes, mark="┊", versions=whole))
        else:
            rows.extend(forest.drawn(place) for place in run)
        run.clear()

    for place in forest.places():
        plain = forest.is_unremarkable(place.version)
        if run and not (plain and place.version.parent == run[-1].version.reference):
            close_run()
        if plain:
            run.append(place)
        else:
            rows.append(forest.drawn(place))
    close_run()
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a version is drawn: what stands left of it, and left of what follows in its lane."""

    version: Version
    lanes: str
    below: str
    start: bool = False


class _Forest:
    """Which version follows which."""

    def __init__(self, versions: Sequence[Version]) -> None:
        self._versions = versions
        self._known = {version.reference: version for version in versions}
        self._children: dict[Reference, list[Version]] = {}
        for version in versions:
            if version.parent is not None:
                self._children.setdefault(version.parent, []).append(version)
        self._best = frozenset(_best(versions))

    def is_unremarkable(self, version: Version) -> bool:
        """In the middle of its branch, followed by the next round and nothing else."""
        parent = self._known.get(version.parent) if version.parent else None
        match self._children.get(version.reference):
            case [child] if parent is not None:
                neighbours = [(parent.branch, parent.round + 1), (child.branch, child.round - 1)]
                return (
                    neighbours == [(version.branch, version.round)] * 2
                    and not version.releases
                    and version.reference not in self._best
                )
        return False

    def drawn(self, place: _Place) -> Drawn:
        version = place.version
        return Drawn(
            lanes=place.lanes,
            mark="★" if version.released else "●",
            versions=(version,),
            best=version.reference in self._best,
            start=place.start,
        )

    def places(self) -> Iterator[_Place]:
        """Every version once, parents first: forks to the right, then its lane goes on.

        The last fork from the last version of a branch goes on in the same lane, so that runs
        started each from the one before do not wander off to the right.
        """
        drawn: set[Reference] = set()
        # Those in a circle are below no start: they come up once all others are drawn.
        starts = [version for version in self._versions if version.parent not in self._known]
        for start in [*starts, *self._versions]:
            left = [_Place(version=start, lanes="", below="", start=True)]
            while left:
                place = left.pop()
                if place.version.reference in drawn:
                    continue
                drawn.add(place.version.reference)
                yield place
                left += reversed(list(self._below(place)))

    def _below(self, place: _Place) -> Iterator[_Place]:
        own = place.version.branch
        children = self._children.get(place.version.reference, [])
        onward = next((child for child in children if child.branch == own), None)
        if onward is None and children:
            onward = children[-1]
        lane = place.below
        for child in children:
            if child is not onward:
                yield _Place(version=child, lanes=f"{lane}├─", below=f"{lane}│ ")
        if onward is not None:
            yield _Place(version=onward, lanes=lane, below=lane)


def _best(versions: Iterable[Version]) -> Iterator[Reference]:
    """The version with the best validation score of each branch that has several measured."""
    measured: dict[str, list[tuple[float, Version]]] = {}
    for version in versions:
        if version.score is not None:
            measured.setdefault(version.branch, []).append((version.score, version))
    for found in measured.values():
        if len(found) > 1:
            yield max(found, key=lambda pair: pair[0])[1].reference
