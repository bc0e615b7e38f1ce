"""What happens in a run, told to whoever watches: the run's folder, a terminal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from federation.config import Experiment
from federation.iodeep.manifest import EvaluationManifest, VersionManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The run has its starting version; rounds follow.

    earlier: what a run that was interrupted had finished, the starting version included
    """

    experiment: Experiment
    version: VersionManifest
    earlier: tuple["Evaluated", ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Sites were asked to train or evaluate; they answer in roster order."""

    round: int
    work: str
    sites: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One site answered, or did not: ``problem`` says why its answer does not count.

    seconds: where the time went, as the site says, with ``transfer``, which is the rest of the
             time from asking to its answer, and ``aggregation``, which is the server's
    audit:   the head of the site's audit log, as its answer names it
    """

    round: int
    work: str
    site: str
    problem: str | None
    seconds: Mapping[str, float]
    audit: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A round's version is in the aggregator's archive, which took so long."""

    version: VersionManifest
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """A version was delivered and evaluated; the aggregator's record of it says how well."""

    version: VersionManifest
    evaluation: EvaluationManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Closed:
    """A round is over: so many seconds from its beginning, on the clock on the wall."""

    round: int
    seconds: float


Event = Started | Asked | Answered | Published | Evaluated | Closed
Observer = Callable[[Event], None]
