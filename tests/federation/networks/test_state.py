"""A module's state leaves and returns bit for bit, or not at all."""

import hashlib

import pytest
import torch
from torch import nn

from federation.errors import ModelError
from federation.iodeep.weights import Tensor
from federation.networks import load_tensors, tensors_of


def mixed_module(seed: int) -> nn.Module:
    """Floats of every width, an int64 counter, a mask, an empty and a non-contiguous tensor."""
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2), nn.Linear(2, 3).bfloat16())
    with torch.no_grad():
        for value in module.state_dict().values():
            value.copy_(torch.randn(value.shape, generator=generator) * 100)
    module.register_buffer("mask_values", torch.rand(5, generator=generator) > 0.5)
    module.register_buffer("half_values", torch.randn(2, 2, generator=generator).half())
    module.register_buffer("double_values", torch.randn(2, 2, generator=generator).double())
    module.register_buffer("empty_values", torch.zeros(0, 4))
    module.register_buffer("turned_values", torch.randn(3, 4, generator=generator).T)
    return module


def digests(module: nn.Module) -> dict[str, tuple[str, tuple[int, ...], str]]:
    return {
        name: (tensor.dtype, tensor.shape, hashlib.sha256(tensor.data).hexdigest())
        for name, tensor in tensors_of(module).items()
    }


def test_state_goes_through_bytes_bit_for_bit():
    source, target = mixed_module(1), mixed_module(2)
    carried = {
        name: Tensor(dtype=t.dtype, shape=t.shape, pieces=(memoryview(bytes(t.data)),))
        for name, t in tensors_of(source).items()
    }

    load_tensors(target, carried)

    assert digests(target) == digests(source)
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


def test_tensors_have_the_names_dtypes_and_bytes_of_safetensors():
    module = nn.BatchNorm3d(2)
    module.num_batches_tracked.fill_(258)
    tensors = tensors_of(module)

    assert tensors["num_batches_tracked"].dtype == "I64"
    assert tensors["num_batches_tracked"].shape == ()
    assert bytes(tensors["num_batches_tracked"].data) == b"\x02\x01\0\0\0\0\0\0"
    assert bytes(tensors["weight"].data) == b"\0\0\x80\x3f" * 2


def test_tensors_of_the_cpu_are_views_and_need_no_copy():
    module = nn.Linear(1, 1)
    tensors = tensors_of(module)
    with torch.no_grad():
        module.weight.fill_(1.0)
    assert bytes(tensors["weight"].data) == b"\0\0\x80\x3f"


def test_load_takes_bytes_that_are_misaligned_and_read_only():
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    data = b"x" + bytes(tensors_of(source)["weight"].data)
    tensors = tensors_of(source)
    tensors["weight"] = Tensor(dtype="F32", shape=(2, 3), pieces=(memoryview(data)[1:],))

    load_tensors(target, tensors)

    assert torch.equal(target.weight, source.weight)


def test_load_summarises_all_that_does_not_fit_and_changes_nothing():
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    before = digests(module)
    tensors = tensors_of(nn.Sequential(*(nn.Linear(2, 2) for _ in range(4))))
    for layer in range(4):
        tensors[f"other.{layer}"] = tensors.pop(f"{layer}.bias")
    tensors["0.weight"] = Tensor(dtype="F32", shape=(4, 1), pieces=(tensors["0.weight"].data,))
    tensors["1.weight"] = Tensor(dtype="I32", shape=(2, 2), pieces=(tensors["1.weight"].data,))

    with pytest.raises(ModelError) as refusal:
        load_tensors(module, tensors)

    assert str(refusal.value) == (
        "weights do not fit the network: "
        "4 missing: 0.bias, 1.bias, 2.bias and 1 more; "
        "4 unknown: 'other.0', 'other.1', 'other.2' and 1 more; "
        "2 of another dtype or shape: 0.weight (F32 [4, 1], expected F32 [2, 2]), "
        "1.weight (I32 [2, 2], expected F32 [2, 2])"
    )
    assert digests(module) == before


def test_state_of_an_unknown_dtype_is_refused():
    module = nn.Linear(1, 1)
    module.register_buffer("spectrum", torch.zeros(1, dtype=torch.complex64))
    with pytest.raises(ModelError, match="spectrum"):
        tensors_of(module)
