"""`iodeep site predict`, as people type it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from federation.fresh import fresh_version
from federation.iodeep.signature import SigningKey
from federation.pacs import Gateway
from federation.registry import Registry
from federation.releases import promote
from tests.clients.inference.small import experiment, release, site_document, write_study
from tests.federation.iodeep.records import LINE, version
from tests.here import iodeep_here

IODEEP = Path(sys.executable).with_name("iodeep")


@pytest.fixture
def document(gateway: Gateway, tmp_path: Path) -> Path:
    return site_document(tmp_path / "site", gateway.address)


def store_study(gateway: Gateway, folder: Path, number: int = 0) -> str:
    paths = write_study(folder, number=number)
    gateway.store(paths)
    return str(pydicom.dcmread(paths[0]).StudyInstanceUID)


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return iodeep_here("site", *words)


def run_apart(*words: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as people do."""
    command = [IODEEP, "site", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def series_of(gateway: Gateway, study: str) -> list[str]:
    rows = gateway.find("SERIES", {"StudyInstanceUID": study, "Modality": ""})
    return sorted(str(row.Modality) for row in rows)


def test_a_study_gets_a_seg_and_volumes_and_none_twice(
    gateway: Gateway, document: Path, tmp_path: Path
) -> None:
    manifest = release(gateway)
    study = store_study(gateway, tmp_path / "study")

    done = run_apart("predict", document, study, "--json")

    assert done.returncode == 0, done.stderr
    (outcome,) = json.loads(done.stdout)
    assert (outcome["state"], outcome["version"]) == ("stored", manifest.uid)
    assert set(outcome["volumes_ml"]) == {"inner structure", "outer structure"}
    assert series_of(gateway, study) == ["MR", "SEG", "SR"]

    again = json.loads(run("predict", document, study, "--json").stdout)
    assert [one["state"] for one in again] == ["there"]
    assert again[0]["seg"] == outcome["seg"]
    assert series_of(gateway, study) == ["MR", "SEG", "SR"]
    log = (tmp_path / "site" / "work" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["state"] for line in log] == ["stored", "there"]


def test_what_was_predicted_is_no_label(gateway: Gateway, document: Path, tmp_path: Path) -> None:
    release(gateway)
    study = store_study(gateway, tmp_path / "study")
    assert run("predict", document, study).returncode == 0
    found = json.loads(run("census", document, "--json", "--sample", "0").stdout)
    assert [one["reason"] for one in found[0]["left_out"]] == ["prediction"]


def test_one_bad_study_does_not_stop_the_others(
    gateway: Gateway, document: Path, tmp_path: Path
) -> None:
    release(gateway)
    whole = store_study(gateway, tmp_path / "whole")
    paths = write_study(tmp_path / "broken", number=1)
    gateway.store([*paths[:5], *paths[6:]])
    broken = str(pydicom.dcmread(paths[0]).StudyInstanceUID)

    done = run_apart("predict", document, broken, "1.2.3", whole, "--json")

    assert done.returncode == 1
    outcomes = json.loads(done.stdout)
    assert [one["state"] for one in outcomes] == ["failed", "failed", "stored"]
    assert outcomes[0]["detail"].startswith("slice-missing")
    assert "is not there" in outcomes[1]["detail"]


def test_a_study_that_no_network_suits_says_so(
    gateway: Gateway, document: Path, tmp_path: Path
) -> None:
    study = store_study(gateway, tmp_path / "study")
    done = run("predict", document, study)
    assert done.returncode == 1
    assert "there is no network here" in done.stdout
    manifest, parts = version(line=LINE)
    Registry(gateway).publish(manifest, parts)  # published, and not released
    assert "no version is released" in run("predict", document, study).stdout


def test_two_networks_that_suit_equally_are_for_a_person_to_choose(
    gateway: Gateway, document: Path, tmp_path: Path
) -> None:
    release(gateway)
    other = release(gateway, line="MR/brain/-/other")
    study = store_study(gateway, tmp_path / "study")
    done = run("predict", document, study)
    assert done.returncode == 1
    assert "2 networks suit equally well" in done.stdout
    named = run("predict", document, study, "--model", "MR/brain/-/other", "--json")
    assert json.loads(named.stdout)[0]["version"] == other.uid


def test_a_network_of_another_modality_is_used_when_told_and_noted(
    gateway: Gateway, document: Path, tmp_path: Path
) -> None:
    release(gateway, line="CT/liver/-/small")
    study = store_study(gateway, tmp_path / "study")
    done = run("predict", document, study, "--model", "CT/liver/-/small", "--json")
    (outcome,) = json.loads(done.stdout)
    assert outcome["state"] == "stored"
    assert outcome["detail"] == "forced: it is for CT, the image is MR"
    (seg,) = gateway.fetch(tmp_path, study=study, series=_series(gateway, study, "SEG"))
    assert pydicom.dcmread(seg).ContentDescription == outcome["detail"]


def test_a_version_that_nobody_trusted_signed_is_not_used(
    gateway: Gateway, document: Path, tmp_path: Path
) -> None:
    release(gateway)
    study = store_study(gateway, tmp_path / "study")
    SigningKey.create(tmp_path / "site" / "other.key")
    trusted = document.read_text().replace("unsigned = true", 'signers = ["other.key.pub"]')
    document.write_text(trusted)
    done = run("predict", document, study)
    assert done.returncode == 1
    assert series_of(gateway, study) == ["MR"]


def test_a_kill_leaves_nothing_that_comes_twice(
    gateway: Gateway, document: Path, tmp_path: Path
) -> None:
    release(gateway)
    studies = [store_study(gateway, tmp_path / str(n), n) for n in range(4)]
    work = subprocess.Popen(
        [IODEEP, "site", "predict", document, *studies], stdout=subprocess.DEVNULL
    )
    log = tmp_path / "site" / "work" / "predictions.jsonl"
    while work.poll() is None and not (log.exists() and log.read_text()):
        pass
    work.send_signal(signal.SIGKILL)
    work.wait()
    assert run("predict", document, *studies).returncode == 0
    for study in studies:
        assert series_of(gateway, study) == ["MR", "SEG", "SR"]


def test_studies_come_from_another_command(
    gateway: Gateway, document: Path, tmp_path: Path
) -> None:
    release(gateway)
    study = store_study(gateway, tmp_path / "study")
    done = subprocess.run(
        [IODEEP, "site", "predict", document, "-"],
        input=f"{study}\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert run("predict", document, "no-uid").returncode != 0


def test_a_release_is_taken_up_and_an_older_prediction_stays(
    gateway: Gateway, document: Path, tmp_path: Path
) -> None:
    first = release(gateway)
    study = store_study(gateway, tmp_path / "study")
    assert run("predict", document, study).returncode == 0
    manifest, parts = fresh_version(experiment().model_copy(update={"seed": 5}), "second")
    registry = Registry(gateway)
    registry.publish(manifest, parts)
    promote(registry, manifest)
    (outcome,) = json.loads(run("predict", document, study, "--json").stdout)
    assert outcome["version"] == manifest.uid != first.uid
    assert series_of(gateway, study) == ["MR", "SEG", "SEG", "SR", "SR"]


def _series(gateway: Gateway, study: str, modality: str) -> str:
    keys = {"StudyInstanceUID": study, "Modality": modality, "SeriesInstanceUID": ""}
    return str(gateway.find("SERIES", keys)[0].SeriesInstanceUID)
