"""Weights from a file that somebody trained elsewhere: safetensors, or torch's own format.

A torch checkpoint is a pickle. It is read with ``weights_only=True`` in a process of its own, which
is limited in memory and time, and comes back as safetensors: nothing of it runs here.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from federation.errors import CodecError, ConfigError, ModelError
from federation.iodeep.weights import FileRange, Tensor, part_chunks, read_part

MAX_SECONDS = 300
"""Of processor time, to read a torch checkpoint."""

_SAFETENSORS = ".safetensors"
_EXTRA_BYTES = 2**29  # what reading may take besides the weights themselves
_COPIES = 3  # of the weights: in the file, in memory, and one while converting
_SHARED = 2  # times the file's size that tensors may have, as some share their memory
_NAMES = ("state_dict", "model_state_dict", "model", "network")


def read_checkpoint(path: Path, scratch: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, as ranges of a file; nothing is held in memory.

    Those of a torch checkpoint keep its order. ``scratch`` is where one is converted to; it must
    stay while they are used. The state dict is the checkpoint itself, or what it holds under one of
    the usual names. Raises :class:`ConfigError` for a file that cannot be read, :class:`CodecError`
    for what is no whole state dict of plain tensors, and for a pickle that wants anything else.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix == _SAFETENSORS:
        return read_part(FileRange(path=path, offset=0, nbytes=size))
    converted = scratch / "checkpoint.safetensors"
    command = [sys.executable, "-P", "-m", __name__, str(path), str(converted)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stdout.decode("ascii", "replace").strip() if done.returncode == 1 else ""
        raise CodecError(
            f"{path.name} is no checkpoint that can be read safely: "
            + (said or "reading it took more memory or time than its size allows")
            + ". Expected a state dict of tensors, written by torch.save or as safetensors"
        )
    tensors = read_part(FileRange(path=converted, offset=0, nbytes=converted.stat().st_size))
    return {name: tensors[name] for name in json.loads(done.stdout)}


def _convert(source: Path, target: Path) -> None:
    """What the process of its own does. Raises :class:`CodecError`."""
    import torch

    size = source.stat().st_size
    _limit(size)
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever an unpickler raises on bytes from outside
        raise CodecError(f"torch refuses it ({type(error).__name__})") from error
    from federation.networks.state import tensor_of

    tensors = {name: tensor_of(name, value) for name, value in _state_dict(loaded).items()}
    held = sum(tensor.nbytes for tensor in tensors.values())
    if held > _SHARED * size:
        raise CodecError(f"it has {held} bytes of tensors in a file of {size}")
    with target.open("wb") as file:
        for chunk in part_chunks(tensors):
            file.write(chunk)
    print(json.dumps(list(tensors)))  # the file has an order of its own


def _state_dict(loaded: object) -> dict[str, object]:
    for name in _NAMES:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping) or not loaded:
        raise CodecError(f"it holds a {type(loaded).__name__:.40}, no state dict")
    if unlike := [key for key in loaded if not isinstance(key, str)]:
        raise CodecError(f"its state dict has {len(unlike)} names that are no text")
    return dict(loaded)


def _limit(size: int) -> None:
    import psutil

    memory = psutil.Process().memory_info().vms + _COPIES * size + _EXTRA_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))


if __name__ == "__main__":
    try:
        _convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except (CodecError, ModelError) as error:
        print(ascii(str(error))[1:-1])
        sys.exit(1)
    except MemoryError:
        sys.exit(2)
    except Exception as error:  # whatever torch says of tensors that are none
        print(f"its tensors cannot be converted ({type(error).__name__})")
        sys.exit(1)
