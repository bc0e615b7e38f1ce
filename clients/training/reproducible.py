"""The same seed, the same numbers: seeds of messages, and torch held still while it works."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_for(seed: int, site: str, round: int) -> int:
    """The seed of what one site does in one round: 63 bits out of SHA-256.

    A hash, so that neighbouring rounds and sites share no stream, and no order of calls
    matters; the same on every machine and Python.
    """
    digest = hashlib.sha256(f"{seed}/{site}/{round}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def reproducible(*, threads: int, device: torch.device, seed: int = 0) -> Iterator[None]:
    """torch with its random state set to ``seed``, a fixed number of threads, and
    deterministic algorithms; everything is put back afterwards.

    All of these belong to the process: two fits at once need two processes. On CUDA some 3D
    operations have no deterministic algorithm, so there torch only warns of them.
    """
    threads_before = torch.get_num_threads()
    mode_before = torch.get_deterministic_debug_mode()
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode("warn" if cuda else "error")
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode_before)
            torch.set_num_threads(threads_before)
