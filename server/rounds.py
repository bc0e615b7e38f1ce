"""The round loop: from a starting version to the last one, each of them in the PACS.

A loop of our own over Flower's Grid: Flower's ``Strategy.start`` always counts from 1,
cannot publish, and goes on after a failed aggregate. The steps are those of the design:
evaluate (which delivers), train, aggregate, publish, evaluate.
"""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from federation.config import Experiment
from federation.errors import RoundError, UpdateError
from federation.fresh import fresh_version
from federation.iodeep.codec import Record, describe_weights
from federation.iodeep.manifest import (
    EvaluationManifest,
    Lineage,
    Receipt,
    Reference,
    VersionManifest,
)
from federation.iodeep.weights import weights_digest
from federation.messages import (
    EvaluateAnswer,
    EvaluateRequest,
    Refusal,
    TrainAnswer,
    TrainRequest,
    kind_of,
    pack,
    pack_parts,
    unpack,
    unpack_tensors,
)
from federation.registry import Registry
from server.events import Answered, Asked, Evaluated, Event, Observer, Published, Started
from server.strategies import build_strategy
from server.strategies.arithmetic import check_update

_POLL_S = 0.5

Answer = TypeVar("Answer", TrainAnswer, EvaluateAnswer)


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
        self._grid = grid
        self._registry = registry
        self._branch = branch
        self._observers = observers
        self._receipts: dict[str, Reference] = {}

    def run(self) -> VersionManifest:
        """Run all rounds; returns the last version.

        Raises :class:`RoundError` below the quorum, saying who was missing and why. Whatever
        happens, every finished round stays whole in every archive that has it.
        """
        version = self._start()
        self._tell(Started(experiment=self._experiment, version=version))
        with self._registry.pull(version) as record:
            self._evaluate(record, round=0)
        for round in range(1, self._experiment.rounds + 1):
            with self._registry.pull(version) as record:
                version = self._train(record, round)
            with self._registry.pull(version) as record:
                self._evaluate(record, round)
        return version

    def _start(self) -> VersionManifest:
        manifest, parts = fresh_version(self._experiment, self._branch)
        self._registry.publish(manifest, parts)
        return manifest

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
            training=self._experiment.training,
        )
        tensors = record.tensors()
        strategy = build_strategy(self._experiment.strategy, tensors)
        receipts: list[Receipt] = []

        def accept(site: str, content: RecordDict) -> None:
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

        sites = [site for site in self._experiment.federation.sites if self._has(site, start)]
        problems |= self._ask(MessageType.TRAIN, pack(request), sites, round, accept)
        self._check_quorum([receipt.site for receipt in receipts], problems, round, "trained")
        weights, parts = describe_weights(strategy.finish())
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
        self._registry.publish(version, parts)
        self._tell(Published(version=version))
        return version

    def _deliver_again(self, record: Record, round: int) -> dict[str, str]:
        """Sites without a receipt for the version get it once more before they train."""
        lacking = [
            site
            for site in self._experiment.federation.sites
            if not self._has(site, record.version)
        ]
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
        sites = self._experiment.federation.sites
        answers, problems = self._collect_evaluations(record, list(sites), round)
        self._check_quorum(list(answers), problems, round, "evaluated")
        mean = mean_metrics(answers)
        evaluation = EvaluationManifest(
            line=version.line,
            branch=version.branch,
            round=version.round,
            of=version.reference,
            by="aggregator",
            metrics=mean,
            sites={site: answer.metrics for site, answer in answers.items()},
        )
        self._registry.publish(evaluation)
        self._tell(
            Evaluated(
                version=version,
                mean=mean,
                sites={site: answer.metrics for site, answer in answers.items()},
                cases={site: answer.cases for site, answer in answers.items()},
                problems=problems,
                quarantined={site: answer.quarantined for site, answer in answers.items()},
            )
        )

    def _collect_evaluations(
        self, record: Record, sites: list[str], round: int
    ) -> tuple[dict[str, EvaluateAnswer], dict[str, str]]:
        version = record.version
        request = EvaluateRequest(
            manifest=version.canonical.decode(),
            study_date=record.stamp.study_date,
            study_time=record.stamp.study_time,
            content_date=record.stamp.content_date,
            content_time=record.stamp.content_time,
            training=self._experiment.training,
        )
        content = pack(request, pack_parts([part.view() for part in record.parts]))
        answers: dict[str, EvaluateAnswer] = {}

        def accept(site: str, content: RecordDict) -> None:
            answer = unpack_answer(content, site, EvaluateAnswer)
            receipt = (answer.stored, answer.weights_digest)
            if receipt != (version.reference, version.weights.digest):
                raise UpdateError("its receipt is for another version than was sent")
            self._receipts[site] = version.reference
            answers[site] = answer

        problems = self._ask(MessageType.EVALUATE, content, sites, round, accept)
        return answers, problems

    # --- the grid -------------------------------------------------------------------------

    def _ask(
        self,
        work: str,
        content: RecordDict,
        sites: list[str],
        round: int,
        accept: Callable[[str, RecordDict], None],
    ) -> dict[str, str]:
        """Ask sites, and give their answers to ``accept`` in roster order, one at a time.

        Returns why the others' do not count: not connected, not in time, refused by the site,
        or refused by ``accept`` with an :class:`UpdateError`.
        """
        deadline_s = self._experiment.federation.deadline_s
        nodes = {node.name: node.node_id for node in self._grid.get_nodes()}
        self._tell(Asked(round=round, work=work, sites=tuple(sites)))
        messages = [
            Message(content, nodes[site], work, ttl=deadline_s, group_id=str(round))
            for site in sites
            if site in nodes
        ]
        deadline = time.monotonic() + deadline_s
        connected = [site for site in sites if site in nodes]
        pushed = dict(zip(connected, self._grid.push_messages(messages), strict=True))
        problems: dict[str, str] = {}
        for site in sites:
            asked = time.monotonic()
            try:
                if site not in pushed:
                    raise UpdateError("it is not connected")
                accept(site, self._await(pushed[site], deadline))
            except UpdateError as error:
                problems[site] = str(error)
            self._tell(
                Answered(
                    round=round,
                    work=work,
                    site=site,
                    problem=problems.get(site),
                    seconds=time.monotonic() - asked,
                )
            )
        return problems

    def _await(self, identifier: str, deadline: float) -> RecordDict:
        """The content of a reply. Raises :class:`UpdateError` where none comes in time."""
        while True:
            for reply in self._grid.pull_messages([identifier]):
                if reply.has_error():
                    raise UpdateError(f"its client failed ({reply.error.reason:.80})")
                return reply.content
            if time.monotonic() > deadline:
                raise UpdateError("no answer came before the round's deadline")
            time.sleep(_POLL_S)

    def _check_quorum(
        self, counted: list[str], problems: Mapping[str, str], round: int, what: str
    ) -> None:
        quorum = self._experiment.federation.quorum
        if len(counted) < quorum:
            missing = "; ".join(f"{site}: {problem}" for site, problem in problems.items())
            raise RoundError(
                f"round {round}: {len(counted)} of {len(self._experiment.federation.sites)} sites "
                f"{what}, {quorum} are needed. Missing: {missing}"
            )

    def _tell(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)


def unpack_answer(content: RecordDict, site: str, kind: type[Answer]) -> Answer:
    """A site's answer. Raises :class:`UpdateError` for a refusal or anything unexpected."""
    if kind_of(content) == Refusal.__name__:
        refusal = unpack(content, Refusal)
        raise UpdateError(f"{refusal.reason} ({refusal.code})")
    answer = unpack(content, kind)
    if answer.site != site:
        raise UpdateError("it answers in another site's name")
    return answer


def mean_metrics(answers: Mapping[str, EvaluateAnswer]) -> dict[str, float]:
    """Each metric's mean over all cases of all sites that have it.

    ``test_dice_1`` is weighted by the site's ``test`` cases, and so on.
    """
    sums: dict[str, float] = {}
    weights: dict[str, int] = {}
    for answer in answers.values():
        for name, value in answer.metrics.items():
            cases = answer.cases.get(name.partition("_")[0], 0)
            sums[name] = sums.get(name, 0.0) + cases * value
            weights[name] = weights.get(name, 0) + cases
    return {name: total / weights[name] for name, total in sums.items() if weights[name]}
