"""The gateway over DICOMweb (PS3.18): QIDO-RS, WADO-RS and STOW-RS."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydicom import Dataset

from federation.closing import Closing
from federation.errors import PacsError, PacsRefused, PacsUnreachable, StorageError
from federation.pacs.address import WebAddress
from federation.pacs.attributes import is_uid
from federation.pacs.gateway import Level, Moved, untold
from federation.pacs.http import WebConnection
from federation.pacs.limits import STANDARD, Limits, Throttle, attempts
from federation.pacs.login import authorization
from federation.pacs.matching import check_keys, check_uids
from federation.pacs.parallel import share_out
from federation.pacs.part10 import read_meta, series_of
from federation.pacs.qido import Search
from federation.pacs.stow import store_instance
from federation.pacs.wado import Retrieval

_NO_STUDY = "1.0"  # nobody's: asked for to see whether there is an answer
_BYTES_FOR_ANOTHER = 8 * 2**20  # fewer are sent before another connection is open

Job = TypeVar("Job")


class DicomwebGateway(Closing):
    """An archive over HTTP. Close it, or use it as a context manager.

    A connection is opened when first needed, and kept; where there are several instances to send
    or fetch, several are, within the limits.
    """

    def __init__(
        self, address: WebAddress, *, limits: Limits = STANDARD, moved: Moved = untold
    ) -> None:
        """Raises :class:`~federation.errors.ConfigError` for files that cannot be used."""
        authorization(address)
        self._to = address
        self._limits = limits
        self._context = None if address.tls is None else address.tls.client()
        self._throttle = Throttle(limits.mb_per_s)
        self._moved = moved
        self._connections = [self._connection()]
        self._search = Search()

    @property
    def address(self) -> str:
        return str(self._to)

    def echo(self) -> None:
        """DICOMweb has no service for it: search for nothing."""
        path = f"/studies?StudyInstanceUID={_NO_STUDY}&limit=1"

        def ask(connection: WebConnection) -> None:
            with connection.ask("a search", path, accept="application/dicom+json") as answer:
                answer.json()

        attempts(self._limits)(ask, self._connections[0])

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        check_keys(level, keys)
        return attempts(self._limits)(self._search.find, self._connections[0], level, keys)

    # --- receiving ------------------------------------------------------------------------

    def fetch(
        self, folder: Path, *, study: str, series: str, instance: str | None = None
    ) -> list[Path]:
        check_uids(study, series, *([] if instance is None else [instance]))
        with Retrieval(folder, study=study, series=series) as retrieval:
            wanted = self._series(retrieval, study, series) if instance is None else [instance]
            self._share_out(retrieval.retrieve_instance, retrieval.missing(wanted))
            return retrieval.keep(wanted, source=self.address)

    def _series(self, retrieval: Retrieval, study: str, series: str) -> list[str]:
        """The SOP Instance UIDs of a series, which is retrieved meanwhile in one request.

        One request is as fast as several for 200 small instances or 4 large ones, and takes half
        of the archive's memory; listing a large one takes as long as retrieving half of it
        (Orthanc, 2 processors). What a break leaves out is still missing then.
        """
        listed: list[str] = []

        def retrieve(connection: WebConnection) -> None:
            try:
                retrieval.retrieve_series(connection)
            except PacsRefused:
                raise
            except PacsUnreachable:
                pass

        def list_series(connection: WebConnection) -> None:
            keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
            found = self._search.find(connection, "IMAGE", keys)
            listed.extend(str(one.SOPInstanceUID) for one in found)

        self._share_out(lambda connection, job: job(connection), [retrieve, list_series])
        if not listed:
            raise PacsError(f"series {series} is not in {self.address}")
        if not all(map(is_uid, listed)):
            raise PacsError(f"{self.address} lists instances of series {series} by what is no UID")
        return listed

    # --- sending --------------------------------------------------------------------------

    def store(self, paths: Iterable[Path]) -> None:
        instances = [read_meta(path) for path in paths]
        size = sum(one.path.stat().st_size for one in instances)
        self._share_out(
            lambda connection, one: store_instance(connection, one.path, one.uid),
            instances,
            most=min(self._limits.storing, 1 + size // _BYTES_FOR_ANOTHER),
        )

    def confirm(self, paths: Iterable[Path]) -> None:
        by_series: dict[tuple[str, str], set[str]] = defaultdict(set)
        for path in paths:
            by_series[series_of(path)].add(read_meta(path).uid)
        for (study, series), uids in by_series.items():
            keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
            if len(uids) == 1:  # of perhaps many: an archive may open the file of each it finds
                keys |= {"SOPInstanceUID": next(iter(uids))}
            there = {str(found.SOPInstanceUID) for found in self.find("IMAGE", keys)}
            if missing := sorted(uids - there):
                raise StorageError(
                    f"{self.address} answered that it stored instances of series {series}, but "
                    f"does not have {len(missing)} of {len(uids)}, {missing[0]} among them"
                )

    # --- connections ----------------------------------------------------------------------

    def _share_out(
        self,
        work: Callable[[WebConnection, Job], object],
        jobs: Sequence[Job],
        *,
        most: int | None = None,
    ) -> None:
        count = max(1, min(self._limits.associations, len(jobs), most or len(jobs)))
        while len(self._connections) < count:
            self._connections.append(self._connection())
        try:
            share_out(work, jobs, self._connections[:count], self._limits)
        except BaseException:  # they were cut off for good
            self.release()
            self._connections = [self._connection()]
            raise

    def _connection(self) -> WebConnection:
        return WebConnection(
            self._to,
            timeout_s=self._limits.timeout_s,
            throttle=self._throttle,
            moved=self._moved,
            context=self._context,
        )

    def release(self) -> None:
        for connection in self._connections:
            connection.close()

    def close(self) -> None:
        self.release()
