"""Part 10 files (PS3.10) on their way to an archive or from it: what they say they are."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pynetdicom.dsutils import split_dataset

from federation.errors import PacsError, StorageError
from federation.pacs.gateway import Gateway

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


def check_even(path: Path) -> None:
    """Raises :class:`StorageError` for a data set of an odd length: some archives end the
    association over it, and say nothing."""
    _, begin = _explained(path, partial(split_dataset, path))
    if (length := path.stat().st_size - begin) % 2:
        raise StorageError(
            f"{path.name} holds a data set of {length} bytes, and those of DICOM are even (PS3.5 "
            "Section 7.1.1), so it was not sent; have it written again"
        )


def check_asked_for(paths: Mapping[str, Path], *, study: str, series: str, source: str) -> None:
    """Whether each file holds the instance it is called by, of this study and series.

    An archive may send anything; what it said of a patient in an answer is taken to be true of
    these. Raises :class:`PacsError` naming ``source``.
    """
    for uid, path in paths.items():
        try:
            seen = _uids(path)
        except Exception as error:  # pydicom raises anything on malformed data
            raise PacsError(
                f"{source} sent a file for instance {uid} that cannot be read as DICOM"
            ) from error
        if seen != (study, series, uid):
            raise PacsError(
                f"{source} sent another instance for {uid}: its data set is not of that UID, "
                "study and series. Nothing of it was kept"
            )


def check_there(paths: Iterable[Path], gateway: Gateway) -> None:
    """Whether an archive has the instances in files, as it answers when it is asked.

    Raises :class:`StorageError` naming one that it does not have.
    """
    by_series: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in paths:
        study, series, uid = _explained(path, partial(_uids, path))
        by_series[study, series].add(uid)
    for (study, series), uids in by_series.items():
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": ""}
        if len(uids) == 1:  # of perhaps many: an archive may open the file of each it finds
            keys |= {"SOPInstanceUID": next(iter(uids))}
        there = {str(found.SOPInstanceUID) for found in gateway.find("IMAGE", keys)}
        if missing := sorted(uids - there):
            raise StorageError(
                f"{gateway.address} answered that it stored instances of series {series}, but "
                f"does not have {len(missing)} of {len(uids)}, {missing[0]} among them"
            )


def _uids(path: Path) -> tuple[str, str, str]:
    """Of study, series and instance, by the data set; it is read no further."""
    with path.open("rb") as file:
        ds = read_partial(file, stop_when=_after_series, defer_size=_DEFER_BYTES)
    return str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)


def _after_series(tag: BaseTag, *_: object) -> bool:
    return bool(tag > _SERIES)


def _explained(path: Path, read: Callable[[], Read]) -> Read:
    try:
        return read()
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror}") from error
    except Exception as error:  # pydicom raises anything on malformed data
        raise StorageError(f"{path.name} is no DICOM file, so it was not sent") from error
