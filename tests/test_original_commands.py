"""`iodeep import original` and `iodeep model export`: the original's objects in and out again."""

import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from federation.cli import build
from federation.errors import CodecError, ConfigError, ModelError
from federation.iodeep.architecture import Architecture
from federation.iodeep.original import write_original
from federation.networks import build_network
from federation.pacs import Archive, ArchiveServer
from tests.federation.networks.documents import UNET, document
from tests.federation.networks.test_checkpoint import Hostile

SHARED = Path(__file__).parents[2] / "shared" / "data" / "original-iodeep"
LINE = "MR/head/-/unet"
SMALL_UNET = {**UNET, "convolutional": {f"cn{n}": n + 1 if n < 10 else 1 for n in range(1, 11)}}


@pytest.fixture
def pacs(tmp_path: Path):
    with (
        Archive(tmp_path / "archive") as archive,
        ArchiveServer(archive, ae_title="PEER") as server,
    ):
        yield server.address


def iodeep(*words: object) -> Result:
    return CliRunner().invoke(build(), [str(word) for word in words])


def original(path: Path, document: dict[str, Any], state: Any, name: str = "unet") -> Path:
    torch.save(state, path.with_suffix(".pt"))
    write_original(
        path, document=document, weights=path.with_suffix(".pt").read_bytes(), name=name,
        modality="MR", body_part="HEAD", uid="2.25.8", study=("20250101", "120000"),
    )  # fmt: skip
    return path


@pytest.mark.skipif(not SHARED.exists(), reason="no original-iodeep in shared data")
def test_the_authors_sample_comes_in_with_exactly_its_weights(tmp_path: Path, pacs: str) -> None:
    done = iodeep("import", "original", SHARED / "unet_mri_head.dcm", pacs, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    out = tmp_path / "out.safetensors"
    assert iodeep("model", "export", facts["line"], pacs, out).exit_code == 0
    with (
        safe_open(out, "pt") as ours,
        safe_open(SHARED / "unet_mri_head.safetensors", "pt") as they,
    ):
        assert set(ours.keys()) == set(they.keys())
        for name in set(they.keys()):
            assert ours.get_tensor(name).dtype == they.get_tensor(name).dtype
            assert torch.equal(ours.get_tensor(name), they.get_tensor(name))
    assert iodeep("model", "verify", facts["line"], pacs).exit_code == 0


def test_a_unet_goes_out_and_comes_in_again(tmp_path: Path, pacs: str) -> None:
    network = build_network(Architecture(network="iodeep.layers", arguments=SMALL_UNET), seed=5)
    first = original(tmp_path / "a.dcm", SMALL_UNET, network.state_dict())
    came = iodeep("import", "original", first, pacs, "--label", "1=tumor", "--json")
    assert came.exit_code == 0, came.output
    out = tmp_path / "b.dcm"
    assert iodeep("model", "export", LINE, pacs, out, "--original").exit_code == 0
    again = iodeep("import", "original", out, pacs, "--branch", "again", "--json")
    assert json.loads(again.stdout)["weights_digest"] == json.loads(came.stdout)["weights_digest"]
    shown = json.loads(iodeep("model", "show", LINE, pacs, "--branch", "again", "--json").stdout)
    assert shown["manifest"]["architecture"]["arguments"] == SMALL_UNET
    assert shown["manifest"]["preprocessing"] is None


@pytest.mark.parametrize(
    ("extra", "renaming"),
    [
        ({}, lambda name: "net." + name.replace("0.0.", "double_conv.first.")),
        ({"upsample": {"upsample": "transposed"}, "bias": {"bias": False}}, lambda name: name),
    ],
    ids=["other names in the same order", "readings that the document leaves open"],
)
def test_states_of_other_software_find_their_places(tmp_path, pacs, extra, renaming):
    widths = {f"cn{n}": 2 * n if n < 10 else 1 for n in range(1, 11)}
    arguments = {**SMALL_UNET, "convolutional": widths}
    network = build_network(
        Architecture(network="iodeep.layers", arguments={**arguments, **extra}), seed=5
    )
    state = OrderedDict((renaming(name), value) for name, value in network.state_dict().items())
    path = original(tmp_path / "a.dcm", arguments, state)
    done = iodeep("import", "original", path, pacs)
    assert done.exit_code == 0, done.output
    iodeep("model", "export", LINE, pacs, tmp_path / "out.safetensors")
    loaded = load_file(tmp_path / "out.safetensors")
    for name, value in network.state_dict().items():
        assert torch.equal(loaded[name], value)


@pytest.mark.parametrize(
    "names",
    [
        ["net.2.weight", "net.2.bias", "net.0.weight", "net.0.bias"],
        ["conv10.weight", "conv10.bias", "conv2.weight", "conv2.bias"],
    ],
)
def test_an_order_that_the_names_contradict_is_not_followed(tmp_path, pacs, names):
    layers = document(
        ["cnn2d", "cnn2d"], {"input_shape0": 8, "input_shape1": 8, "input_shape2": 4},
        convolutional={"cn1": 4, "cn2": 4}, kernel={"kernel1": 3, "kernel2": 3},
    ).arguments  # fmt: skip
    shapes = [(4, 4, 3, 3), (4,)] * 2
    state = {name: torch.zeros(shape) for name, shape in zip(names, shapes, strict=True)}
    done = iodeep("import", "original", original(tmp_path / "a.dcm", layers, state), pacs)
    assert isinstance(done.exception, ModelError)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--label", "1="], 1),
        (["--label", "1=é"], 1),
        (["--label", "9" * 5000 + "=x"], 1),
        (["--label", "2=x"], 1),
        (["--label", "1=x", "--label", "1=y"], 1),
        (["--branch", "é b"], 2),
        (["--branch", ""], 2),
        (["--line", "MR/nowhere/-/x"], 1),
    ],
)
def test_wrong_words_are_one_clear_sentence(tmp_path, pacs, words, code):
    path = original(tmp_path / "a.dcm", SMALL_UNET, {"0.weight": torch.zeros(1)})
    done = iodeep("import", "original", path, pacs, *words)
    assert (code == 2 and done.exit_code == 2) or isinstance(done.exception, ConfigError)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"0.weight": torch.zeros(1)}, ModelError, "do not fit the network"),
        ([torch.zeros(1)], CodecError, "no state dict"),
        ({}, CodecError, "no state dict"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, pacs, state, error, message):
    path = original(tmp_path / "a.dcm", SMALL_UNET, state)
    done = iodeep("import", "original", path, pacs)
    assert isinstance(done.exception, error)
    assert re.search(message, str(done.exception))
    assert iodeep("model", "list", pacs, "--json").stdout.strip() == "[]"


def test_a_hostile_object_is_refused_and_nothing_runs(tmp_path: Path, pacs: str) -> None:
    touched = tmp_path / "touched"
    path = original(tmp_path / "a.dcm", SMALL_UNET, {"0.0.weight": Hostile(touched)})
    done = iodeep("import", "original", path, pacs)
    assert isinstance(done.exception, CodecError)
    assert not touched.exists()


def test_what_the_layer_json_cannot_say_is_not_exported(tmp_path: Path, pacs: str) -> None:
    config = Path(__file__).parents[1] / "configs" / "phantom.toml"
    assert iodeep("model", "pack", config, pacs).exit_code == 0
    line = "MR/brain/-/phantom-unet"
    done = iodeep("model", "export", line, pacs, tmp_path / "a.dcm", "--original")
    assert isinstance(done.exception, ModelError)
    assert "monai.UNet" in str(done.exception)
    assert not (tmp_path / "a.dcm").exists()
    out = tmp_path / "a.safetensors"
    assert iodeep("model", "export", line, pacs, out, "--round", "0", "--json").exit_code == 0
    assert "already" in str(iodeep("model", "export", line, pacs, out).exception)
    assert iodeep("model", "export", line, pacs, tmp_path / "a.txt").exit_code == 2


def test_a_document_of_layers_is_packed_untrained(tmp_path: Path, pacs: str) -> None:
    sections = "\n".join(
        f"[model.architecture.{name}]\n" + "\n".join(f"{k} = {v!r}" for k, v in section.items())
        for name, section in document(
            ["cnn2d", "relu"], {"input_shape0": 8, "input_shape1": 8, "input_shape2": 1},
            convolutional={"cn1": 4}, kernel={"kernel1": 3},
        ).arguments.items()
    )  # fmt: skip
    config = tmp_path / "layers.toml"
    config.write_text(
        'name = "layers"\nrounds = 1\nseed = 1\n[model]\nline = "MR/head/-/layers"\n'
        'labels = { 1 = "tumor" }\n'
        f'[model.architecture]\nnetwork = "iodeep.layers"\n{sections}\n[federation]\n'
        'sites = ["A"]\nquorum = 1\n'
    )
    done = iodeep("model", "pack", config, pacs)
    assert done.exit_code == 0, done.exception
    assert "40 parameters" in done.stdout
    refused = iodeep("run", config, "data=phantom", "--out", tmp_path / "run")
    assert "takes none" in str(refused.exception)
    assert not (tmp_path / "run").exists()
