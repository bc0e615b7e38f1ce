"""What a site's audit log says of a federation, and each no of its policy, over real archives."""

import json
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from flwr.app import ConfigRecord, Error, Message, RecordDict
from typer.testing import CliRunner

from clients.app import app
from clients.audit import Journal
from clients.log import MAX_CHARACTERS
from federation import cli
from federation.audit import AuditLog, Entry, Head, verify
from federation.audit.entry import head_path
from federation.config import Site, read_experiment, read_site
from federation.grid import InProcessGrid
from federation.iodeep.codec import Record
from federation.iodeep.manifest import AGGREGATOR, VersionManifest
from federation.iodeep.numbers import norm_of_change
from federation.iodeep.signature import SigningKey, show_fingerprint
from federation.messages import (
    CensusAnswer,
    CensusRequest,
    Code,
    EvaluateAnswer,
    EvaluateRequest,
    Refusal,
    StatisticsAnswer,
    StatisticsRequest,
    TrainAnswer,
    TrainRequest,
    head_of,
    kind_of,
    outline,
    pack,
    pack_parts,
    unpack,
    unpack_tensors,
)
from federation.pacs import open_gateway
from federation.registry import Registry
from server.report.summary import read_lines
from server.simulation import Simulation

CONFIGS = Path(__file__).parents[2] / "configs"
BRANCH = "audited"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run of two sites and two rounds, and what is said of it."""

    folder: Path
    versions: list[VersionManifest]

    def log(self, site: str) -> list[Entry]:
        """Oldest first."""
        path = self.folder / "sites" / site / "audit.jsonl"
        return list(AuditLog(path, None).newest())[::-1]

    def site(self, name: str) -> Site:
        return read_site(self.folder / "sites" / name / "site.toml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("audit") / "out"
    plan = read_experiment(
        CONFIGS / "phantom.toml",
        ["rounds=2", 'federation.sites=["A","B"]', "federation.quorum=2", "training.steps=3",
         'model.architecture.norm="BATCH"', "training.threads=1", "simulation.workers=1"],
    )  # fmt: skip
    with Simulation(plan, folder) as simulation:
        list(simulation.import_images())
        simulation.run(BRANCH)
    with open_gateway(f"folder:{folder}/archives/{AGGREGATOR}") as gateway:
        versions = Registry(gateway).versions(plan.line, BRANCH)
    return Run(folder=folder, versions=versions)


# --- a federation -------------------------------------------------------------------------


def test_the_logs_are_whole_and_say_what_came_and_went(run: Run) -> None:
    for name in "AB":
        site = run.site(name)
        assert site.key is not None
        found = verify(site.audit, SigningKey.read(site.key).public)
        assert (found.problems, found.ahead, found.torn) == ((), False, 0)
        told = [(e.event, e.facts.get("kind")) for e in run.log(name)]
        evaluated = [("in", "EvaluateRequest"), ("evaluation", None), ("out", "EvaluateAnswer")]
        trained = [("in", "TrainRequest"), ("training", None), ("out", "TrainAnswer")]
        assert told == evaluated + 2 * (trained + evaluated)
        for entry in run.log(name):
            if entry.event == "in":
                assert entry.facts["branch"] == BRANCH
                assert entry.facts["software"]
            if entry.event == "out":
                assert (entry.facts["decision"], entry.facts["code"]) == ("allowed", None)


def test_digests_are_those_of_the_versions_and_their_receipts(run: Run) -> None:
    for name in "AB":
        out = [e.facts for e in run.log(name) if e.event == "out"]
        trained = [facts for facts in out if facts["kind"] == "TrainAnswer"]
        receipts = [
            receipt
            for version in run.versions[1:]
            for receipt in version.lineage.receipts
            if receipt.site == name
        ]
        assert [(f["weights"], f["examples"]) for f in trained] == [
            (receipt.update_digest, receipt.examples) for receipt in receipts
        ]
        assert [f["version"] for f in trained] == [v.uid for v in run.versions[:-1]]
        assert all(f["norm"] > 0 for f in trained)
        evaluated = [facts for facts in out if facts["kind"] == "EvaluateAnswer"]
        assert [f["version"] for f in evaluated] == [v.uid for v in run.versions]


def test_nothing_of_a_patient_is_in_a_log(run: Run) -> None:
    for name in "AB":
        with open_gateway(f"folder:{run.folder}/archives/{name}") as gateway:
            found = gateway.find(
                "STUDY",
                {"PatientID": "", "PatientName": "", "StudyInstanceUID": "", "StudyID": ""},
            )
        text = (run.folder / "sites" / name / "audit.jsonl").read_text()
        studies = [one for one in found if not str(one.PatientID).startswith("IODEEP.")]
        assert len(studies) >= 12
        for study in studies:
            assert str(study.PatientID) not in text
            assert str(study.StudyInstanceUID) not in text
        assert all(version.study_uid not in text for version in run.versions)


def test_what_a_site_writes_is_its_owner_s_alone(run: Run) -> None:
    home = run.folder / "sites" / "A"
    written = [home / "audit.jsonl", home / "work", *(home / "work").rglob("*")]
    assert {path.name for path in written} >= {"audit.jsonl", "work", "cache", "scratch"}
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_the_aggregator_keeps_heads_that_a_site_cannot_take_back(run: Run, tmp_path: Path) -> None:
    told = read_lines(run.folder / "audit.jsonl")
    assert [(one["site"], one["work"], one["round"]) for one in told[:6]] == [
        ("A", "evaluate", 0), ("B", "evaluate", 0), ("A", "train", 1), ("B", "train", 1),
        ("A", "evaluate", 1), ("B", "evaluate", 1),
    ]  # fmt: skip
    of_site = [Head.parse(one["head"]) for one in told if one["site"] == "A"]
    outs = [entry.head for entry in run.log("A") if entry.event == "out"]
    assert of_site == outs
    folder = run.folder / "sites" / "A"
    assert audit(folder, "--head", str(of_site[-1]))["whole"]
    shutil.copytree(folder, tmp_path / "A", ignore=shutil.ignore_patterns("work"))
    key = SigningKey.read(folder / "site.key")
    (tmp_path / "A" / "audit.jsonl").unlink()
    (tmp_path / "A" / "audit.jsonl.head").unlink()
    anew = AuditLog(tmp_path / "A" / "audit.jsonl", key)
    for entry in run.log("A")[:-3]:
        anew.append(entry.event, **dict(entry.facts))
    assert audit(tmp_path / "A", keys=folder)["whole"]
    said = audit(tmp_path / "A", "--head", str(of_site[-1]), keys=folder, code=1)
    assert [one["problem"] for one in said["problems"]] == ["truncated"]


def audit(folder: Path, *options: str, keys: Path | None = None, code: int = 0) -> dict[str, Any]:
    """`iodeep site audit --json` of a site's folder."""
    document = tomllib.loads((folder / "site.toml").read_text())
    document["policy"] = {"trust": [{"lines": ["*"], "unsigned": True}]}
    document["key"] = str((keys or folder) / "site.key")
    path = folder / "audited.toml"
    path.write_text(tomli_w.dumps(document))
    done = CliRunner().invoke(cli.build(), ["site", "audit", str(path), "--json", *options])
    assert done.exit_code == code, done.output
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_the_command_shows_the_last_entries_and_names_what_was_changed(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "A"
    shutil.copytree(run.folder / "sites" / "A", folder, ignore=shutil.ignore_patterns("work"))
    done = CliRunner().invoke(
        cli.build(), ["site", "audit", str(run.folder / "sites" / "A" / "site.toml"), "--last", "2"]
    )
    assert done.exit_code == 0, done.output
    assert "EvaluateAnswer" in done.stdout
    assert "TrainAnswer" not in done.stdout
    assert "15 entries, whole; head 15:" in done.stdout
    log = folder / "audit.jsonl"
    each = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*each[:4], each[4].replace(b"training", b"training!"), *each[6:]]))
    said = audit(folder, "--last", "3", code=1)
    assert [(one["problem"], one["line"], one["entry"]) for one in said["problems"]] == [
        ("changed", 5, 5), ("removed", 6, 6)
    ]  # fmt: skip
    assert [one["number"] for one in said["last"]] == [13, 14, 15]


# --- each no ------------------------------------------------------------------------------


class Asked:
    """A site of the run with a document of its own, and questions to it as the aggregator's."""

    def __init__(self, run: Run, folder: Path, policy: Mapping[str, Any]) -> None:
        self.run = run
        source = run.folder / "sites" / "A"
        shutil.copytree(run.folder / "archives" / "A", folder / "archive")
        shutil.copytree(source / "work" / "cache", folder / "work" / "cache")
        for name in ("split.key", "site.key"):
            shutil.copy(source / name, folder / name)
        document = tomllib.loads((source / "site.toml").read_text())
        document["archives"] = {"images": f"folder:{folder}/archive"}
        document["policy"]["trust"][0]["signers"] = [str(run.folder / "aggregator.key.pub")]
        self.document = folder / "site.toml"
        self.document.write_text(tomli_w.dumps(document))
        self.policy(policy)
        self.log = AuditLog(self.site.audit, None)
        self.version = run.versions[1]
        self.grid = InProcessGrid(app, {"A": {"site": str(self.document)}})

    def policy(self, policy: Mapping[str, Any]) -> None:
        """From now on, these tables of ``[policy]`` are so."""
        document = tomllib.loads(self.document.read_text())
        document["policy"] |= policy
        self.document.write_text(tomli_w.dumps(document))
        self.site = read_site(self.document)

    def send(self, work: str, content: RecordDict) -> RecordDict:
        return self.deliver(self.message(work, content))

    def message(self, work: str, content: RecordDict) -> Message:
        return Message(content, next(iter(self.grid.get_node_ids())), work, group_id="1", ttl=300)

    def deliver(self, message: Message) -> RecordDict:
        (reply,) = self.grid.pull_messages(self.grid.push_messages([message]))
        return reply.content

    def train(self, **changes: object) -> RecordDict:
        start = self.version
        request = TrainRequest(
            line=start.line,
            branch=start.branch,
            start=start.reference,
            start_round=start.round,
            round=2,
            rounds=2,
            seed=1,
            strategy="fedavg",
            training=self.training,
        )
        return self.send("train", pack(request.model_copy(update=changes)))

    def statistics(self) -> RecordDict:
        """Under the weights of the version that a training would begin with."""
        start = self.version
        request = StatisticsRequest(
            line=start.line,
            branch=start.branch,
            start=start.reference,
            start_round=start.round,
            round=2,
            training=self.training,
        )
        with (
            open_gateway(self.site.archives.of_models) as gateway,
            Registry(gateway).pull(start) as record,
        ):
            return self.send("query", pack(request, record.tensors()))

    def census(self) -> RecordDict:
        request = CensusRequest(line=self.version.line, task="segmentation", outputs=())
        return self.send("query", pack(request))

    @property
    def training(self) -> Any:
        return read_experiment(self.run.folder / "config.toml").site_training

    def evaluate(self, version: VersionManifest | None = None, **changes: object) -> RecordDict:
        """Deliver the last version, or another manifest of its weights, signed as it is."""
        folder = f"folder:{self.run.folder}/archives/{AGGREGATOR}"
        last = self.run.versions[-1]
        with open_gateway(folder) as gateway, Registry(gateway).pull(last) as record:
            key = SigningKey.read(self.run.folder / "aggregator.key")
            request = _evaluate_request(record, version or last, key, self.training)
            parts = pack_parts([part.view() for part in record.parts])
            return self.send("evaluate", pack(request.model_copy(update=changes), parts))

    def refuses(self, code: Code, content: RecordDict) -> Entry:
        """Asserts that a content is a refusal, and the last entry says so; which is given back."""
        refusal = unpack(content, Refusal)
        assert refusal.code is code
        assert set(content.array_records) == set()
        entry = next(self.log.newest())
        assert refusal.audit == str(entry.head)
        assert (entry.event, entry.facts["code"]) == ("out", code)
        assert verify(self.site.audit, None).is_whole
        return entry

    def stored(self) -> set[str]:
        with open_gateway(self.site.archives.of_models) as gateway:
            registry = Registry(gateway)
            return {one.uid for one in registry.versions(self.version.line, BRANCH)}


def _evaluate_request(
    record: Record, version: VersionManifest, key: SigningKey, training: Any
) -> EvaluateRequest:
    return EvaluateRequest(
        manifest=version.canonical.decode(),
        signature=key.sign(version.canonical).encode().hex(),
        study_date=record.stamp.study_date,
        study_time=record.stamp.study_time,
        content_date=record.stamp.content_date,
        content_time=record.stamp.content_time,
        strategy="fedavg",
        training=training,
    )


def rounds(**table: object) -> dict[str, object]:
    return {"rounds": table}


def around_now(begin_h: float, end_h: float) -> str:
    now = datetime.now().astimezone()
    begin, end = (now + timedelta(hours=hours) for hours in (begin_h, end_h))
    return f"{begin:%H:%M}-{end:%H:%M}"


def test_what_the_policy_allows_is_done_and_its_answer_is_what_the_log_says(
    run: Run, tmp_path: Path
) -> None:
    asked = Asked(
        run,
        tmp_path,
        rounds(
            strategies=["fedavg"], epochs=1, minutes=10, per_day=1, threads=1,
            hours=[around_now(-1, 1)],
        ),
    )  # fmt: skip
    content = asked.train()
    answer = unpack(content, TrainAnswer)
    came, training, out = list(asked.log.newest())[::-1]
    assert answer.audit == str(out.head) == head_of(content)
    assert came.facts["message"] == training.facts["message"] == out.facts["message"]
    subject = {name: came.facts[name] for name in ("line", "branch", "round", "version")}
    assert subject == {
        "line": str(asked.version.line), "branch": BRANCH, "round": 2, "version": asked.version.uid
    }  # fmt: skip
    bare = pack(answer.model_copy(update={"audit": None}), unpack_tensors(content))
    seen = outline(bare)
    assert {name: out.facts[name] for name in ("digest", "bytes", "weights", "kind")} == {
        "digest": seen.digest, "bytes": seen.bytes, "weights": seen.weights, "kind": seen.kind
    }  # fmt: skip
    with (
        open_gateway(asked.site.archives.of_models) as gateway,
        Registry(gateway).pull(asked.version) as record,
    ):
        norm = norm_of_change(unpack_tensors(content), record.tensors())
    assert out.facts["norm"] == pytest.approx(norm)
    asked.refuses(Code.RATE, asked.train())  # the day's only one is over


def test_each_kind_of_work_of_a_round_has_its_number_a_day(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, rounds(per_day=1))
    unpack(asked.statistics(), StatisticsAnswer)
    unpack(asked.train(), TrainAnswer)
    for _ in range(2):
        unpack(asked.evaluate(), EvaluateAnswer)
    asked.refuses(Code.RATE, asked.statistics())
    asked.refuses(Code.RATE, asked.train())
    asked.refuses(Code.RATE, asked.evaluate())


def test_censuses_have_their_number_a_day(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, {"census": {"per_day": 2}})
    for _ in range(2):
        unpack(asked.census(), CensusAnswer)
    shutil.rmtree(tmp_path / "archive")  # it is not asked any more
    asked.refuses(Code.RATE, asked.census())


def test_messages_that_come_at_the_same_time_share_the_number_of_a_day(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is noted after this one was let through, and before this one is noted."""
    note_begin = Journal.note_begin

    def note_both(journal: Journal, work: str) -> None:
        note_begin(journal, work)
        note_begin(journal, work)

    monkeypatch.setattr(Journal, "note_begin", note_both)
    asked = Asked(run, tmp_path, {"census": {"per_day": 1}})
    asked.refuses(Code.RATE, asked.census())


def test_statistics_and_evaluations_stop_at_their_time(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, rounds(minutes=1e-6))
    asked.refuses(Code.TIME, asked.statistics())
    asked.refuses(Code.TIME, asked.evaluate())
    log = (asked.site.work / "client.log").read_text()
    assert "statistics had not ended after step 1;" in log
    assert "evaluation had not ended after step 1;" in log


def test_means_over_few_cases_are_not_told(run: Run, tmp_path: Path) -> None:
    """Where a part has more of them, its means are."""
    asked = Asked(run, tmp_path, {})
    told = unpack(asked.evaluate(), EvaluateAnswer).measured
    fewest, most = sorted(told.cases.items(), key=lambda part: part[1])
    assert 0 < fewest[1] < most[1]
    for least, parts in {most[1]: {most[0]}, most[1] + 1: set()}.items():
        asked.policy(rounds(least_cases=least))
        measured = unpack(asked.evaluate(), EvaluateAnswer).measured
        assert {name.partition("_")[0] for name in measured.metrics} == parts
        assert measured.cases == told.cases


@pytest.mark.parametrize(
    ("code", "table"),
    [
        (Code.STRATEGY, {"strategies": ["fedprox"]}),
        (Code.SETTINGS, {"epochs": 0.3}),
        (Code.TIME, {"minutes": 1e-6}),
    ],
)
def test_a_round_that_the_policy_does_not_allow_is_refused(
    run: Run, tmp_path: Path, code: Code, table: dict[str, object]
) -> None:
    asked = Asked(run, tmp_path, rounds(**table))
    assert asked.refuses(code, asked.train()).facts["decision"] == "refused"


def test_it_is_refused_outside_the_hours_and_with_more_threads(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, rounds(hours=[around_now(2, 3)], threads=1))
    asked.refuses(Code.HOURS, asked.train())
    asked.refuses(Code.HOURS, asked.statistics())
    unpack(asked.evaluate(), EvaluateAnswer)
    more = asked.training.model_copy(update={"threads": 2})
    asked.refuses(Code.SETTINGS, asked.train(training=more))
    asked.refuses(Code.SETTINGS, asked.evaluate(training=more))


def test_a_line_that_nobody_is_trusted_for_is_refused_before_anything_else(
    run: Run, tmp_path: Path
) -> None:
    trust = {"lines": ["CT/lung/*"], "signers": [str(run.folder / "aggregator.key.pub")]}
    asked = Asked(run, tmp_path, {"trust": [trust]})
    shutil.rmtree(tmp_path / "archive")  # it is not asked
    asked.refuses(Code.LINE, asked.train())
    asked.refuses(Code.LINE, asked.evaluate())
    statistics = StatisticsRequest(
        line=asked.version.line, branch=BRANCH, start=asked.version.reference, start_round=1,
        round=2, training=asked.training,
    )  # fmt: skip
    asked.refuses(Code.LINE, asked.send("query", pack(statistics, {})))


def test_there_is_no_room_for_another_version(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, {"store": {"versions": 3}})
    before = asked.stored()
    assert len(before) == 3
    unpack(asked.evaluate(), EvaluateAnswer)
    asked.refuses(Code.ROOM, asked.evaluate(run.versions[-1].model_copy(update={"round": 3})))
    assert asked.stored() == before


def test_a_network_that_is_new_waits_for_somebody(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, rounds(approval=True))
    before = asked.stored()
    asked.refuses(Code.APPROVAL, asked.evaluate())
    asked.refuses(Code.APPROVAL, asked.train())
    assert asked.stored() == before
    done = approve(asked)
    (waiting,) = json.loads(done)
    assert (waiting["line"], waiting["strategy"]) == (str(asked.version.line), "fedavg")
    shown = CliRunner().invoke(cli.build(), ["site", "approve", str(asked.document)]).stdout
    signer = SigningKey.read(run.folder / "aggregator.key").public.fingerprint
    assert show_fingerprint(signer) in shown
    assert "steps 3" in shown
    approve(asked, str(asked.version.line))
    noted = next(asked.log.newest())
    assert (noted.event, noted.facts["network"]) == ("approval", waiting["digest"])
    unpack(asked.evaluate(), EvaluateAnswer)
    unpack(asked.train(), TrainAnswer)
    assert json.loads(approve(asked)) == []


def approve(asked: Asked, *words: str) -> str:
    done = CliRunner().invoke(
        cli.build(), ["site", "approve", str(asked.document), *words, "--json"]
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def test_who_is_not_trusted_does_not_come_to_wait(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, rounds(approval=True))
    signature = SigningKey.create(tmp_path / "stranger.key").sign(run.versions[-1].canonical)
    entry = asked.refuses(Code.SIGNATURE, asked.evaluate(signature=signature.encode().hex()))
    assert entry.facts["decision"] == "refused"
    assert json.loads(approve(asked)) == []


def test_under_a_dry_run_all_is_done_and_nothing_leaves(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, rounds(dry_run=True))
    trained = asked.refuses(Code.DRY_RUN, asked.train())
    assert trained.facts["examples"] > 0
    assert trained.facts["norm"] > 0
    assert len(trained.facts["weights"]) == 64
    assert asked.refuses(Code.DRY_RUN, asked.evaluate()).facts["cases"]["test"] > 0


def test_a_message_that_was_answered_is_not_answered_again(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, rounds(minutes=1e-6))
    request = CensusRequest(line=asked.version.line, task="segmentation", outputs=())
    message = asked.message("query", pack(request))
    (identifier,) = asked.grid.push_messages([message])
    (first,) = asked.grid.pull_messages([identifier])
    assert kind_of(first.content) == "CensusAnswer"
    assert head_of(first.content) is not None
    from federation.grid.local import node_context

    again = app(message, node_context(2, {"site": str(asked.document)}))
    asked.refuses(Code.REPLAYED, again.content)
    assert kind_of(asked.send("query", pack(request))) == "CensusAnswer"


def test_another_release_of_the_software_is_refused(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, {})
    content = pack(CensusRequest(line=asked.version.line, task="segmentation", outputs=()))
    record = dict(content.config_records["iodeep"]) | {"software": "99.0.1"}
    content["iodeep"] = ConfigRecord(record)
    asked.refuses(Code.SOFTWARE, asked.send("query", content))
    came = list(asked.log.newest())[1]
    assert came.facts["software"] == "99.0.1"
    assert "line" not in came.facts


def test_what_makes_no_sense_is_noted_and_refused(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, {})
    asked.refuses(Code.REQUEST, asked.send("train", RecordDict()))
    strange = ConfigRecord({"kind": "\n" * 10**5, "software": "ü", "json": "[" * 10**5})
    asked.refuses(Code.SOFTWARE, asked.send("train", RecordDict({"iodeep": strange})))
    came = list(asked.log.newest())[1]
    assert len(came.facts["kind"]) == 80
    assert came.facts["software"] == "\\xfc"


@pytest.mark.parametrize("name", ["round", "rounds", "start_round", "seed"])
def test_a_number_that_json_does_not_hold_leaves_its_entry(
    run: Run, tmp_path: Path, name: str
) -> None:
    """RFC 8785 has whole numbers up to 2⁵³ - 1."""
    asked = Asked(run, tmp_path, rounds(strategies=["none"]))
    code = Code.STRATEGY if name == "seed" else Code.REQUEST
    asked.refuses(code, asked.train(**{name: 2**53 + 1}))
    came = list(asked.log.newest())[1]
    assert (came.event, came.facts["kind"]) == ("in", "TrainRequest")
    assert ("line" in came.facts) is (name == "seed")


@pytest.mark.parametrize("work", ["train.more", "system", "get_parameters"])
def test_a_message_of_a_type_that_nobody_knows_leaves_its_entry(
    run: Run, tmp_path: Path, work: str
) -> None:
    asked = Asked(run, tmp_path, {})
    request = CensusRequest(line=asked.version.line, task="segmentation", outputs=())
    assert asked.refuses(Code.REQUEST, asked.send(work, pack(request))).number == 2
    assert list(asked.log.newest())[1].facts["type"] == work


def test_an_error_in_place_of_a_message_leaves_its_entry(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, {})
    message = asked.message("train", RecordDict())
    message.__dict__["_content"], message.__dict__["_error"] = None, Error(1, "ours alone")
    assert asked.refuses(Code.REQUEST, asked.deliver(message)).number == 2


def test_a_message_that_nobody_foresaw_leaves_its_entry(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RecursionError

    monkeypatch.setattr("clients.app.subject_of", fail)
    asked = Asked(run, tmp_path, {})
    unpack(asked.census(), CensusAnswer)
    assert [entry.event for entry in asked.log.newest()] == ["out", "census", "in"]


def test_unknown_keys_are_a_line_of_the_site_s_log_and_no_more(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, {})
    content = pack(CensusRequest(line=asked.version.line, task="segmentation", outputs=()))
    keys = {"line": 1, "\n2026-11-28T00:00:00+00:00 train ok \x1b[31m": 1, "k" * 10**6: 1}
    record = dict(content.config_records["iodeep"]) | {"json": json.dumps(keys)}
    content["iodeep"] = ConfigRecord(record)
    asked.refuses(Code.REQUEST, asked.send("query", content))
    (line,) = (asked.site.work / "client.log").read_text().splitlines()
    assert len(line) == MAX_CHARACTERS
    assert r"\n2026-11-28T00:00:00+00:00 train ok \x1b[31m" in line


def test_behind_a_head_that_is_not_signed_nothing_is_done(run: Run, tmp_path: Path) -> None:
    asked = Asked(run, tmp_path, {})
    unpack(asked.census(), CensusAnswer)
    last = next(asked.log.newest())
    head_path(asked.site.audit).write_bytes(last.head.encode(None))
    before = asked.site.audit.read_bytes()
    refusal = unpack(asked.train(), Refusal)
    assert (refusal.code, refusal.audit) == (Code.AUDIT, None)
    assert asked.site.audit.read_bytes() == before


def test_with_a_log_that_was_changed_nothing_is_done_and_nothing_leaves(
    run: Run, tmp_path: Path
) -> None:
    asked = Asked(run, tmp_path, {})
    asked.log.append("made")
    asked.log.append("made")
    path = asked.site.audit
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    refusal = unpack(asked.train(), Refusal)
    assert (refusal.code, refusal.audit) == (Code.AUDIT, None)
    assert len(path.read_bytes().splitlines()) == 1
    assert "nothing is appended" in (asked.site.work / "client.log").read_text()
