"""A folder tree of DICOM files into an archive, as it is: images, and what labels them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from federation.errors import ConfigError, StorageError
from federation.pacs import Gateway
from federation.pacs.attributes import read_attributes
from federation.pacs.part10 import check_even, read_meta

_DIRECTORY = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage: DICOMDIR
_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeFile:
    """A file of the tree, and what it is; or, with a ``problem``, why it was not stored.

    instance, study: their UIDs
    """

    path: Path
    modality: str = ""
    instance: str = ""
    study: str = ""
    problem: str = ""


def files_below(folder: Path) -> list[Path]:
    """Every file, in an order that does not change; links are not followed, nor pipes read.

    Raises :class:`~federation.errors.ConfigError` where a folder cannot be read: what is in it
    would be missing, and nobody would know.
    """
    return sorted(
        path
        for home, _, names in os.walk(folder, onerror=_refuse)
        for name in names
        if (path := Path(home, name)).is_file() and not path.is_symlink()
    )


def import_tree(paths: Sequence[Path], gateway: Gateway) -> Iterator[TreeFile]:
    """Store files, yielding what became of each as soon as it is known.

    What is no whole DICOM instance, and what the archive does not take, is passed over. Importing
    again is safe. Raises :class:`~federation.errors.PacsError` for an archive that fails otherwise.
    """
    is_sent = not gateway.address.startswith("folder:")
    for first in range(0, len(paths), _BATCH):
        looked_at = [_look_at(path, is_sent=is_sent) for path in paths[first : first + _BATCH]]
        good = [one.path for one in looked_at if not one.problem]
        try:
            if good:  # an archive has no answer to the question whether it has nothing
                gateway.store(good)
                gateway.confirm(good)
        except StorageError:  # one by one: only some of them may be at fault
            yield from (one if one.problem else _stored(one, gateway) for one in looked_at)
        else:
            yield from looked_at


def _stored(one: TreeFile, gateway: Gateway) -> TreeFile:
    try:
        gateway.store([one.path])
        gateway.confirm([one.path])
    except StorageError as error:
        return replace(one, problem=str(error))
    return one


def _look_at(path: Path, *, is_sent: bool) -> TreeFile:
    """Reads the file to its end, pixels stepped over: an archive may take half an instance."""
    try:
        if read_meta(path).sop_class == _DIRECTORY:
            return TreeFile(path=path, problem="a DICOMDIR, which lists others")
        row = read_attributes(path)
        if is_sent:
            check_even(path)
    except StorageError as error:
        return TreeFile(path=path, problem=str(error))
    if not row["Modality"]:
        return TreeFile(path=path, problem="an instance without Modality")
    return TreeFile(
        path=path,
        modality=row["Modality"],
        instance=row["SOPInstanceUID"],
        study=row["StudyInstanceUID"],
    )


def _refuse(error: OSError) -> NoReturn:
    raise ConfigError(
        f"{error.filename} cannot be read: {error.strerror}; nothing was stored"
    ) from error
