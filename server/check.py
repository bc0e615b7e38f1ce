"""What a run would need of disks, lines and time, by its document alone; nothing is started.

Weights are nearly all that travels and is stored: the records beside them, messages without
tensors and DICOM headers take some kilobytes each, and are left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from federation.config import Experiment
from federation.iodeep.manifest import AGGREGATOR
from federation.iodeep.statistics import is_statistic
from federation.networks import build_network, tensors_of
from federation.samples.case import Case
from federation.samples.nifti import NiftiCase
from federation.sizes import size_text
from server.simulation import cases_by_site
from server.start import first_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What one participant stores, and what goes over its line.

    archives: that hold the versions; an aggregator has one for each site that trains alone
    stored:   bytes in all of these
    cases:    of a simulated site; None where an archive has the images already
    missing:  cases that lack a file
    """

    name: str
    archives: int
    stored: int
    received: int
    sent: int
    cases: int | None = None
    missing: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run would need.

    version_bytes: of the weights of one version
    versions:      in each archive at the end
    longest_s:     how long sites may be waited for, all in all; None in a simulation, where each
                   site's deadline begins when it is its turn
    """

    line: str
    version_bytes: int
    versions: int
    sites: tuple[Need, ...]
    aggregator: Need
    longest_s: float | None

    def title(self) -> str:
        return f"{self.line}: {self.versions} versions of {size_text(self.version_bytes)}"

    def table(self) -> list[dict[str, Any]]:
        """A row for each site and the aggregator."""
        return [
            {
                "where": need.name,
                "cases": need.cases,
                "stored": size_text(need.stored),
                "received": size_text(need.received),
                "sent": size_text(need.sent),
            }
            for need in (*self.sites, self.aggregator)
        ]

    def remarks(self) -> Iterable[str]:
        """What does not fit into the table."""
        archives = sum(need.archives for need in (*self.sites, self.aggregator))
        stored = sum(need.stored for need in (*self.sites, self.aggregator))
        yield (
            f"All together: {size_text(stored)} in {archives} archives, "
            f"{size_text(self.aggregator.received + self.aggregator.sent)} sent."
        )
        for need in self.sites:
            if need.missing:
                yield f"{need.name}: {need.missing} of {need.cases} cases lack a file"
        if self.longest_s is not None:
            yield f"Sites are waited for {_duration(self.longest_s)} at most, all rounds together."


def foresee(experiment: Experiment) -> Forecast:
    """What a run of an experiment would need, if no site needs anything twice.

    Raises :class:`~federation.errors.ConfigError` and :class:`~federation.errors.DataError` where
    a simulation's images are not there, :class:`~federation.errors.ModelError` for a network that
    cannot be built, and :class:`~federation.errors.RegistryError` where the version that it starts
    from is not there.
    """
    rounds = experiment.rounds
    policy = experiment.training.normalisation
    is_simulated = experiment.federation.mode == "simulation"
    cases = cases_by_site(experiment) if is_simulated else {}
    weights = first_weights(experiment)
    version_bytes = sum(part.bytes for part in weights.parts)
    sizes = _sizes(experiment)
    update = sum(sizes.values())
    statistics = sum(size for name, size in sizes.items() if is_statistic(name))
    measures_again = policy == "reestimate" and statistics > 0
    own = _normalisation(sizes) if policy == "local" else 0
    stored = (rounds + 1) * version_bytes
    received = stored + (rounds * update if measures_again else 0)
    sent = rounds * (update + (statistics if measures_again else 0))
    roster = experiment.roster
    sites = tuple(
        Need(
            name=site,
            archives=1,
            stored=stored + rounds * own,
            received=received,
            sent=sent,
            cases=len(cases[site]) if experiment.data is not None and is_simulated else None,
            missing=_missing(cases.get(site, ())),
        )
        for site in roster
    )
    archives = len(roster) if experiment.strategy.name == "local" else 1
    # Before it trains, a site that missed a version may get it once more.
    exchanges = 1 + rounds * (4 if measures_again else 3)
    return Forecast(
        line=str(experiment.line),
        version_bytes=version_bytes,
        versions=rounds + 1,
        sites=sites,
        aggregator=Need(
            name=AGGREGATOR,
            archives=archives,
            stored=archives * stored,
            received=len(roster) * sent,
            sent=len(roster) * received,
        ),
        longest_s=None if is_simulated else exchanges * experiment.federation.deadline_s,
    )


def _sizes(experiment: Experiment) -> dict[str, int]:
    """Bytes of an update's tensors, which are those of the network as it is trained."""
    network = build_network(experiment.model.architecture, seed=experiment.seed)
    return {name: tensor.data.nbytes for name, tensor in tensors_of(network).items()}


def _normalisation(sizes: dict[str, int]) -> int:
    """Bytes of the layers that keep statistics."""
    layers = {name.rpartition(".")[0] for name in sizes if is_statistic(name)}
    return sum(size for name, size in sizes.items() if name.rpartition(".")[0] in layers)


def _missing(cases: Iterable[Case]) -> int:
    return sum(
        not (case.image.is_file() and case.label.is_file())
        for case in cases
        if isinstance(case, NiftiCase)
    )


def _duration(seconds: float) -> str:
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
