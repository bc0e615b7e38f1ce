"""What happens in a run, told to whoever watches: the run's folder, a terminal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from federation.config import Experiment
from federation.iodeep.manifest import VersionManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The run has its starting version; rounds follow."""

    experiment: Experiment
    version: VersionManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Sites were asked to train or evaluate; they answer in roster order."""

    round: int
    work: str
    sites: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One site answered, or did not: ``problem`` says why its answer does not count."""

    round: int
    work: str
    site: str
    problem: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A round's version is in the aggregator's archive."""

    version: VersionManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """A version was delivered and evaluated.

    sites: per site its metrics and case counts; a site whose answer does not count is in
           ``problems`` instead
    mean:  over all cases of all sites
    """

    version: VersionManifest
    mean: Mapping[str, float]
    sites: Mapping[str, Mapping[str, float]]
    cases: Mapping[str, Mapping[str, int]]
    problems: Mapping[str, str]
    quarantined: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


Event = Started | Asked | Answered | Published | Evaluated
Observer = Callable[[Event], None]
