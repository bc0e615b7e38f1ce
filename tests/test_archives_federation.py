"""A federation whose hospitals have archives of others: it comes to the same model, bit for bit."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from federation.iodeep.labels import Line
from federation.pacs import open_gateway
from federation.registry import Registry
from tests.federation.pacs.archives import ARCHIVES
from tests.peers.certificates import Certificates
from tests.test_federation import LINE as NAME
from tests.test_federation import iodeep, lines, phantom

LINE = Line.parse(NAME)
SMALL = ["rounds=2", 'federation.sites=["A","B"]', "federation.quorum=2", "training.steps=3"]

Rounds = list[tuple[int, str, str]]
"""Of each version its round, its UID and its weights' digest."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Rounds:
    """What a run comes to whose archives are all embedded."""
    return rounds(run(tmp_path_factory.mktemp("embedded") / "out"))


def run(out: Path, archives: Mapping[str, str] | None = None) -> Path:
    named = [f"simulation.archives.{name}={address}" for name, address in (archives or {}).items()]
    done = iodeep(*phantom(out, *SMALL, *named))
    assert done.returncode == 0, done.stderr
    return out


def rounds(out: Path) -> Rounds:
    found = lines(out / "versions.jsonl")
    return [(one["round"], one["version"], one["weights_digest"]) for one in found]


@pytest.fixture
def archives(
    request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates
) -> Iterator[dict[str, str]]:
    """Running archives by the name of who has them; the request's parameter names their kinds."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(ARCHIVES[kind](tmp_path / name, certificates))
            for name, kind in request.param.items()
        }


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "archives",
    [
        {"A": "orthanc-dicomweb", "B": "dcmqrscp", "aggregator": "orthanc-tls"},
        pytest.param({"A": "orthanc", "B": "dcmqrscp"}, marks=pytest.mark.soak),
        pytest.param(
            {"A": "orthanc-tls", "B": "orthanc-dicomweb", "aggregator": "orthanc"},
            marks=pytest.mark.soak,
        ),
    ],
    indirect=True,
    ids=lambda kinds: "+".join(kinds.values()),
)
def test_the_archives_make_no_difference(
    archives: dict[str, str], expected: Rounds, tmp_path: Path
) -> None:
    out = run(tmp_path / "out", archives)
    told = rounds(out)
    assert [(number, digest) for number, _, digest in told] == [
        (number, digest) for number, _, digest in expected
    ]
    assert not any((out / "archives" / name).exists() for name in archives)
    embedded = {name: f"folder:{out}/archives/{name}" for name in ("aggregator", "A", "B")}
    for address in {**embedded, **archives}.values():
        with open_gateway(address) as gateway:
            registry = Registry(gateway)
            (branch,) = registry.branches(LINE)
            versions = registry.versions(LINE, branch.name)
            assert [(one.round, one.uid, one.weights.digest) for one in versions] == told
            assert {one.round for one in registry.evaluations(LINE, branch.name)} == {0, 1, 2}
            assert {one.problem for one in registry.verify(LINE, branch.name)} == {None}
