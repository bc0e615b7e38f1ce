"""docs/data.md: what its tables say is tested, its document is read, its reasons are all there."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from clients.data import Reason
from federation.config import (
    CacheTable,
    DataLimits,
    DataTable,
    LabelSource,
    OptOuts,
    PolicyTable,
    Split,
    read_site,
)
from federation.values import Value
from tests.typed import files, read_page, section

TESTS = Path(__file__).parent
PAGE = "data.md"
ELSEWHERE = {"store", "trust", "file", "rounds", "releases", "census"}
"""What is not about labels that are drawn; of a policy, docs/deploy.md says it."""


def rows(heading: str) -> list[tuple[str, ...]]:
    """A section's table, without its head."""
    lines = [line for line in section(read_page(PAGE), heading).splitlines() if line[:1] == "|"]
    return [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in lines[2:]]


def test_every_input_has_a_test_that_exists() -> None:
    tests = {
        f"{path.name}::{node.name}"
        for path in TESTS.rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    named = [test for *_, test in rows("Inputs")]
    assert len(named) > 50
    assert [test for test in named if test not in tests] == []


def test_what_leaves_an_input_out_is_a_reason() -> None:
    codes = {code for _, _, result, _ in rows("Inputs") for code in re.findall("`(.+?)`", result)}
    assert codes <= set(Reason)
    assert len({row[:2] for row in rows("Inputs")}) == len(rows("Inputs"))


def test_every_reason_is_explained_in_its_order() -> None:
    explained = rows("Why a study is left out")
    assert [code.strip("`") for code, *_ in explained] == list(Reason)
    assert all(meaning and remedy for _, meaning, remedy in explained)


def test_the_document_is_one(tmp_path: Path) -> None:
    document = tmp_path / "site.toml"
    document.write_text(files(read_page(PAGE))["site.toml"])

    site = read_site(document)

    table = site.data["hippocampus"]
    assert table.labels.map == {"HC_ant": 1, "HC_post": 2, "99HOSPITAL:HCP": 2}
    assert (table.limits.studies, site.policy.min_studies) == (500, 20)
    assert site.policy.opt_out == OptOuts(
        file=tmp_path / "opt-outs.txt", key=tmp_path / "opt-outs.key"
    )


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        (DataTable, "data.hippocampus"),
        (LabelSource, "data.hippocampus.labels"),
        (DataLimits, "data.hippocampus.limits"),
        (Split, "data.hippocampus.split"),
        (PolicyTable, "policy"),
        (OptOuts, "policy.opt_out"),
        (CacheTable, "policy.cache"),
    ],
)
def test_every_key_about_data_is_in_the_document(kind: type[Value], where: str) -> None:
    table = tomllib.loads(files(read_page(PAGE))["site.toml"])
    for name in where.split("."):
        table = table[name]
    assert table.keys() | ELSEWHERE >= kind.model_fields.keys()
