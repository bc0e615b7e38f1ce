"""Checkpoints from elsewhere: what is a state dict is read, and nothing of a file ever runs."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from federation.errors import CodecError, ConfigError
from federation.networks.checkpoint import read_checkpoint

STATE = OrderedDict(
    {
        "conv.weight": torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0)),
        "conv.half": torch.arange(5).to(torch.bfloat16),
        "norm.count": torch.tensor(7),
        "turned": torch.arange(6.0).reshape(2, 3).T,
    }
)


def values(path: Path, scratch: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (t.dtype, t.shape, bytes(t.data))
        for name, t in read_checkpoint(path, scratch).items()
    }


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model_state_dict"])
def test_torch_s_and_safetensors_files_of_one_state_are_the_same(
    tmp_path: Path, wrapped: str | None
) -> None:
    torch.save({wrapped: STATE, "epoch": 3} if wrapped else STATE, tmp_path / "state.pt")
    contiguous = {name: value.contiguous() for name, value in STATE.items()}
    safetensors.torch.save_file(contiguous, tmp_path / "state.safetensors")
    found = values(tmp_path / "state.pt", tmp_path)
    assert found == values(tmp_path / "state.safetensors", tmp_path)
    assert found["conv.half"][:2] == ("BF16", (5,))
    assert found["norm.count"] == ("I64", (), b"\x07" + b"\0" * 7)


def test_tensors_that_share_their_memory_many_times_are_refused(tmp_path: Path) -> None:
    """A file of a few KB could fill a disk."""
    shared = torch.zeros(2**20)
    torch.save({f"a{number}": shared for number in range(40)}, tmp_path / "state.pt")
    with pytest.raises(CodecError, match="167772160 bytes of tensors in a file of 4"):
        read_checkpoint(tmp_path / "state.pt", tmp_path)
    torch.save({"a": shared, "tied": shared}, tmp_path / "state.pt")
    assert len(read_checkpoint(tmp_path / "state.pt", tmp_path)) == 2


@pytest.mark.parametrize(
    "state",
    [{"\udcff": 1}, {"\x1b[2J\nevil": 1}, {"a": torch.empty(3, device="meta")}, {"é": "x"}],
    ids=range(4),
)
def test_whatever_a_checkpoint_is_called_within_is_one_plain_sentence(
    tmp_path: Path, state: dict[str, Any]
) -> None:
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(CodecError) as caught:
        read_checkpoint(tmp_path / "state.pt", tmp_path)
    assert str(caught.value).isprintable()


class Hostile:
    """Touches a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path: Path, form: str) -> None:
    touched = tmp_path / "touched"
    content = {"conv.weight": torch.ones(2), "x": Hostile(touched)}
    path = tmp_path / "state.pt"
    if form == "bare":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CodecError, match="torch refuses it"):
        read_checkpoint(path, tmp_path)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds a list"),
        ({}, "no state dict"),
        ({1: torch.ones(2)}, "no text"),
        ({"w": "text"}, "no tensor of a known dtype"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "no tensor of a known dtype"),
        ({"w": torch.eye(3).to_sparse()}, "no tensor of a known dtype"),
    ],
    ids=["list", "empty", "numbers as names", "text", "complex", "sparse"],
)
def test_what_is_no_state_dict_of_tensors_is_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(CodecError, match=message):
        read_checkpoint(tmp_path / "state.pt", tmp_path)


def test_a_small_file_that_wants_much_memory_is_stopped(tmp_path: Path) -> None:
    """A tensor of 64 GiB over a storage of one value: it would be written out whole."""
    path = tmp_path / "state.pt"
    torch.save({"w": torch.ones(1).expand(2**34)}, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(CodecError, match="no checkpoint that can be read safely"):
        read_checkpoint(path, tmp_path)


@pytest.mark.parametrize("name", ["state.pt", "state.safetensors"])
def test_damaged_and_absent_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_checkpoint(tmp_path / name, tmp_path)
    (tmp_path / name).write_bytes(b"not a checkpoint at all")
    with pytest.raises(CodecError):
        read_checkpoint(tmp_path / name, tmp_path)
