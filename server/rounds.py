"""The round loop: from a starting version to the last one, each of them in the PACS.

A loop of our own over Flower's Grid: Flower's ``Strategy.start`` always counts from 1,
cannot publish, and goes on after a failed aggregate. The steps are those of the design:
evaluate (which delivers), train, aggregate, publish, evaluate.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from flwr.app import MessageType, RecordDict
from flwr.serverapp import Grid

from federation.config import Experiment
from federation.errors import RegistryError, RoundError, UpdateError
from federation.iodeep.codec import Record, describe_weights
from federation.iodeep.manifest import (
    AGGREGATOR,
    EvaluationManifest,
    Lineage,
    Measured,
    Receipt,
    Reference,
    VersionManifest,
)
from federation.iodeep.statistics import is_statistic
from federation.iodeep.weights import Tensor, weights_digest
from federation.messages import (
    StatisticsAnswer,
    StatisticsRequest,
    TrainAnswer,
    TrainRequest,
    pack,
    unpack_tensors,
)
from federation.registry import Registry
from federation.timing import Stopwatch
from server.asking import Asking, unpack_answer
from server.delivery import deliver
from server.events import Closed, Evaluated, Event, Observer, Published, Started
from server.start import first_version
from server.strategies import FedAvg, build_strategy
from server.strategies.arithmetic import check_update


class Rounds:
    """One run of an experiment over a grid, written to one branch of a registry."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        grid: Grid,
        registry: Registry,
        branch: str,
        observers: tuple[Observer, ...] = (),
    ) -> None:
        self._experiment = experiment
        self._asking = Asking(
            grid,
            deadline_s=experiment.federation.deadline_s,
            roster=experiment.roster,
            quorum=experiment.quorum,
            observers=observers,
            waiting=registry.release,
        )
        self._registry = registry
        self._branch = branch
        self._observers = observers
        self._receipts: dict[str, Reference] = {}

    def run(self) -> VersionManifest:
        """Run all rounds; returns the last version.

        Raises :class:`RoundError` below the quorum, saying who was missing and why. Whatever
        happens, every finished round stays whole in every archive that has it.
        """
        version, earlier = self._start()
        self._tell(Started(experiment=self._experiment, version=version, earlier=earlier))
        begin = time.monotonic()
        finished = {evaluated.version.round for evaluated in earlier}
        while True:
            with self._registry.pull(version) as record:
                if version.round not in finished:
                    self._evaluate(record, version.round)
                    begin = self._close(version.round, begin)
                if version.round >= self._experiment.rounds:
                    return version
                version = self._train(record, version.round + 1)

    def _start(self) -> tuple[VersionManifest, tuple[Evaluated, ...]]:
        """The version to go on from, and what is finished: the archive alone knows.

        A round is finished when the aggregator has recorded its evaluation. A version without
        one was published and perhaps not announced; it is evaluated, never trained again.
        """
        versions = self._registry.versions(self._experiment.line, self._branch)
        if not versions:
            with first_version(self._experiment, self._branch) as (manifest, parts):
                self._registry.publish(manifest, parts)
            return manifest, ()
        self._check_config(versions[-1])
        evaluations = {
            evaluation.of: evaluation
            for evaluation in self._registry.evaluations(self._experiment.line, self._branch)
            if evaluation.by == AGGREGATOR
        }
        earlier = tuple(
            Evaluated(version=version, evaluation=evaluations[version.reference])
            for version in versions
            if version.reference in evaluations
        )
        if earlier:
            last = earlier[-1]
            self._receipts = dict.fromkeys(last.evaluation.sites, last.version.reference)
        return versions[-1], earlier

    def _check_config(self, version: VersionManifest) -> None:
        if version.lineage.config_digest != self._experiment.digest:
            raise RegistryError(
                f"branch {self._branch!r} was made by a configuration with digest "
                f"{version.lineage.config_digest[:12]}…, this one has "
                f"{self._experiment.digest[:12]}…: a branch goes on as it began. Give the "
                "configuration of its run folder (config.toml), or start a new run"
            )

    def _close(self, round: int, begin: float) -> float:
        now = time.monotonic()
        self._tell(Closed(round=round, seconds=now - begin))
        return now

    # --- training -------------------------------------------------------------------------

    def _train(self, record: Record, round: int) -> VersionManifest:
        """One round: train at the sites, fold their updates in, publish the next version."""
        start = record.version
        problems = self._deliver_again(record, round)
        request = TrainRequest(
            line=start.line,
            branch=start.branch,
            start=start.reference,
            start_round=start.round,
            round=round,
            rounds=self._experiment.rounds,
            seed=self._experiment.seed,
            strategy=self._experiment.strategy.name,
            training=self._experiment.site_training,
        )
        tensors = record.tensors()
        strategy = build_strategy(self._experiment.strategy, tensors)
        receipts: list[Receipt] = []

        def accept(site: str, content: RecordDict) -> Mapping[str, float]:
            answer = unpack_answer(content, site, TrainAnswer)
            if answer.round != round or answer.start != start.reference:
                raise UpdateError(f"it answers round {answer.round}; expected {round}")
            if answer.examples < 1:
                raise UpdateError("it was trained on no examples")
            update = unpack_tensors(content)
            check_update(update, tensors, self._experiment.strategy.max_update_ratio)
            strategy.add(update, answer.examples)
            receipts.append(
                Receipt(
                    site=site,
                    examples=answer.examples,
                    update_digest=weights_digest(update),
                    metrics=answer.metrics,
                )
            )
            return answer.seconds

        sites = [site for site in self._experiment.roster if self._has(site, start)]
        problems |= self._asking.ask(MessageType.TRAIN, pack(request), sites, round, accept)
        self._check_quorum([receipt.site for receipt in receipts], problems, round, "trained")
        stopwatch = Stopwatch()
        with stopwatch.on("aggregation"):
            merged = strategy.finish()
        if self._experiment.training.normalisation == "reestimate":
            merged |= self._measure_statistics(start, merged, [r.site for r in receipts], round)
        with stopwatch.on("aggregation"):
            weights, parts = describe_weights(merged)
        version = start.model_copy(
            update={
                "branch": self._branch,
                "round": round,
                "lineage": Lineage(
                    parent=start.reference,
                    config_digest=self._experiment.digest,
                    strategy=self._experiment.strategy.name,
                    receipts=tuple(receipts),
                ),
                "weights": weights,
            }
        )
        with stopwatch.on("archive"):
            self._registry.publish(version, parts)
        self._tell(Published(version=version, seconds=stopwatch.seconds))
        return version

    def _measure_statistics(
        self,
        start: VersionManifest,
        weights: Mapping[str, Tensor],
        sites: list[str],
        round: int,
    ) -> dict[str, Tensor]:
        """The normalisation statistics of the sites' data under weights not yet published."""
        known = {name: tensor for name, tensor in weights.items() if is_statistic(name)}
        if not known:
            return {}
        request = StatisticsRequest(
            line=start.line,
            branch=start.branch,
            start=start.reference,
            start_round=start.round,
            round=round,
            training=self._experiment.site_training,
        )
        pool = FedAvg(known)
        counted: list[str] = []

        def accept(site: str, content: RecordDict) -> Mapping[str, float]:
            answer = unpack_answer(content, site, StatisticsAnswer)
            if answer.round != round:
                raise UpdateError(f"it answers round {answer.round}; expected {round}")
            found = unpack_tensors(content)
            check_update(found, known, math.inf)
            pool.add(found, answer.examples)
            counted.append(site)
            return answer.seconds

        problems = self._asking.ask(MessageType.QUERY, pack(request, weights), sites, round, accept)
        self._check_quorum(counted, problems, round, "measured")
        return pool.finish()

    def _deliver_again(self, record: Record, round: int) -> dict[str, str]:
        """Sites without a receipt for the version get it once more before they train."""
        lacking = [site for site in self._experiment.roster if not self._has(site, record.version)]
        if not lacking:
            return {}
        _, problems = self._collect_evaluations(record, lacking, round)
        return problems

    def _has(self, site: str, version: VersionManifest) -> bool:
        """Whether a site has given a storage receipt for this very version."""
        return self._receipts.get(site) == version.reference

    # --- evaluating -----------------------------------------------------------------------

    def _evaluate(self, record: Record, round: int) -> None:
        """Deliver a version to every site, gather their metrics, record the mean."""
        version = record.version
        sites = self._experiment.roster
        answers, problems = self._collect_evaluations(record, list(sites), round)
        self._check_quorum(list(answers), problems, round, "evaluated")
        evaluation = EvaluationManifest(
            line=version.line,
            branch=version.branch,
            round=version.round,
            of=version.reference,
            by=AGGREGATOR,
            measured=mean_over_cases(answers.values()),
            sites=answers,
            missing=problems,
        )
        self._registry.publish(evaluation)
        self._tell(Evaluated(version=version, evaluation=evaluation))

    def _collect_evaluations(
        self, record: Record, sites: list[str], round: int
    ) -> tuple[dict[str, Measured], dict[str, str]]:
        stored: list[str] = []
        answers, problems = deliver(
            self._asking,
            record,
            sites,
            round,
            self._experiment.site_training,
            strategy=self._experiment.strategy.name,
            on_stored=stored.append,
        )
        self._receipts |= dict.fromkeys(stored, record.version.reference)
        return answers, problems

    def _check_quorum(
        self, counted: list[str], problems: Mapping[str, str], round: int, what: str
    ) -> None:
        quorum = self._experiment.quorum
        if len(counted) < quorum:
            missing = "; ".join(f"{site}: {problem}" for site, problem in problems.items())
            raise RoundError(
                f"round {round}: {len(counted)} of {len(self._experiment.roster)} sites "
                f"{what}, {quorum} are needed. Missing: {missing}"
            )

    def _tell(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)


def mean_over_cases(answers: Iterable[Measured]) -> Measured:
    """Each metric's mean over all cases of all sites that have it.

    ``test_dice_1`` is weighted by the site's ``test`` cases, and so on. Of accuracy and loss
    that is the value over all cases. Of an AUC it is the mean of the sites' own: the one over all
    cases would compare cases of different sites, whose scores never leave them.
    """
    sums: dict[str, float] = {}
    weights: dict[str, int] = {}
    total: Counter[str] = Counter()
    for answer in answers:
        total.update(answer.cases)
        for name, value in answer.metrics.items():
            cases = answer.cases.get(name.partition("_")[0], 0)
            sums[name] = sums.get(name, 0.0) + cases * value
            weights[name] = weights.get(name, 0) + cases
    metrics = {name: value / weights[name] for name, value in sums.items() if weights[name]}
    return Measured(metrics=metrics, cases=dict(total))
