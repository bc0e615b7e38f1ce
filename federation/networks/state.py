"""A module's state as plain tensors and back, bit for bit."""

import re
import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from federation.errors import ModelError
from federation.iodeep.weights import Tensor

_NAMES: Mapping[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}

_SHOWN = 3  # of each kind of problem; a message stays readable with a thousand of them


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's parameters and persistent buffers, in the order of its state dict.

    Bytes of contiguous tensors on the CPU are views of the module's own memory: they change
    when it trains, so copy what must stay. Others are copied once. Raises
    :class:`ModelError` for a state of another kind, such as a quantised one.
    """
    return {name: tensor_of(name, value) for name, value in _state(module).items()}


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the module the values of ``tensors``, each copied once, straight into place.

    Raises :class:`ModelError`, the module untouched, unless names, shapes and dtypes are
    exactly those of its state.
    """
    state = check_state(module, tensors)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # it is only read
        for name, target in state.items():
            if target.device.type == "cpu" and target.is_contiguous():
                _copy(tensors[name], target)
            else:
                source = torch.empty(target.shape, dtype=target.dtype)
                _copy(tensors[name], source)
                target.copy_(source)


def check_state(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, torch.Tensor]:
    """The module's state, whose names, shapes and dtypes are exactly those of ``tensors``.

    Raises :class:`ModelError` where they are not.
    """
    state = _state(module)
    problems = _problems(state, tensors)
    if problems:
        raise ModelError(f"weights do not fit the network: {'; '.join(problems)}")
    return state


def renamed_in_order(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the module's names where, in order, they are of the same kinds; else as given.

    A kind is the last word of a name: ``weight``, ``bias``, ``running_mean``. An order which the
    numbers in their own names contradict, such as an alphabetical one, is not followed.
    """
    names = list(module.state_dict())
    alike = [name.rpartition(".")[2] for name in tensors] == [
        name.rpartition(".")[2] for name in names
    ]
    if set(names) == tensors.keys() or not alike or not _in_order(tensors):
        return dict(tensors)
    return dict(zip(names, tensors.values(), strict=True))


def _in_order(names: Iterable[str]) -> bool:
    """Whether among names alike but for their numbers, the numbers never fall."""
    last: dict[str, list[int]] = {}
    for name in names:
        words = re.split(r"(\d{1,18})", name, flags=re.ASCII)
        template, numbers = "#".join(words[::2]), [int(word) for word in words[1::2]]
        if numbers < last.get(template, numbers):
            return False
        last[template] = numbers
    return True


def tensor_of(name: str, value: object) -> Tensor:
    """One value of a state dict; a view of its memory where that is contiguous and on the CPU.

    Raises :class:`ModelError` where it is no dense tensor of a known dtype.
    """
    dense = _dense(name, value).detach().cpu().contiguous()
    return Tensor(dtype=_NAMES[dense.dtype], shape=tuple(dense.shape), pieces=(_bytes(dense),))


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: _dense(name, value) for name, value in module.state_dict().items()}


def _dense(name: str, value: object) -> torch.Tensor:
    if (
        not isinstance(value, torch.Tensor)
        or value.layout != torch.strided
        or value.dtype not in _NAMES
    ):
        raise ModelError(f"{name!r:.80} in the network's state is no tensor of a known dtype")
    return value


def _bytes(value: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU; through uint8, as numpy has no bfloat16."""
    return value.view(-1).view(torch.uint8).numpy().data


def _copy(tensor: Tensor, target: torch.Tensor) -> None:
    """As bytes, since they may lie anywhere in a file; torch copies with all its threads."""
    room = target.view(-1).view(torch.uint8)
    for view in tensor.views():
        if view.nbytes:
            room[: view.nbytes].copy_(torch.frombuffer(view, dtype=torch.uint8))
            room = room[view.nbytes :]


def _problems(state: Mapping[str, torch.Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in state if name not in tensors]
    unknown = [f"{name!r:.80}" for name in tensors if name not in state]
    unlike = []
    for name in state.keys() & tensors.keys():
        seen = (tensors[name].dtype, tensors[name].shape)
        expected = (_NAMES[state[name].dtype], tuple(state[name].shape))
        if seen != expected:
            unlike.append(f"{name} ({_show(*seen)}, expected {_show(*expected)})")
    found = {"missing": missing, "unknown": unknown, "of another dtype or shape": unlike}
    return [_summarise(kind, sorted(names)) for kind, names in found.items() if names]


def _show(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {list(shape)}"


def _summarise(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}"
