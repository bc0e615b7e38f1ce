"""Instances on their way out of the embedded archive's files, in C-GET and C-MOVE."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pynetdicom import evt

from federation.pacs.embedded.archive import StoredInstance

PENDING = 0xFF00
CANCEL = 0xFE00


class _Stored(Dataset):
    """Stands for an instance in a file: pynetdicom's services want a Dataset to pass on."""

    path: Path


def sent(found: list[StoredInstance], event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
    """What a retrieve service's handler yields for each instance, until the peer cancels."""
    for instance in found:
        if event.is_cancelled:
            yield CANCEL, None
            return
        stored = _Stored()
        stored.SOPInstanceUID = instance.uid
        object.__setattr__(stored, "path", instance.path)
        yield PENDING, stored


def send_from_files(event: evt.Event) -> None:
    """Handler of EVT_ESTABLISHED: let the association send what :func:`sent` yields from its file.

    pynetdicom's retrieve services pass datasets to ``send_c_store``, which takes a path as
    well; in between they insist on a Dataset.
    """
    association = event.assoc
    send = association.send_c_store

    def send_c_store(dataset: Any, *args: Any, **kwargs: Any) -> Dataset:
        source = dataset.path if isinstance(dataset, _Stored) else dataset
        return send(source, *args, **kwargs)

    association.send_c_store = send_c_store  # type: ignore[method-assign]
