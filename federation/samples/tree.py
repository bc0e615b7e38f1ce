"""A folder tree of DICOM files into an archive, as it is: images, and what labels them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import UID

from federation.errors import StorageError
from federation.pacs import Gateway

_HEADER = ("SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "StudyInstanceUID")
_DIRECTORY = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage: DICOMDIR
_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeFile:
    """A file of the tree, and what it is; or, with a ``problem``, why it was not stored."""

    path: Path
    modality: str = ""
    study: str = ""
    problem: str = ""


def files_below(folder: Path) -> list[Path]:
    """Every file, in an order that does not change; links are not followed."""
    return sorted(
        Path(home, name)
        for home, _, names in os.walk(folder)
        for name in names
        if not Path(home, name).is_symlink()
    )


def import_tree(paths: Sequence[Path], gateway: Gateway) -> Iterator[TreeFile]:
    """Store files, yielding what became of each as soon as it is known.

    What is no DICOM instance, and what the archive does not take, is passed over. Importing again
    is safe. Raises :class:`~federation.errors.PacsError` for an archive that fails otherwise.
    """
    for first in range(0, len(paths), _BATCH):
        looked_at = [_look_at(path) for path in paths[first : first + _BATCH]]
        good = [one for one in looked_at if not one.problem]
        try:
            gateway.store([one.path for one in good])
            gateway.confirm([one.path for one in good])
            yield from looked_at
        except StorageError:
            for one in looked_at:  # one by one: only some of them may be at fault
                yield one if one.problem else _stored(one, gateway)


def _stored(one: TreeFile, gateway: Gateway) -> TreeFile:
    try:
        gateway.store([one.path])
        gateway.confirm([one.path])
    except StorageError as error:
        return TreeFile(path=one.path, problem=str(error))
    return one


def _look_at(path: Path) -> TreeFile:
    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER))
        kind = UID(str(dataset.file_meta.MediaStorageSOPClassUID))
    except Exception:  # pydicom raises anything on what is no DICOM
        return TreeFile(path=path, problem="no DICOM file (Part 10)")
    if kind == _DIRECTORY:
        return TreeFile(path=path, problem="a DICOMDIR, which lists others")
    missing = [name for name in _HEADER if name != "PatientID" and not dataset.get(name)]
    if missing:
        return TreeFile(path=path, problem=f"without {', '.join(missing)}")
    return TreeFile(path=path, modality=str(dataset.Modality), study=str(dataset.StudyInstanceUID))
