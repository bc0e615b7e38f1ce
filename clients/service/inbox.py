"""Studies that were sent here: a queue that a kill leaves as it is.

What has come lies in an embedded archive of its own and is durable before the sender hears of
success. A study is ready once nothing of it has come for a while; what was done with leaves.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from federation.closing import Closing
from federation.config import ServiceTable
from federation.errors import PacsError
from federation.pacs import Archive, ArchiveServer, Gateway, open_gateway
from federation.pacs.dimse.admission import Caller
from federation.pacs.tls import Tls
from federation.whole import make_private


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """How many instances of a study there were, and since when, on the monotonic clock."""

    count: int
    since_s: float


class Inbox(Closing):
    """The listener, and the studies that came through it. Close it, or use ``with``.

    Nobody can ask it for images: it takes what is sent, and no more.
    """

    def __init__(
        self,
        folder: Path,
        table: ServiceTable,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises :class:`~federation.errors.PacsError` where the folder cannot be made, or the
        address cannot be listened at."""
        self._quiet_s = table.quiet_s
        self._clock_s = clock_s
        self._seen: dict[str, _Seen] = {}
        try:
            make_private(folder)
        except OSError as error:
            raise PacsError(f"{folder} cannot be made: {error.strerror}") from error
        self._archive = Archive(folder, quota_bytes=table.bytes)
        try:
            self._server = ArchiveServer(
                self._archive,
                ae_title=table.ae_title,
                host=table.host,
                port=table.port,
                callers=[Caller.parse(text) for text in table.callers],
                tls=_tls(table),
                takes_only=True,
            )
        except BaseException:
            self._archive.close()
            raise
        self._gateway = open_gateway(f"folder:{folder}")

    @property
    def address(self) -> str:
        """Where it listens, with the port that it got."""
        return self._server.address

    @property
    def gateway(self) -> Gateway:
        """What has come, to be found and fetched."""
        return self._gateway

    def waiting(self) -> list[str]:
        """All studies that are here, by Study Instance UID, the longest here first."""
        return list(self._counts())

    def ready(self) -> list[str]:
        """Those of which nothing came for a while."""
        now_s = self._clock_s()
        counts = self._counts()
        for study, count in counts.items():
            before = self._seen.get(study)
            if before is None or before.count != count:
                self._seen[study] = _Seen(count=count, since_s=now_s)
        self._seen = {study: seen for study, seen in self._seen.items() if study in counts}
        return [study for study in counts if now_s - self._seen[study].since_s >= self._quiet_s]

    def done(self, study: str, instances: Iterable[str]) -> None:
        """Let these instances of a study go; what came meanwhile stays, and is a study again."""
        self._archive.discard(instances)
        self._seen.pop(study, None)

    def instances(self, study: str) -> list[str]:
        """The SOP Instance UIDs of a study."""
        return [one.uid for one in self._archive.instances(study=study)]

    def close(self) -> None:
        """Stop listening. Closing twice is harmless."""
        self._gateway.close()
        self._server.close()
        self._archive.close()

    def _counts(self) -> dict[str, int]:
        keys = {"StudyInstanceUID": "", "NumberOfStudyRelatedInstances": ""}
        return {
            str(study.StudyInstanceUID): int(study.NumberOfStudyRelatedInstances)
            for study in self._archive.find("STUDY", keys)
        }


def _tls(table: ServiceTable) -> Tls | None:
    if table.cert is None:
        return None
    return Tls(ca=table.tls, cert=table.cert, key=table.key)
