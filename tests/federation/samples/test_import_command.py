import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from federation.commands.imports import register
from federation.errors import ConfigError
from federation.pacs import Archive, open_gateway


@pytest.fixture
def address(tmp_path: Path) -> str:
    Archive(tmp_path / "pacs").close()
    return f"folder:{tmp_path / 'pacs'}"


@pytest.fixture
def cli() -> typer.Typer:
    group = typer.Typer(pretty_exceptions_enable=False)
    register(group)
    return group


def test_the_result_counts_cases_and_names_the_quarantined(
    cli: typer.Typer, nifti_folder: Path, address: str
) -> None:
    (nifti_folder / "case_002_image.nii.gz").unlink()
    result = CliRunner().invoke(cli, ["import", "msd", str(nifti_folder), address])

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "stored 1 cases, 6 instances",
        "quarantined 1 cases",
        "  case_002: file-missing: the image file case_002_image.nii.gz is absent",
    ]
    with open_gateway(address) as gateway:
        assert len(gateway.find("STUDY", {"StudyInstanceUID": ""})) == 1


def test_json_is_all_that_stands_on_stdout(
    cli: typer.Typer, nifti_folder: Path, address: str
) -> None:
    arguments = ["import", "msd", str(nifti_folder), address]

    result = CliRunner().invoke(cli, [*arguments, "--site", "A", "--json"])

    document = json.loads(result.stdout)
    assert [case["instances"] for case in document["stored"]] == [6, 6]
    assert document["quarantined"] == []


def test_nothing_stored_is_a_failure(cli: typer.Typer, nifti_folder: Path, address: str) -> None:
    for path in nifti_folder.glob("*.nii.gz"):
        path.unlink()

    result = CliRunner().invoke(cli, ["import", "msd", str(nifti_folder), address])

    assert result.exit_code == 1
    assert "quarantined 2 cases" in result.stdout


def test_an_unknown_site_names_the_known_ones(
    cli: typer.Typer, nifti_folder: Path, address: str
) -> None:
    arguments = ["import", "msd", str(nifti_folder), address, "--site", "Z"]

    result = CliRunner().invoke(cli, arguments)

    assert isinstance(result.exception, ConfigError)
    assert "no site Z; it has A" in str(result.exception)
