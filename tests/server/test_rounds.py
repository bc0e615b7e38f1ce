"""The round loop over a real archive, with sites that misbehave."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from google.protobuf.message import DecodeError
from httpx import ConnectError
from pydicom import Dataset

from federation.closing import Closing
from federation.config import Experiment, read_experiment
from federation.errors import RegistryError, RoundError
from federation.grid import InProcessGrid
from federation.iodeep.manifest import Measured, Reference, VersionManifest, parse_manifest
from federation.iodeep.weights import FLOATING, Tensor, weights_digest
from federation.messages import (
    Code,
    EvaluateAnswer,
    EvaluateRequest,
    Refusal,
    TrainAnswer,
    TrainRequest,
    pack,
    unpack,
    unpack_parts,
)
from federation.pacs import Archive, Gateway, open_gateway
from federation.pacs.gateway import Level
from federation.registry import Registry
from server.events import Answered, Evaluated, Event, Started
from server.rounds import Rounds
from server.strategies.arithmetic import as_float64, from_float64

CONFIGS = Path(__file__).parents[2] / "configs"
BRANCH = "test-1234"
STEP = 0.01

Update = dict[str, Tensor]
Trained = tuple[TrainAnswer | Refusal, Update]
Trick = Callable[[TrainRequest, TrainAnswer, Update], Trained]


def shifted(weights: Update, by: float) -> Update:
    return {
        name: from_float64(as_float64(t) + by, t.dtype) if t.dtype in FLOATING else t
        for name, t in weights.items()
    }


class Sites:
    """A ClientApp whose sites add their number to every weight; ``tricks`` misbehave."""

    def __init__(self) -> None:
        self.app = ClientApp()
        self.app.train()(self.train)
        self.app.evaluate()(self.evaluate)
        self.weights: dict[str, Update] = {}
        self.tricks: dict[str, Trick] = {}
        self.deaf: set[str] = set()
        self.asked: list[tuple[str, str, int]] = []

    def train(self, message: Message, context: Context) -> Message:
        site = str(context.node_config["name"])
        request = unpack(message.content, TrainRequest)
        self.asked.append(("train", site, request.round))
        number = "ABCD".index(site) + 1
        update = shifted(self.weights[site], STEP * number)
        answer = TrainAnswer(
            site=site, round=request.round, start=request.start, examples=number, metrics={}
        )
        said: TrainAnswer | Refusal = answer
        if site in self.tricks:
            said, update = self.tricks[site](request, answer, update)
        return Message(pack(said, update), reply_to=message)

    def evaluate(self, message: Message, context: Context) -> Message:
        from federation.iodeep.weights import read_part

        site = str(context.node_config["name"])
        request = unpack(message.content, EvaluateRequest)
        manifest = parse_manifest(request.manifest.encode())
        assert isinstance(manifest, VersionManifest)
        self.asked.append(("evaluate", site, manifest.round))
        if site in self.deaf:
            return Message(pack(Refusal(site=site, code=Code.ARCHIVE)), reply_to=message)
        weights: Update = {}
        for part in unpack_parts(message.content):
            weights |= read_part(part)
        self.weights[site] = weights
        answer = EvaluateAnswer(
            site=site,
            stored=manifest.reference,
            weights_digest=weights_digest(weights),
            measured=Measured(
                metrics={"test_dice_mean": 0.1 * ("ABCD".index(site) + 1)},
                cases={"test": "ABCD".index(site) + 1},
            ),
        )
        return Message(pack(answer), reply_to=message)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Archive(tmp_path / "archive"), open_gateway(f"folder:{tmp_path / 'archive'}") as gateway:
        yield Registry(gateway)


def experiment(rounds: int = 1, quorum: int = 3) -> Experiment:
    return read_experiment(
        CONFIGS / "phantom.toml", [f"rounds={rounds}", f"federation.quorum={quorum}"]
    )


def go(sites: Sites, registry: Registry, plan: Experiment) -> tuple[VersionManifest, list[Event]]:
    events: list[Event] = []
    grid = InProcessGrid(sites.app, {name: {"name": name} for name in "ABCD"})
    rounds = Rounds(plan, grid=grid, registry=registry, branch=BRANCH, observers=(events.append,))
    return rounds.run(), events


def change(registry: Registry, version: VersionManifest) -> float:
    """How many steps every weight has moved from round 0: one and the same number."""
    first = registry.versions(version.line, BRANCH, 0)[0]
    with registry.pull(first) as start, registry.pull(version) as end:
        moved = [
            as_float64(end.tensors()[name]) - as_float64(t)
            for name, t in start.tensors().items()
            if t.dtype in FLOATING
        ]
        values = np.concatenate([m.ravel() for m in moved])
    assert np.ptp(values) < 1e-5
    return float(values.mean()) / STEP


def test_a_round_is_the_mean_weighted_by_examples(registry: Registry) -> None:
    version, _ = go(Sites(), registry, experiment())
    expected = (1 * 1 + 2 * 2 + 3 * 3 + 4 * 4) / 10
    assert change(registry, version) == pytest.approx(expected, abs=1e-4)
    assert [(r.site, r.examples) for r in version.lineage.receipts] == [
        ("A", 1), ("B", 2), ("C", 3), ("D", 4)
    ]  # fmt: skip


def test_every_round_is_published_with_its_parent_and_an_evaluation(registry: Registry) -> None:
    plan = experiment(rounds=2)
    version, events = go(Sites(), registry, plan)
    versions = registry.versions(plan.line, BRANCH)
    assert [v.round for v in versions] == [0, 1, 2]
    assert versions[-1] == version
    assert versions[0].lineage.parent is None
    assert [v.lineage.parent for v in versions[1:]] == [v.reference for v in versions[:-1]]
    assert {v.lineage.config_digest for v in versions} == {plan.digest}
    evaluations = registry.evaluations(plan.line, BRANCH)
    assert [e.of for e in evaluations] == [v.reference for v in versions]
    # by cases: (0.1·1 + 0.2·2 + 0.3·3 + 0.4·4) / 10
    assert evaluations[0].measured.metrics == {"test_dice_mean": pytest.approx(0.3)}
    assert [e.version.round for e in events if isinstance(e, Evaluated)] == [0, 1, 2]
    assert all(outcome.problem is None for outcome in registry.verify(plan.line, BRANCH))


def poisoned(value: float) -> Trick:
    def trick(_: TrainRequest, answer: TrainAnswer, update: Update) -> Trained:
        name, tensor = next((n, t) for n, t in update.items() if t.dtype in FLOATING)
        values = as_float64(tensor).copy()
        values.flat[0] = value
        return answer, {**update, name: from_float64(values, tensor.dtype)}

    return trick


def without_one(_: TrainRequest, answer: TrainAnswer, update: Update) -> Trained:
    return answer, dict(list(update.items())[1:])


def answering(**changes: object) -> Trick:
    return lambda _, answer, update: (answer.model_copy(update=changes), update)


@pytest.mark.parametrize(
    ("trick", "said"),
    [
        (poisoned(float("nan")), "not finite"),
        (poisoned(float("inf")), "not finite"),
        (poisoned(1e9), "norm"),
        (without_one, "1 tensors are missing"),
        (answering(examples=0), "no examples"),
        (answering(examples=2**53 + 1), "invalid at: examples"),
        (answering(examples=10**400), "invalid"),
        (answering(metrics={"loss": 1e308}), "invalid at: metrics"),
        (answering(round=9), "answers round 9"),
        (answering(start=Reference(uid="2.25.9", digest="f" * 64)), "answers round"),
        (answering(site="A"), "another site's name"),
        (lambda r, a, u: (Refusal(site="D", code=Code.DATA), u), "too few usable"),
    ],
)
def test_an_answer_that_must_not_count_is_refused_by_name_and_reason(
    registry: Registry, trick: Trick, said: str
) -> None:
    sites = Sites()
    sites.tricks["D"] = trick
    version, events = go(sites, registry, experiment())
    assert [r.site for r in version.lineage.receipts] == ["A", "B", "C"]
    assert change(registry, version) == pytest.approx((1 + 4 + 9) / 6, abs=1e-4)
    problems = {e.site: e.problem for e in events if isinstance(e, Answered) and e.problem}
    assert list(problems) == ["D"]
    assert said in str(problems["D"])


class Damaged(InProcessGrid):
    """What comes from C is no message, and what comes from D cannot be parsed at all."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for reply in super().pull_messages(message_ids):
            site = unpack_site(reply)
            if site == "D":
                raise DecodeError("of a site")
            yield RecordDict() if site == "C" else reply  # type: ignore[misc]


def unpack_site(reply: Message) -> str:
    said = str(reply.content.config_records["iodeep"]["json"])
    return str(json.loads(said)["site"])


def test_what_cannot_be_read_is_one_site_s_failure(registry: Registry) -> None:
    events: list[Event] = []
    sites = Sites()
    grid = Damaged(sites.app, {name: {"name": name} for name in "ABCD"})
    version = Rounds(
        experiment(quorum=2), grid=grid, registry=registry, branch=BRANCH,
        observers=(events.append,),
    ).run()  # fmt: skip
    assert [r.site for r in version.lineage.receipts] == ["A", "B"]
    problems = {e.site: e.problem for e in events if isinstance(e, Answered) and e.problem}
    assert problems == {
        "C": "its answer cannot be read (AttributeError)",
        "D": "its answer cannot be read (DecodeError)",
    }


def test_what_goes_wrong_at_the_aggregator_is_nobody_else_s_failure(registry: Registry) -> None:
    class Lost(InProcessGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            raise ConnectError("the SuperLink is away")

    grid = Lost(Sites().app, {name: {"name": name} for name in "ABCD"})
    rounds = Rounds(experiment(), grid=grid, registry=registry, branch=BRANCH)
    with pytest.raises(ConnectError):
        rounds.run()


def crash(request: TrainRequest, answer: TrainAnswer, update: Update) -> Trained:
    raise RuntimeError("Patient MUELLER^ANNA")


def test_a_client_that_crashes_does_not_count_and_its_text_goes_nowhere(
    registry: Registry,
) -> None:
    sites = Sites()
    sites.tricks["B"] = crash
    version, events = go(sites, registry, experiment())
    assert [r.site for r in version.lineage.receipts] == ["A", "C", "D"]
    assert "MUELLER" not in repr(events)


def test_below_the_quorum_the_run_ends_saying_who_was_missing(registry: Registry) -> None:
    sites = Sites()
    sites.tricks["A"] = sites.tricks["C"] = without_one
    with pytest.raises(RoundError, match=r"2 of 4 sites trained, 3 are needed. Missing: A: .*; C:"):
        go(sites, registry, experiment())
    plan = experiment()
    assert [v.round for v in registry.versions(plan.line, BRANCH)] == [0]


def test_a_site_that_did_not_get_a_version_gets_it_before_it_trains(registry: Registry) -> None:
    sites = Sites()
    sites.deaf.add("D")

    def hear(request: TrainRequest, answer: TrainAnswer, update: Update) -> Trained:
        sites.deaf.clear()
        return answer, update

    sites.tricks["C"] = hear
    plan = experiment(rounds=2)
    version, _ = go(sites, registry, plan)
    first = registry.versions(plan.line, BRANCH, 1)[0]
    assert [r.site for r in first.lineage.receipts] == ["A", "B", "C"]
    assert [r.site for r in version.lineage.receipts] == ["A", "B", "C", "D"]
    assert ("train", "D", 1) not in sites.asked
    assert sites.asked.count(("evaluate", "D", 0)) == 2


def test_a_site_under_a_dry_run_trains_and_does_not_count(registry: Registry) -> None:
    """It has the version, though nothing that it measured has left."""
    sites = Sites()
    dry = Refusal(site="D", code=Code.DRY_RUN)
    sites.tricks["D"] = lambda request, answer, update: (dry, {})
    app = ClientApp()
    app.train()(sites.train)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        reply = sites.evaluate(message, context)
        is_dry = context.node_config["name"] == "D"
        return Message(pack(dry), reply_to=message) if is_dry else reply

    sites.app = app
    version, events = go(sites, registry, experiment(rounds=2))
    assert [r.site for r in version.lineage.receipts] == ["A", "B", "C"]
    assert [asked for asked in sites.asked if asked[1] == "D"] == [
        ("evaluate", "D", 0), ("train", "D", 1), ("evaluate", "D", 1), ("train", "D", 2),
        ("evaluate", "D", 2),
    ]  # fmt: skip
    problems = {e.problem for e in events if isinstance(e, Answered) and e.site == "D"}
    assert all("dry run" in str(problem) for problem in problems)


def test_the_head_of_a_site_s_audit_log_is_told_whatever_it_answers(registry: Registry) -> None:
    sites = Sites()
    head = f"12:{'a' * 64}"
    sites.tricks["A"] = answering(audit=head)
    sites.tricks["B"] = lambda r, a, u: (Refusal(site="B", code=Code.DATA, audit=head), u)
    _, events = go(sites, registry, experiment())
    told = {e.site: e.audit for e in events if isinstance(e, Answered) and e.work == "train"}
    assert told == {"A": head, "B": head, "C": None, "D": None}


def test_a_late_answer_does_not_count(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    import federation.grid

    sites = Sites()
    clock = {"now": 0.0}
    monkeypatch.setattr(federation.grid.in_process.time, "monotonic", lambda: clock["now"])

    def slow(request: TrainRequest, answer: TrainAnswer, update: Update) -> Trained:
        clock["now"] += 301
        return answer, update

    sites.tricks["A"] = slow
    version, events = go(sites, registry, experiment())
    assert [r.site for r in version.lineage.receipts] == ["B", "C", "D"]
    assert any("deadline" in str(e.problem) for e in events if isinstance(e, Answered))


def test_a_node_that_is_not_connected_is_named(registry: Registry) -> None:
    sites = Sites()
    events: list[Event] = []
    grid = InProcessGrid(sites.app, {name: {"name": name} for name in "ABC"})
    Rounds(
        experiment(), grid=grid, registry=registry, branch=BRANCH, observers=(events.append,)
    ).run()
    problems = {e.site: e.problem for e in events if isinstance(e, Answered) and e.problem}
    assert problems == {"D": "it is not connected"}


def test_an_empty_message_from_a_site_does_not_count(registry: Registry) -> None:
    sites = Sites()
    sites.app = ClientApp()
    sites.app.train()(sites.train)
    sites.app.evaluate()(
        lambda message, context: (
            Message(RecordDict(), reply_to=message)
            if context.node_config["name"] == "B"
            else sites.evaluate(message, context)
        )
    )
    version, _ = go(sites, registry, experiment())
    assert [r.site for r in version.lineage.receipts] == ["A", "C", "D"]


# --- killed and taken up again ------------------------------------------------------------


class Killed(BaseException):
    """The end of a process, as far as the round loop can tell."""


class Mortal(Closing):
    """A gateway whose process is killed at its ``last``-th step.

    A step is any request, and each instance that is stored.
    """

    def __init__(self, gateway: Gateway, last: int | None = None) -> None:
        self.gateway = gateway
        self.address = gateway.address
        self.last = last
        self.steps = 0

    def step(self) -> None:
        if self.steps == self.last:
            raise Killed
        self.steps += 1

    def echo(self) -> None:
        self.gateway.echo()

    def release(self) -> None:
        self.gateway.release()

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        self.step()
        return self.gateway.find(level, keys)

    def store(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self.step()
            self.gateway.store([path])
        self.step()

    def fetch(
        self, folder: Path, *, study: str, series: str, instance: str | None = None
    ) -> list[Path]:
        self.step()
        return self.gateway.fetch(folder, study=study, series=series, instance=instance)

    def close(self) -> None:
        self.gateway.close()


def weights_of(gateway: Gateway, plan: Experiment) -> list[tuple[int, str]]:
    versions = Registry(gateway).versions(plan.line, BRANCH)
    return [(version.round, version.weights.digest) for version in versions]


@pytest.mark.parametrize(
    "every", [3, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_killed_at_any_step_it_ends_as_if_undisturbed(tmp_path: Path, every: int) -> None:
    """At each request to the archive in turn, or every third, in a run of two rounds."""
    plan = experiment(rounds=2)
    with Archive(tmp_path / "whole"), open_gateway(f"folder:{tmp_path / 'whole'}") as gateway:
        mortal = Mortal(gateway)
        go(Sites(), Registry(mortal), plan)
        expected = weights_of(gateway, plan)
        steps = mortal.steps
    assert steps > 30
    for last in range(0, steps, every):
        folder = tmp_path / str(last)
        sites = Sites()
        with Archive(folder), open_gateway(f"folder:{folder}") as gateway:
            with pytest.raises(Killed):
                go(sites, Registry(Mortal(gateway, last)), plan)
            for _ in range(2):  # taking up what is finished changes nothing
                version, _ = go(sites, Registry(gateway), plan)
                assert weights_of(gateway, plan) == expected
            checked = list(Registry(gateway).verify(plan.line, BRANCH))
            assert [c.problem for c in checked] == [None] * 6  # no orphan, nothing twice
            assert [r.examples for r in version.lineage.receipts] == [1, 2, 3, 4]
        trained = [asked for asked in sites.asked if asked[0] == "train"]
        assert len(trained) <= 3 * 4  # two rounds, and the one that was cut off


def test_a_run_that_is_taken_up_tells_of_what_was_finished(registry: Registry) -> None:
    plan = experiment(rounds=1)
    go(Sites(), registry, plan)
    sites = Sites()
    _, events = go(sites, registry, plan)
    (started,) = events
    assert isinstance(started, Started)
    assert [evaluated.version.round for evaluated in started.earlier] == [0, 1]
    assert sites.asked == []


def test_a_branch_goes_on_with_its_own_configuration_only(registry: Registry) -> None:
    go(Sites(), registry, experiment(rounds=1))
    with pytest.raises(RegistryError, match="goes on as it began"):
        go(Sites(), registry, experiment(rounds=2))
