"""`iodeep site doctor` as typed."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from clients.doctor import Finding
from federation.cli import build
from federation.errors import ConfigError
from federation.pacs import open_gateway
from tests.clients.doctor.conftest import PATIENT_ID, PATIENT_NAME, SiteFolder
from tests.peers.odd import Oddities, odd_archive
from tests.peers.process import free_port

IODEEP = Path(sys.executable).parent / "iodeep"


def doctor(*words: object) -> Result:
    return CliRunner().invoke(build(), ["site", "doctor", *map(str, words)])


def test_it_ends_with_0_where_nothing_fails(site: SiteFolder) -> None:
    said = doctor(site.write(), "--part-mb", 1)
    assert said.exit_code == 0, said.output
    title, *rows = [line for line in said.stdout.splitlines() if line.strip()]
    assert "hospital" in title
    assert rows[0].split() == ["of", "what", "seen", "what", "to", "do"]
    assert {row.split()[0] for row in rows[1:]} <= {"pass", "warn"}
    assert "2 x 1.05 MB" in said.stdout
    assert said.stderr == ""


def test_a_warning_is_no_failure(site: SiteFolder) -> None:
    site.document["policy"]["trust"][0]["unsigned"] = True
    assert doctor(site.write(), "--part-mb", 0).exit_code == 0


def test_it_ends_with_1_where_something_fails(site: SiteFolder) -> None:
    site.document["archives"]["models"] = f"dimse://PACS@127.0.0.1:{free_port()}"
    said = doctor(site.write())
    assert said.exit_code == 1
    assert "nothing listens at that port" in said.stdout


@pytest.mark.parametrize("words", [["--part-mb", "-1"], ["--part-mb", "many"], ["--parts"], []])
def test_it_ends_with_2_where_it_is_used_wrongly(site: SiteFolder, words: list[str]) -> None:
    assert doctor(*([site.write()] if words else []), *words).exit_code == 2


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("dimse://127.0.0.1:104", "title, host and port are all needed"),
        ("http://pacs/dicom-web", "begins with none of dimse:"),
        ("dimse://PACS@host:104?listen=0", "is no port"),
        ("dimse://A_TITLE_THAT_IS_TOO_LONG@host:104", "is no AE title"),
    ],
)
def test_an_address_that_is_none_is_named_before_anything_else(
    site: SiteFolder, address: str, said: str
) -> None:
    site.document["archives"]["models"] = address
    failure = doctor(site.write()).exception
    assert isinstance(failure, ConfigError)
    assert said in str(failure)


def test_json_is_all_there_is_on_stdout(site: SiteFolder) -> None:
    """Typed as by a person, with what the libraries say."""
    with odd_archive(Oddities(private="dropped")) as odd:
        site.document["archives"]["models"] = odd.dimse
        said = subprocess.run(
            [str(IODEEP), "site", "doctor", str(site.write()), "--json", "--part-mb", "0"],
            capture_output=True,
            text=True,
            check=False,
        )
    rows = json.loads(said.stdout)
    assert all(list(row) == [field.name for field in fields(Finding)] for row in rows)
    assert [(row["about"], row["check"]) for row in rows if row["outcome"] == "fail"] == [
        ("models", "content")
    ]
    assert said.returncode == 1
    assert said.stderr == ""


def test_without_parts_only_something_small_is_stored(site: SiteFolder) -> None:
    rows = json.loads(doctor(site.write(), "--json", "--part-mb", 0).stdout)
    assert not [row for row in rows if "parts" in row["check"]]
    with open_gateway(f"folder:{site.path / 'models'}") as gateway:
        (study,) = gateway.find("STUDY", {"PatientID": "IODEEP-DOCTOR"})
        uid = str(study.StudyInstanceUID)
        assert len(gateway.find("SERIES", {"StudyInstanceUID": uid})) == 1


def test_no_patient_is_named(site: SiteFolder, one_labelled: list[Path]) -> None:
    """Neither where all is well nor in what is said of a fault."""
    out = []
    site.document["policy"]["min_studies"] = 1
    for oddities in (
        Oddities(),
        Oddities(get="absent"),
        Oddities(finds="everything"),
    ):
        with odd_archive(oddities) as odd:
            with open_gateway(odd.dimse) as gateway:
                gateway.store(one_labelled)
            site.document["archives"]["images"] = odd.dimse
            out.append(doctor(site.write(), "--part-mb", 0).output)
            site.document["data"]["brain"]["labels"]["map"]["something else"] = 3
            out.append(doctor(site.write(), "--part-mb", 0).output)
            del site.document["data"]["brain"]["labels"]["map"]["something else"]
    everything = "".join(out).casefold()
    assert "1 labelled among 1 studies" in everything
    assert "1 segment-missing" in everything
    for name in (PATIENT_ID, *PATIENT_NAME.split("^")):
        assert name.casefold() not in everything
