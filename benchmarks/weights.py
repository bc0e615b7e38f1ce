"""Weights of any size in a file, which no process has to hold."""

from pathlib import Path

import numpy as np

from federation.iodeep.weights import FileRange, Tensor

_CHUNK_BYTES = 2**20
_COLUMNS = 1000
_ROW_BYTES = 4 * _COLUMNS


def make_weights(path: Path, nbytes: int) -> None:
    """That many pseudo-random bytes, a chunk at a time."""
    draw = np.random.default_rng(nbytes)
    with path.open("wb") as file:
        for begin in range(0, nbytes, _CHUNK_BYTES):
            file.write(draw.bytes(min(_CHUNK_BYTES, nbytes - begin)))


def tensors_in(path: Path, block_bytes: int = 50_000_000) -> dict[str, Tensor]:
    """A file as a model: one tensor of a quarter of it, and blocks; nothing is read."""
    nbytes = path.stat().st_size
    large = nbytes // 4 // _ROW_BYTES * _ROW_BYTES
    tensors = {"embedding.weight": _rows(FileRange(path=path, offset=0, nbytes=large))}
    begin = large
    while nbytes - begin >= _ROW_BYTES:
        size = min(block_bytes, nbytes - begin) // _ROW_BYTES * _ROW_BYTES
        found = FileRange(path=path, offset=begin, nbytes=size)
        tensors[f"block.{len(tensors):03d}.weight"] = _rows(found)
        begin += size
    return tensors


def _rows(found: FileRange) -> Tensor:
    return Tensor(dtype="F32", shape=(found.nbytes // _ROW_BYTES, _COLUMNS), pieces=(found,))
