"""The gateway over DICOM associations: C-ECHO, C-FIND, C-GET or C-MOVE, and C-STORE."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydicom import Dataset

from federation.closing import Closing
from federation.errors import PacsError, PacsRefused, PacsUnreachable, StorageError
from federation.pacs.address import DimseAddress
from federation.pacs.attributes import UIDS, is_uid
from federation.pacs.dimse.arrivals import Arrivals
from federation.pacs.dimse.channel import Channel, NotOffered, Wanted, check_arrivals
from federation.pacs.dimse.contexts import MAX_SENT, SOP_CLASS_OF_MODALITY
from federation.pacs.dimse.listener import Listener, Reports
from federation.pacs.gateway import Level, Moved, untold
from federation.pacs.limits import STANDARD, Limits, Throttle
from federation.pacs.matching import check_keys, check_uids
from federation.pacs.parallel import Connections
from federation.pacs.part10 import InstanceFile, check_asked_for, check_there, read_meta

_MOST_AT_ONCE = 32  # instances named in one request


class DimseGateway(Closing):
    """An archive over DICOM associations. Close it, or use it as a context manager.

    An association is opened when first needed, and kept; where there is much to send or fetch,
    several are, within the limits.
    """

    def __init__(
        self, address: DimseAddress, *, limits: Limits = STANDARD, moved: Moved = untold
    ) -> None:
        """Raises :class:`~federation.errors.ConfigError` for TLS files that cannot be used."""
        self._to = address
        self._limits = limits
        self._throttle = Throttle(limits.mb_per_s)
        self._moved = moved
        self._reports = Reports(limits.timeout_s)
        self._channels = Connections(self._channel, limits)
        self._listener: Listener | None = None
        self._gets = True

    @property
    def address(self) -> str:
        return str(self._to)

    @property
    def uses_move(self) -> bool:
        """Whether the archive has no C-GET for us, as the last fetch found out."""
        return not self._gets

    def echo(self) -> None:
        self._channels.ask(Channel.echo)

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        check_keys(level, keys)
        return self._channels.ask(lambda channel: channel.find(level, keys))

    # --- receiving ------------------------------------------------------------------------

    def fetch(
        self, folder: Path, *, study: str, series: str, instance: str | None = None
    ) -> list[Path]:
        check_uids(study, series, *([] if instance is None else [instance]))
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        uids = (instance,) if instance is not None else self._instances(keys)
        wanted = Wanted(study=study, series=series, instances=uids, sop_class=self._sop_class(keys))
        try:
            return self._fetch(wanted, folder)
        except PacsUnreachable:
            raise
        except PacsError as error:
            if instance is None or self.find("IMAGE", {**keys, "SOPInstanceUID": instance}):
                raise
            raise PacsError(f"instance {instance} is not in {self.address}") from error

    def _instances(self, series: Mapping[str, str]) -> tuple[str, ...]:
        """What is there of a series, in its order."""
        found = self.find("IMAGE", {**series, "SOPInstanceUID": "", "InstanceNumber": ""})
        if not found:
            raise PacsError(f"series {series['SeriesInstanceUID']} is not in {self.address}")
        uids = tuple(str(one[UIDS["IMAGE"]].value) for one in sorted(found, key=_number))
        if not all(map(is_uid, uids)):
            raise PacsError(
                f"{self.address} lists instances of series {series['SeriesInstanceUID']} by no UID"
            )
        return uids

    def _sop_class(self, series: Mapping[str, str]) -> str:
        """The SOP class that a series' instances should be of, by its modality.

        To say the class itself, some archives open the files, however large. Where it is another,
        retrieving them fails at first, and they are asked about.
        """
        found = self.find("SERIES", {**series, "Modality": ""})
        return SOP_CLASS_OF_MODALITY.get(str(found[0].get("Modality")), "") if found else ""

    def _fetch(self, wanted: Wanted, folder: Path) -> list[Path]:
        arrived: list[Arrivals] = []
        try:
            if self._gets:
                try:
                    self._get(wanted, folder, arrived)
                except NotOffered as refusal:
                    arrived.append(self._move(wanted, folder, refusal))
                    self._gets = False
            else:
                arrived.append(self._move(wanted, folder))
            came = {uid: path for arrivals in arrived for uid, path in arrivals.paths.items()}
            if missing := set(wanted.instances) - came.keys():
                raise PacsError(
                    f"{len(missing)} of {len(wanted.instances)} instances of series "
                    f"{wanted.series} did not come from {self.address}, which lists them: "
                    f"{min(missing)} among them"
                )
            check_asked_for(came, study=wanted.study, series=wanted.series, source=self.address)
        except BaseException:
            for arrivals in arrived:
                arrivals.discard()
            raise
        return [came[uid] for uid in wanted.instances]

    def _get(self, wanted: Wanted, folder: Path, arrived: list[Arrivals]) -> None:
        """Retrieve over our own associations, each adding to ``arrived``.

        Raises :class:`NotOffered` where the archive has no C-GET, or not for us: some accept the
        service, and abort when it is asked for.
        """

        def get(channel: Channel, batch: Wanted) -> None:
            arrived.append(channel.get(batch, folder))

        try:
            self._channels.share_out(get, _batches(wanted, self._limits.associations))
        except PacsRefused:
            raise
        except PacsUnreachable as error:
            if arrived:
                raise
            self.echo()  # it may be away altogether
            raise NotOffered(f"{self.address} ends the association at a C-GET") from error

    def _move(self, wanted: Wanted, folder: Path, refusal: NotOffered | None = None) -> Arrivals:
        """Have it sent to us."""
        if self._to.listen is None:
            raise PacsError(
                f"{refusal}, so nothing was fetched. Let the archive allow C-GET to "
                f"{self._to.calling}; or, for C-MOVE, let it know that AE title at a port of this "
                "machine, and name that port in the address with listen=PORT"
            ) from refusal

        def move(channel: Channel) -> Arrivals:
            arrivals = Arrivals(folder, frozenset(wanted.instances))
            listener = self._listening()
            try:
                with listener.inbox.taking(arrivals):
                    report = channel.move(wanted, listener)
                check_arrivals(f"C-MOVE of {wanted} from {self.address}", report, arrivals)
            except BaseException:
                arrivals.discard()
                raise
            return arrivals

        return self._channels.ask(move)

    # --- sending --------------------------------------------------------------------------

    def store(self, paths: Iterable[Path]) -> None:
        pending = [read_meta(path) for path in paths]
        while pending:
            kinds = _first_kinds(pending)
            batch = [one for one in pending if one.kind in kinds]
            pending = [one for one in pending if one.kind not in kinds]
            self._channels.store(partial(Channel.store, kinds=kinds), batch)

    def confirm(self, paths: Iterable[Path]) -> None:
        paths = list(paths)
        if self._to.listen is not None:
            try:
                self.commit(paths)
                return
            except NotOffered:
                pass  # then it is asked
        check_there(paths, self)

    def commit(self, paths: Iterable[Path]) -> None:
        """Have the archive commit itself to keep instances (PS3.4 Annex J).

        Raises :class:`StorageError` where it says that it does not, and :class:`NotOffered` where
        it has no storage commitment, or does not report.
        """
        instances = [read_meta(path) for path in paths]
        self._listening()
        if failed := self._channels.ask(lambda channel: channel.request_commitment(instances)):
            raise StorageError(
                f"{self.address} does not commit itself to keep {len(failed)} of "
                f"{len(instances)} instances, {failed[0]} among them"
            )

    # --- associations ---------------------------------------------------------------------

    def _channel(self) -> Channel:
        return Channel(
            self._to,
            self._reports,
            timeout_s=self._limits.timeout_s,
            throttle=self._throttle,
            moved=self._moved,
        )

    def _listening(self) -> Listener:
        """Our own application entity, from the first need on until we let go of the archive."""
        if self._listener is None:
            self._listener = Listener(
                self._to,
                self._reports,
                timeout_s=self._limits.timeout_s,
                throttle=self._throttle,
                moved=self._moved,
            )
        return self._listener

    def release(self) -> None:
        self._channels.close()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        self.release()


def _batches(wanted: Wanted, associations: int) -> list[Wanted]:
    """What is wanted, in requests that several associations can share."""
    uids = wanted.instances
    if len(uids) <= 2 or associations == 1:  # a manifest and its only part are soon fetched
        return [wanted]
    size = min(_MOST_AT_ONCE, max(1, len(uids) // (4 * associations)))
    return [
        replace(wanted, instances=uids[start : start + size]) for start in range(0, len(uids), size)
    ]


def _first_kinds(instances: list[InstanceFile]) -> frozenset[tuple[str, str]]:
    """As many kinds, of the first instances, as one association's contexts can carry."""
    kinds = dict.fromkeys(one.kind for one in instances)
    return frozenset(list(kinds)[:MAX_SENT])


def _number(instance: Dataset) -> int:
    number = str(instance.get("InstanceNumber") or "")
    return int(number) if number.isdecimal() else 0
