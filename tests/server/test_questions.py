"""A census and a release on offer, among simulated hospitals with archives of their own."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from flwr.app import Context, RecordDict

from clients.app import app as client_app
from clients.counting import told
from clients.data.opt_outs import opt_out
from clients.hospital import Hospital
from clients.log import LOG
from federation.config import Experiment, OptOuts, PolicyTable, read_experiment, read_site
from federation.errors import ConfigError
from federation.fresh import fresh_version
from federation.grid import InProcessGrid
from federation.iodeep.manifest import VersionManifest
from federation.iodeep.signature import SigningKey
from federation.messages import CensusAnswer, Code
from federation.pacs import Gateway, open_gateway
from federation.registry import Registry
from federation.releases import promote, read_releases, roll_back
from federation.software import software
from federation.trust import Rule, TrustList
from server.app import app as server_app
from server.cli import configs
from server.offers import Offer
from server.questions import Census
from server.report.questions import census_table, offer_table
from server.simulation import Simulation, cases_by_site

SITES = ("A", "B")
STUDIES = 12
Documents = Mapping[str, Mapping[str, Any]]


def plan(*overrides: str) -> Experiment:
    few = ['federation.sites=["A","B"]', "federation.quorum=2"]
    return read_experiment(configs() / "phantom.toml", [*few, *overrides])


def begun(folder: Path) -> Iterator[Simulation]:
    with Simulation(plan(), folder) as simulation:
        for site in SITES:
            simulation.site(site).mkdir(parents=True, exist_ok=True)
        simulation.write_documents()
        yield simulation


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    """Two hospitals with labelled images."""
    for simulation in begun(tmp_path_factory.mktemp("census") / "run"):
        list(simulation.import_images())
        yield simulation


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Simulation]:
    """Two hospitals that have nothing, not even a data table in their documents."""
    yield from begun(tmp_path / "run")


def changed(simulation: Simulation, site: str, **changes: Any) -> dict[str, str]:
    """A node's configuration, its document changed: ``policy`` is merged, the rest replaced."""
    document = tomllib.loads((simulation.site(site) / "site.toml").read_text())
    policy = document["policy"] | changes.pop("policy", {})
    path = simulation.site(site) / "changed.toml"
    path.write_text(tomli_w.dumps(document | changes | {"policy": policy}))
    return {"site": str(path)}


def work(simulation: Simulation, folder: Path, documents: Documents, **config: str) -> Path:
    """What the ServerApp leaves in its folder, over a grid of the ClientApp."""
    nodes = {site: changed(simulation, site, **changes) for site, changes in documents.items()}
    context = Context(
        run_id=1,
        node_id=1,
        node_config={},
        state=RecordDict(),
        run_config={
            "run-folder": str(folder),
            "archive": simulation._addresses["aggregator"],
            "key": str(simulation.out / "aggregator.key"),
            **config,
        },
    )
    server_app(InProcessGrid(client_app, nodes), context)
    return folder


def census(simulation: Simulation, folder: Path, documents: Documents, *overrides: str) -> Census:
    document = plan(*overrides).model_dump_json()
    return Census.read(work(simulation, folder, documents, work="census", experiment=document))


# --- a census -----------------------------------------------------------------------------


def test_a_census_counts_labelled_studies_and_fetches_no_image(
    filled: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str | None] = []
    opened = Hospital._open

    def watched(self: Hospital, address: str) -> Gateway:
        gateway = opened(self, address)
        fetch = gateway.fetch

        def look(folder: Path, *, study: str, series: str, instance: str | None = None) -> Any:
            fetched.append(instance)
            return fetch(folder, study=study, series=series, instance=instance)

        monkeypatch.setattr(gateway, "fetch", look, raising=False)
        return gateway

    monkeypatch.setattr(Hospital, "_open", watched)
    found = census(filled, tmp_path, {"A": {}, "B": {}})
    for site in SITES:
        count = found.sites[site]
        assert (count.studies, count.problem, count.no_answer) == (STUDIES, None, None)
        assert count.software == software()
        assert count.seconds is not None
    assert len(cases_by_site(filled.experiment)["A"]) == STUDIES
    assert None not in fetched
    assert len(set(fetched)) == 2 * STUDIES  # a SEG of each study
    last = census_table(found)[-1]
    assert (last["site"], last["labelled studies"]) == ("all", str(2 * STUDIES))
    assert json.loads((tmp_path / "census.json").read_text())["line"] == str(plan().line)


def test_few_studies_are_not_told_and_nothing_tells_none_from_some(
    filled: Simulation, tmp_path: Path
) -> None:
    least = {"policy": {"census": {"least": STUDIES + 1}}}
    data = tomllib.loads((filled.site("B") / "site.toml").read_text())["data"]
    data["brain"]["query"] = {"Modality": "CT"}
    found = census(filled, tmp_path, {"A": least, "B": {**least, "data": data}})
    a, b = (found.sites[site].model_copy(update={"seconds": None}) for site in SITES)
    assert a == b
    assert (a.studies, a.problem) == (None, None)
    rows = census_table(found)
    assert rows[0]["labelled studies"] == "fewer than it tells of"
    assert rows[-1]["labelled studies"] == "at least 0"


@pytest.mark.parametrize(
    ("least", "min_studies", "answers"),
    [
        (10, 1, {0: (None, None), 9: (None, None), 10: (10, None)}),
        (10, 10, {0: (None, Code.DATA), 9: (None, Code.DATA), 10: (10, None)}),
        (10, 20, {0: (None, Code.DATA), 9: (None, Code.DATA), 10: (10, Code.DATA), 20: (20, None)}),
        (1, 5, {0: (None, Code.DATA), 1: (1, Code.DATA), 5: (5, None)}),
    ],
)
def test_too_few_for_a_training_is_said_only_where_that_tells_no_number(
    least: int, min_studies: int, answers: dict[int, tuple[int | None, Code | None]]
) -> None:
    policy = PolicyTable.model_validate({"min_studies": min_studies, "census": {"least": least}})
    for labelled, (studies, problem) in answers.items():
        expected = CensusAnswer(site="A", studies=studies, problem=problem)
        assert told("A", policy, labelled, 0) == expected


def test_too_many_unusable_studies_are_said_beside_the_number() -> None:
    policy = PolicyTable.model_validate({"max_unusable": 0.5})
    assert told("A", policy, 10, 10).problem is None
    assert told("A", policy, 10, 11).problem is Code.DATA
    assert told("A", policy, 9, 1000).problem is None


def test_patients_who_opted_out_do_not_count(filled: Simulation, tmp_path: Path) -> None:
    table = OptOuts(file=tmp_path / "out.txt", key=filled.site("A") / "split.key")
    (tmp_path / "split.key").write_bytes(table.key.read_bytes())
    patients = sorted({case.patient_id for case in cases_by_site(filled.experiment)["A"]})
    opt_out(table, patients[:2])
    policy = {"opt_out": {"file": str(table.file), "key": str(table.key)}}
    found = census(filled, tmp_path, {"A": {"policy": policy}, "B": {}})
    gone = sum(case.patient_id in patients[:2] for case in cases_by_site(filled.experiment)["A"])
    assert found.sites["A"].studies == STUDIES - gone
    assert found.sites["B"].studies == STUDIES


def test_why_a_training_could_not_begin(filled: Simulation, tmp_path: Path) -> None:
    nowhere = {"archives": {"images": "dimse://NOBODY@127.0.0.1:1?calling=A"}}
    found = census(filled, tmp_path / "1", {"A": nowhere, "B": {"data": {}}})
    assert found.sites["A"].problem is Code.ARCHIVE_UNREACHABLE
    assert found.sites["B"].problem is Code.DOCUMENT
    assert {count.studies for count in found.sites.values()} == {None}
    assert [row["labelled studies"] for row in census_table(found)] == [None, None, "at least 0"]
    other = [{"lines": ["CT/*"], "unsigned": True}]
    found = census(filled, tmp_path / "2", {"A": {"policy": {"trust": other}}})
    assert found.sites["A"].problem is Code.LINE
    assert found.sites["B"].no_answer == "it is not connected"


def test_an_answer_after_the_deadline_is_none(filled: Simulation, tmp_path: Path) -> None:
    found = census(filled, tmp_path, {"A": {}, "B": {}}, "federation.deadline_s=0.001")
    for count in found.sites.values():
        assert count.studies is None
        assert "deadline" in str(count.no_answer)


def test_work_that_nobody_knows_is_refused(empty: Simulation, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'dance'; known: rounds, census, offer"):
        work(empty, tmp_path, {"A": {}}, work="dance")


# --- a release on offer -------------------------------------------------------------------

TAKES: Mapping[str, Any] = {"data": {}, "policy": {"releases": True}}


@pytest.fixture
def aggregator(empty: Simulation) -> Iterator[Registry]:
    key = SigningKey.read(empty.out / "aggregator.key")
    with open_gateway(empty.archive("aggregator")) as gateway:
        yield Registry(gateway, trust=TrustList([Rule.of_key(key.public)]), signer=key)


def fresh(registry: Registry, branch: str, seed: int = 1) -> VersionManifest:
    manifest, parts = fresh_version(plan(f"seed={seed}"), branch)
    registry.publish(manifest, parts)
    return manifest


def offer(simulation: Simulation, folder: Path, documents: Documents, **config: str) -> Offer:
    line = str(plan().line)
    return Offer.read(work(simulation, folder, documents, work="offer", line=line, **config))


def at(simulation: Simulation, site: str) -> Hospital:
    return Hospital(read_site(simulation.site(site) / "changed.toml"))


def test_a_release_is_accepted_after_its_version_was_delivered(
    empty: Simulation, aggregator: Registry, tmp_path: Path
) -> None:
    version = fresh(aggregator, "one")
    release = promote(aggregator, version, "it is the best")
    made = offer(empty, tmp_path / "1", {"A": TAKES, "B": {"data": {}}})
    assert (made.number, made.version) == (1, version.reference)
    a, b = made.sites["A"], made.sites["B"]
    assert (a.accepted, a.delivered, a.problem) == (True, True, None)
    assert (b.accepted, b.delivered) == (False, False)
    assert "(policy)" in str(b.problem)
    assert [row["accepted"] for row in offer_table(made)] == [True, False]
    with at(empty, "A") as hospital:
        found = read_releases(hospital.registry, version.line)
        assert found.documents == (release,)
        assert hospital.named(version.line) == version
        (signed,) = hospital.registry.releases(version.line)
        assert signed in aggregator.releases(version.line)  # signed as it was there
    with at(empty, "B") as hospital:
        assert not hospital.registry.branches(version.line)  # nothing was sent to who refuses
    again = offer(empty, tmp_path / "2", {"A": TAKES}, sites="A,C")
    assert (again.sites["A"].accepted, again.sites["A"].delivered) == (True, False)
    assert again.sites["C"].problem == "it is not connected"


def test_what_another_key_released_is_refused(
    empty: Simulation, aggregator: Registry, tmp_path: Path
) -> None:
    promote(aggregator, fresh(aggregator, "one"))
    SigningKey.create(tmp_path / "other.key")
    trust = {
        "lines": ["MR/*"],
        "signers": [str(empty.out / "aggregator.key.pub")],
        "releasers": [str(tmp_path / "other.key.pub")],
    }
    policy = {"releases": True, "trust": [trust]}
    made = offer(empty, tmp_path, {"A": {"data": {}, "policy": policy}})
    assert "(signature-not-trusted)" in str(made.sites["A"].problem)
    assert not made.sites["A"].delivered


def test_a_site_that_released_by_itself_meanwhile_says_so(
    empty: Simulation, aggregator: Registry, tmp_path: Path
) -> None:
    line = plan().line
    one = fresh(aggregator, "one")
    promote(aggregator, one)
    offer(empty, tmp_path / "1", {"A": TAKES})
    with at(empty, "A") as hospital:
        own = fresh(hospital.registry, "own", seed=2)
        promote(hospital.registry, own)
    made = offer(empty, tmp_path / "2", {"A": TAKES})
    assert "(policy)" in str(made.sites["A"].problem)
    log = (empty.site("A") / "work" / LOG).read_text()
    assert "release 1 of line" in log
    assert "release 2 (promote of" in log
    two = fresh(aggregator, "two", seed=3)
    promote(aggregator, two)  # number 2, as the site's own
    assert not offer(empty, tmp_path / "3", {"A": TAKES}).sites["A"].accepted
    with at(empty, "A") as hospital:
        assert hospital.named(line) == own
    roll_back(aggregator, line)
    made = offer(empty, tmp_path / "4", {"A": TAKES})
    assert (made.number, made.sites["A"].accepted) == (3, True)
    with at(empty, "A") as hospital:
        assert hospital.named(line) == one
