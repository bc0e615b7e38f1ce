"""Fine-tuning: stops, goes on, repeats itself, and stores only what is better."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from clients.finetuning.layers import train_only
from clients.finetuning.progress import Epoch, Progress
from federation.errors import ModelError
from federation.pacs import Gateway
from federation.samples.importer import write_case
from federation.samples.phantom import phantom_cases
from tests.clients.inference.small import LINE, release, site_document
from tests.here import iodeep_here

IODEEP = Path(sys.executable).with_name("iodeep")
FAST = ("epochs=4", "training.optimizer.lr=0.01", "patience=4")


@pytest.fixture
def document(gateway: Gateway, tmp_path: Path) -> Path:
    """A site with eight labelled phantoms, and a released network that has learnt nothing."""
    for number, case in enumerate(phantom_cases("A", 8, 0)):
        folder = tmp_path / f"case{number}"
        folder.mkdir()
        gateway.store(write_case(case, folder))
    release(gateway)
    return site_document(tmp_path / "site", gateway.address)


def run(document: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return iodeep_here("site", "finetune", document, LINE, *words)


def run_apart(document: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as people do."""
    return subprocess.run(
        [IODEEP, "site", "finetune", document, LINE, *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def result(document: Path, *words: str, apart: bool = False) -> dict:
    done = (run_apart if apart else run)(document, *FAST, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_better_version_is_stored_with_where_it_came_from(
    gateway: Gateway, document: Path
) -> None:
    found = result(document)

    assert found["problem"] is None
    assert found["after"]["validation_dice_mean"] > found["before"]["validation_dice_mean"]
    assert len(found["test_cases"]) == found["cases"]["test"]
    history = iodeep_here("model", "history", LINE, gateway.address, "--graph", "--json")
    assert history.returncode == 0, history.stderr
    assert found["branch"] in history.stdout
    verified = iodeep_here("model", "verify", LINE, gateway.address)
    assert verified.returncode == 0, verified.stderr
    assert "EVALUATION" in verified.stdout
    promoted = iodeep_here(
        "model", "promote", LINE, gateway.address, "--branch", found["branch"],
        "--key", document.with_name("site.key"),
    )  # fmt: skip
    assert promoted.returncode == 0, promoted.stderr


def test_the_same_again_is_the_same_version(document: Path, tmp_path: Path) -> None:
    first = result(document)
    (tmp_path / "site" / "work" / "finetune").rename(tmp_path / "away")
    again = result(document, apart=True)
    assert (again["version"], again["weights_digest"]) == (
        first["version"], first["weights_digest"],
    )  # fmt: skip


def test_after_a_kill_it_goes_on_to_the_same_weights(document: Path, tmp_path: Path) -> None:
    work = subprocess.Popen(
        [IODEEP, "site", "finetune", document, LINE, *FAST],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    folder = tmp_path / "site" / "work" / "finetune"
    while work.poll() is None and not list(folder.glob("*/history.json")):
        time.sleep(0.01)
    work.send_signal(signal.SIGKILL)
    work.wait()
    done = len(json.loads(next(folder.glob("*/history.json")).read_text()))
    killed = result(document, apart=True)
    assert 0 < done < len(killed["epochs"])
    folder.rename(tmp_path / "away")
    assert killed["weights_digest"] == result(document)["weights_digest"]


def test_what_is_no_better_is_not_stored_and_says_why(gateway: Gateway, document: Path) -> None:
    found = result(document, "least_gain=0.99")
    assert found["version"] is None
    assert "the site asks for at least 0.99 more" in found["problem"]
    said = run(document, *FAST, "least_gain=0.99").stdout
    assert "not stored" in said


def test_it_stops_when_validation_gets_no_better(document: Path) -> None:
    found = result(document, "training.optimizer.lr=1e-9", "epochs=20", "patience=2")
    assert found["stopped"] == "no better for 2 epochs"
    assert len(found["epochs"]) < 20


def test_what_diverges_keeps_the_best_until_then(document: Path) -> None:
    found = result(document, "training.optimizer.lr=1e30", "training.optimizer.name=sgd")
    assert "diverged" in found["stopped"]


@pytest.mark.parametrize("layers", ["head", "normalisation"])
def test_only_some_layers_learn(layers: str, document: Path, gateway: Gateway) -> None:
    if layers == "normalisation":  # instance normalisation of this network has no parameters
        done = run(document, *FAST, f"layers={layers}")
        assert done.returncode == 1
        assert "leaves nothing to train" in done.stderr
        return
    found = result(document, f"layers={layers}")
    assert found["epochs"]


def test_too_few_cases_are_an_error(document: Path) -> None:
    text = document.read_text()
    document.write_text(text.replace("validation = 0.3", "validation = 0.0"))
    done = run(document, *FAST)
    assert done.returncode == 1
    assert "no case to validate" in done.stderr
    text = text.replace("[[policy.trust]]", "[policy]\nmin_studies = 50\n[[policy.trust]]")
    document.write_text(text)
    done = run(document, *FAST)
    assert done.returncode == 1
    assert "its policy asks for 50" in done.stderr


def test_an_unknown_key_names_the_nearest(document: Path) -> None:
    done = run(document, "epoch=3")
    assert done.returncode != 0
    assert "epochs" in done.stderr


def test_the_head_is_the_last_layer_and_the_others_stay() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Conv3d(2, 3, 1))
    assert train_only(network, "head") == 9
    assert [p.requires_grad for p in network.parameters()] == [False] * 4 + [True] * 2
    assert train_only(network, "normalisation") == 4
    assert train_only(network, "all") == 4 + 4 + 9
    with pytest.raises(ModelError, match="leaves nothing to train"):
        train_only(nn.Sequential(nn.Conv3d(1, 2, 1)), "normalisation")


def test_a_damaged_history_starts_anew(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    for number, validation in ((1, 0.5), (2, 0.7), (3, 0.6)):
        weights = {"a": torch.full((2,), float(number))}
        progress.add(Epoch(number=number, loss=1.0, validation=validation), weights)
    again = Progress(tmp_path)
    assert again.epochs == progress.epochs
    assert again.best is not None
    assert again.best.number == 2
    assert again.best_weights()["a"].tolist() == [2, 2]
    assert again.last_weights()["a"].tolist() == [3, 3]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    next(tmp_path.glob("*best*")).write_bytes(b"damaged")
    assert Progress(tmp_path).epochs == ()
