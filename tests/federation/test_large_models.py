"""A model larger than the memory one would give it, into the embedded archive and out of it.

Client and server are processes of their own, and each one's growth is measured from when it is up
and has answered a C-ECHO: its anonymous memory (RssAnon, proc(5)), looked at 200 times a second.
That is what a process holds itself, on its heap and stacks. Pages of files that are mapped, or
cached by the kernel, are not counted: the kernel takes them back when anybody needs room.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.measure import begin_when_ready, when_told
from benchmarks.weights import make_weights, tensors_in
from federation.iodeep.codec import Record
from federation.iodeep.labels import Line
from federation.iodeep.weights import weights_digest
from federation.pacs import open_gateway
from federation.registry import Registry
from tests.federation.iodeep.records import LINE, version
from tests.federation.pacs.embedded.test_archive import address_of, end, serve

MAX_GROWTH_BYTES = 50 * 10**6


@pytest.mark.parametrize(
    ("nbytes", "part_bytes", "free_bytes"),
    [
        (64_000_000, 8 * 2**20, 10**9),
        pytest.param(
            2_300_000_000,
            256 * 2**20,
            12 * 10**9,
            marks=[pytest.mark.soak, pytest.mark.timeout(1800)],
        ),
    ],
    ids=["64 MB", "2.3 GB"],
)
def test_a_large_model_goes_through_an_archive_bit_for_bit_in_little_memory(
    tmp_path: Path, nbytes: int, part_bytes: int, free_bytes: int
) -> None:
    free = shutil.disk_usage(tmp_path).free
    if free < free_bytes:
        pytest.skip(
            f"{free / 1e9:.1f} GB are free in {tmp_path}; {free_bytes / 1e9:.0f} are needed"
        )
    weights = tmp_path / "weights"
    make_weights(weights, nbytes)
    server = serve(tmp_path / "archive")
    try:
        of_client, of_server = go_through(address_of(server), weights, part_bytes, LINE, server.pid)
    finally:
        assert end(server) == 0
        for folder in ("archive", "scratch"):  # pytest keeps the folders of its last runs
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
    weights.unlink()
    print(f"client {of_client / 1e6:.1f} MB, server {of_server / 1e6:.1f} MB")
    assert of_client < MAX_GROWTH_BYTES
    assert of_server < MAX_GROWTH_BYTES


def go_through(
    address: str, weights: Path, part_bytes: int, line: Line, *servers: int
) -> list[int]:
    """Publish and pull a file's bytes as weights, in a process of its own, and compare.

    Gives how many bytes that process grew, and each of ``servers``, by their process ids.
    """
    written = tensors_in(weights, block_bytes=weights.stat().st_size // 40)
    command = [
        sys.executable,
        "-m",
        __name__,
        address,
        str(weights),
        str(part_bytes),
        str(line),
    ]
    with begin_when_ready(command, *servers) as (client, growth):
        said, _ = client.communicate()
    assert client.returncode == 0
    pulled = json.loads(said)
    assert pulled["tensors"] == {name: tensor.sha256() for name, tensor in written.items()}
    assert pulled["digest"] == weights_digest(written)
    assert pulled["seen"] == pulled["named"]
    assert sum(size for size, _ in pulled["seen"]) > weights.stat().st_size * 0.999
    assert pulled["pieces"] >= 2 or weights.stat().st_size // 4 < part_bytes
    return [one.bytes for one in growth]


def client(address: str, weights: str, part_bytes: str, of: str) -> None:
    """Publish and pull; what is printed was computed anew from the bytes that came back."""
    source, line = Path(weights), Line.parse(of)
    tensors = tensors_in(source, block_bytes=source.stat().st_size // 40)
    with open_gateway(address) as gateway:
        registry = Registry(gateway, scratch=source.parent / "scratch")
        gateway.echo()
        when_told()
        manifest, parts = version(tensors, line=line, part_bytes=int(part_bytes))
        registry.publish(manifest, parts)
    del manifest, parts
    with open_gateway(address) as gateway:
        registry = Registry(gateway, scratch=source.parent / "scratch")
        with registry.pull(registry.latest(line, "main")) as record:
            print(json.dumps(digests(record)))


def digests(record: Record) -> dict[str, object]:
    found = record.tensors()
    seen = []
    for part in record.parts:
        digest = hashlib.sha256()
        for chunk in part.chunks():
            digest.update(chunk)
        seen.append((part.nbytes, digest.hexdigest()))
    return {
        "tensors": {name: tensor.sha256() for name, tensor in found.items()},
        "digest": weights_digest(found),
        "seen": seen,
        "named": [(part.bytes, part.sha256) for part in record.version.weights.parts],
        "pieces": len(found["embedding.weight"].pieces),
    }


if __name__ == "__main__":
    client(*sys.argv[1:])
