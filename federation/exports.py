"""A version as other software takes it: its weights alone, or an object of the original IODeep."""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

from federation.errors import ConfigError, ModelError
from federation.iodeep.architecture import NETWORK_OF_LAYERS
from federation.iodeep.codec import Record
from federation.iodeep.manifest import uid_of
from federation.iodeep.original import MAX_WEIGHTS_BYTES, write_original
from federation.iodeep.regions import body_part
from federation.iodeep.weights import part_chunks


def export_weights(record: Record, target: Path) -> None:
    """Write a version's weights as one safetensors file, a chunk at a time.

    Raises :class:`ConfigError` where the file is there already or cannot be written.
    """

    def write(path: Path) -> None:
        with path.open("wb") as file:
            for chunk in part_chunks(record.tensors()):
                file.write(chunk)

    _write_whole(target, write)


def export_original(record: Record, target: Path) -> None:
    """Write a version as an object in which the original IODeep's reader finds its elements.

    Raises :class:`ModelError` for a network that their layer JSON cannot express,
    :class:`ConfigError` as :func:`export_weights` does.
    """
    import torch

    from federation.networks import build_network, load_tensors

    version, stamp = record.version, record.stamp
    if version.architecture.network != NETWORK_OF_LAYERS:
        raise ModelError(
            f"network {version.architecture.network} cannot be written in the original authors' "
            f"layer JSON; only {NETWORK_OF_LAYERS} can. Export the weights alone instead"
        )
    if sum(part.bytes for part in version.weights.parts) > MAX_WEIGHTS_BYTES // 4 * 3:
        raise ModelError("the weights are more than one element of the original's form can hold")
    network = build_network(version.architecture)
    load_tensors(network, record.tensors())
    saved = io.BytesIO()
    torch.save(network.state_dict(), saved)

    def write(path: Path) -> None:
        write_original(
            path,
            document=version.architecture.arguments,
            weights=saved.getvalue(),
            name=version.line.slug,
            modality=version.line.modality,
            body_part=body_part(version.line.region) or "",
            uid=uid_of(f"{version.canonical.decode()}#original"),
            study=(stamp.study_date, stamp.study_time),
        )

    _write_whole(target, write)


def _write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """The file is there when it is whole, or not at all."""
    if target.exists():
        raise ConfigError(f"{target} is there already; name another file")
    try:
        with tempfile.TemporaryDirectory(prefix=".iodeep-", dir=target.parent) as folder:
            path = Path(folder) / target.name
            write(path)
            path.replace(target)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
