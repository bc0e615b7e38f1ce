"""Retrieval over HTTP (WADO-RS, PS3.18 Section 10.4)."""

from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from federation.closing import Closing
from federation.errors import PacsError, StorageError
from federation.pacs.attributes import is_uid, text_of
from federation.pacs.incoming import IncomingFile
from federation.pacs.part10 import check_asked_for
from federation.pacs.web.answer import Answer
from federation.pacs.web.faults import NotThere
from federation.pacs.web.http import WebConnection
from federation.pacs.web.multipart import DICOM, EndsTooSoon, MalformedMultipart, read_parts

# Any transfer syntax, so that the archive gives what it keeps and decompresses nothing. And not
# ``application/dicom`` alone, a message of one part: Orthanc answers 400 to that.
_ACCEPT = f'multipart/related; type="{DICOM}"; transfer-syntax=*'
_MULTIPART = "multipart/related"


class Retrieval(Closing):
    """Instances of one series on their way into a folder, over any number of connections.

    Each gets its SOP Instance UID as its name once it is whole. Close it: what was not kept by
    :meth:`keep` is deleted. All UIDs given were checked to be some.
    """

    def __init__(self, folder: Path, *, study: str, series: str) -> None:
        self._folder = folder
        self._study = study
        self._series = series
        self._path = f"/studies/{study}/series/{series}"
        self._arrived: dict[str, Path] = {}
        self._listed: Set[str] | None = None

    def keep_only(self, listed: Iterable[str]) -> None:
        """Let go of others from now on: an answer without an end shall not fill the disk."""
        self._listed = frozenset(listed)

    def retrieve_series(self, connection: WebConnection) -> None:
        """Everything in one request. What was whole before an error counts as arrived."""
        self._retrieve(connection, f"series {self._series}", self._path, None)

    def retrieve_instance(self, connection: WebConnection, uid: str) -> None:
        """One instance. Raises :class:`PacsError` where another comes, or none."""
        self._retrieve(connection, f"instance {uid}", f"{self._path}/instances/{uid}", uid)
        if uid not in self._arrived:
            raise PacsError(f"{connection.address} answered with no part for instance {uid}")

    def missing(self, wanted: Iterable[str]) -> list[str]:
        """Those that have not come yet."""
        return [uid for uid in wanted if uid not in self._arrived]

    def keep(self, wanted: Sequence[str], *, source: str) -> list[Path]:
        """Their files, which are the caller's from now on.

        Raises :class:`PacsError` where one of them is another instance, by its data set.
        """
        asked_for = {uid: self._arrived[uid] for uid in wanted}
        check_asked_for(asked_for, study=self._study, series=self._series, source=source)
        return [self._arrived.pop(uid) for uid in wanted]

    def close(self) -> None:
        for path in self._arrived.values():
            path.unlink(missing_ok=True)
        self._arrived = {}

    def _retrieve(
        self, connection: WebConnection, what: str, path: str, wanted: str | None
    ) -> None:
        try:
            with (
                connection.ask(f"the retrieval of {what}", path, accept=_ACCEPT) as answer,
                _Parts(self._folder, wanted, self._is_listed, self._arrived) as parts,
            ):
                try:
                    read_parts(answer.chunks(), _boundary(answer), parts)
                except EndsTooSoon as error:
                    raise answer.broke_off() or error from None
        except NotThere:
            raise PacsError(f"{what} is not in {connection.address}") from None
        except (MalformedMultipart, _Unusable) as error:
            raise PacsError(
                f"{connection.address} answered the retrieval of {what} with a message that "
                f"cannot be used: {error}"
            ) from None
        except OSError as error:
            raise StorageError(
                f"{what} of {connection.address} cannot be written to {self._folder}: "
                f"{error.strerror}. Is the folder there, and room in it?"
            ) from error

    def _is_listed(self, uid: str) -> bool:
        return self._listed is None or uid in self._listed


class _Unusable(Exception):
    """A message, or a part of it, is not what was asked for."""


def _boundary(answer: Answer) -> str:
    """What separates the parts, of an answer that has some."""
    if answer.is_empty:
        raise _Unusable("it is empty")
    kind, boundary = answer.content_type, answer.parameter("boundary")
    if kind != _MULTIPART or answer.parameter("type").lower() not in ("", DICOM) or not boundary:
        raise _Unusable(f"its type is {kind or 'not given'!r:.60}, not {_MULTIPART} of {DICOM}")
    return boundary


class _Parts(Closing):
    """Writes each part of one answer into a file, and gives it its place when it is whole."""

    def __init__(
        self,
        folder: Path,
        wanted: str | None,
        is_listed: Callable[[str], bool],
        arrived: dict[str, Path],
    ) -> None:
        """``wanted`` is the only instance that there should be, if any one is."""
        self._folder = folder
        self._wanted = wanted
        self._is_listed = is_listed
        self._arrived = arrived
        self._file: IncomingFile | None = None

    def begin(self, content_type: str) -> None:
        if content_type not in ("", DICOM):
            raise _Unusable(f"a part's type is {content_type!r:.60}, not {DICOM}")
        self._file = IncomingFile(self._folder)
        self._file.check()

    def write(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
            self._file.check()

    def end(self) -> None:
        if self._file is None:
            return
        uid = _uid(self._file.path)
        if self._wanted not in (None, uid):
            raise _Unusable("a part is another instance than the one asked for")
        if not is_uid(uid):
            raise _Unusable("a part is no instance with a valid UID")
        if self._is_listed(uid):
            path = self._folder / f"{uid}.dcm"
            self._file.move(path)
            self._arrived[uid] = path
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


def _uid(path: Path) -> str:
    """SOP Instance UID of a Part 10 file, as its file meta says."""
    try:
        return text_of(read_file_meta_info(path), "MediaStorageSOPInstanceUID")
    except OSError:
        raise
    except Exception:  # pydicom raises anything on malformed data
        raise _Unusable("a part is no DICOM file") from None
