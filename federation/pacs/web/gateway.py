"""The gateway over DICOMweb (PS3.18): QIDO-RS, WADO-RS and STOW-RS."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydicom import Dataset

from federation.closing import Closing
from federation.errors import PacsError, PacsRefused, PacsUnreachable
from federation.pacs.address import WebAddress
from federation.pacs.attributes import is_uid
from federation.pacs.gateway import Level, Moved, untold
from federation.pacs.limits import STANDARD, Limits, Throttle
from federation.pacs.matching import check_keys, check_uids
from federation.pacs.parallel import Connections
from federation.pacs.part10 import check_there, read_meta
from federation.pacs.web.http import WebConnection
from federation.pacs.web.login import authorization
from federation.pacs.web.qido import Search
from federation.pacs.web.stow import store_instance
from federation.pacs.web.wado import Retrieval

_NO_STUDY = "1.0"  # nobody's: asked for to see whether there is an answer


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
        self._connections = Connections(self._connection, limits)
        self._search = Search()

    @property
    def address(self) -> str:
        return str(self._to)

    @property
    def clock_ahead_s(self) -> float | None:
        """By how much the archive's clock is ahead of ours, if it has said what time it is."""
        return self._connections.ask(lambda connection: connection.clock_ahead_s)

    def echo(self) -> None:
        """DICOMweb has no service for it: search for nothing."""
        path = f"/studies?StudyInstanceUID={_NO_STUDY}&limit=1"

        def ask(connection: WebConnection) -> None:
            with connection.ask("a search", path, accept="application/dicom+json") as answer:
                answer.json()

        self._connections.ask(ask)

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        check_keys(level, keys)
        return self._connections.ask(lambda connection: self._search.find(connection, level, keys))

    # --- receiving ------------------------------------------------------------------------

    def fetch(
        self, folder: Path, *, study: str, series: str, instance: str | None = None
    ) -> list[Path]:
        check_uids(study, series, *([] if instance is None else [instance]))
        with Retrieval(folder, study=study, series=series) as retrieval:
            wanted = self._series(retrieval, study, series) if instance is None else [instance]
            self._connections.share_out(retrieval.retrieve_instance, retrieval.missing(wanted))
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
            retrieval.keep_only(listed)

        self._connections.share_out(
            lambda connection, job: job(connection), [retrieve, list_series]
        )
        if not listed:
            raise PacsError(f"series {series} is not in {self.address}")
        if not all(map(is_uid, listed)):
            raise PacsError(f"{self.address} lists instances of series {series} by what is no UID")
        return listed

    # --- sending --------------------------------------------------------------------------

    def store(self, paths: Iterable[Path]) -> None:
        self._connections.store(store_instance, [read_meta(path) for path in paths])

    def confirm(self, paths: Iterable[Path]) -> None:
        check_there(paths, self)

    # --- connections ----------------------------------------------------------------------

    def _connection(self) -> WebConnection:
        return WebConnection(
            self._to,
            timeout_s=self._limits.timeout_s,
            throttle=self._throttle,
            moved=self._moved,
            context=self._context,
        )

    def release(self) -> None:
        self._connections.close()

    def close(self) -> None:
        self.release()
