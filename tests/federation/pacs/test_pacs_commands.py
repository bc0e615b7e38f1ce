"""``iodeep pacs echo`` and ``find``."""

import json

import pytest
from click.testing import Result
from typer.testing import CliRunner

from federation.cli import build
from federation.errors import ConfigError
from federation.pacs import Archive, ArchiveServer
from tests.federation.pacs.conftest import Make


def iodeep(*words: str) -> Result:
    return CliRunner().invoke(build(), ["pacs", *words])


def test_echo_says_who_answers(server: ArchiveServer) -> None:
    assert iodeep("echo", server.address).stdout == f"{server.address} answers\n"


def test_find_prints_a_table_and_json(archive: Archive, server: ArchiveServer, make: Make) -> None:
    archive.ingest(make(StudyID="main"))
    archive.ingest(make(StudyInstanceUID="1.2.3.2", PatientID="Q1"))
    words = ("find", server.address, "STUDY", "PatientID=P*")
    assert "1.2.3.1" in iodeep(*words).stdout
    (row,) = json.loads(iodeep(*words, "--json").stdout)
    assert (row["StudyID"], row["StudyInstanceUID"]) == ("main", "1.2.3.1")


def test_a_number_of_0_is_a_number(archive: Archive, server: ArchiveServer, make: Make) -> None:
    archive.ingest(make(SeriesNumber=0))
    words = ("find", server.address, "SERIES", "StudyInstanceUID=1.2.3.1", "--json")
    (row,) = json.loads(iodeep(*words).stdout)
    assert row["SeriesNumber"] == "0"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["PATIENT"], "no level"),
        (["STUDY", "PatientNane=x"], "did you mean 'PatientName'"),
        (["SERIES"], "needs StudyInstanceUID"),
    ],
)
def test_a_search_that_cannot_be_made_is_said(
    server: ArchiveServer, words: list[str], said: str
) -> None:
    failure = iodeep("find", server.address, *words).exception
    assert isinstance(failure, ConfigError)
    assert said in str(failure)


@pytest.mark.parametrize("words", [["serve", "--port", "70000", "x"], ["find"]])
def test_wrong_usage_ends_with_2(words: list[str]) -> None:
    assert iodeep(*words).exit_code == 2
