"""Part 10 files (PS3.10) on their way to an archive: what they are, by their first bytes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydicom import dcmread
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pynetdicom.dsutils import split_dataset

from federation.errors import PacsError, StorageError

_DEFER_BYTES = 1024

_SERIES = Tag("SeriesInstanceUID")

Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceFile:
    """An instance in a file, as its file meta says."""

    uid: str
    sop_class: str
    transfer_syntax: str
    path: Path

    @property
    def kind(self) -> tuple[str, str]:
        """What a presentation context is for."""
        return self.sop_class, self.transfer_syntax


def read_meta(path: Path) -> InstanceFile:
    """Raises :class:`StorageError` for what is no Part 10 file."""

    def read() -> InstanceFile:
        meta, _ = split_dataset(path)
        return InstanceFile(
            uid=str(meta.MediaStorageSOPInstanceUID),
            sop_class=str(meta.MediaStorageSOPClassUID),
            transfer_syntax=str(meta.TransferSyntaxUID),
            path=path,
        )

    return _explained(path, read)


def series_of(path: Path) -> tuple[str, str]:
    """The UIDs of the study and the series a file belongs to; no large value is read.

    Raises :class:`StorageError` for what is no Part 10 file.
    """

    def read() -> tuple[str, str]:
        keywords = ["StudyInstanceUID", "SeriesInstanceUID"]
        ds = dcmread(path, defer_size=_DEFER_BYTES, specific_tags=[*keywords])
        return str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID)

    return _explained(path, read)


def check_asked_for(paths: Mapping[str, Path], *, study: str, series: str, source: str) -> None:
    """Whether each file holds the instance it is called by, of this study and series.

    An archive may send anything; what it said of a patient in an answer is taken to be true of
    these. Raises :class:`PacsError` naming ``source``.
    """
    for uid, path in paths.items():
        try:
            with path.open("rb") as file:
                ds = read_partial(file, stop_when=_after_series, defer_size=_DEFER_BYTES)
            seen = (ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID)
        except Exception as error:  # pydicom raises anything on malformed data
            raise PacsError(
                f"{source} sent a file for instance {uid} that cannot be read as DICOM"
            ) from error
        if seen != (uid, study, series):
            raise PacsError(
                f"{source} sent another instance for {uid}: its data set is not of that UID, "
                "study and series. Nothing of it was kept"
            )


def _after_series(tag: BaseTag, *_: object) -> bool:
    return bool(tag > _SERIES)


def _explained(path: Path, read: Callable[[], Read]) -> Read:
    try:
        return read()
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror}") from error
    except Exception as error:  # pydicom raises anything on malformed data
        raise StorageError(f"{path.name} is no DICOM file, so it was not sent") from error
