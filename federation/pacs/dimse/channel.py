"""One association's worth of an archive: questions, and instances each way."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydicom import Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.tag import Tag
from pydicom.uid import UID, generate_uid
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from pynetdicom.status import code_to_category

from federation.closing import Closing
from federation.errors import PacsError, PacsRefused, StorageError
from federation.pacs.address import DimseAddress
from federation.pacs.attributes import UIDS
from federation.pacs.dimse.arrivals import Arrivals, Inbox
from federation.pacs.dimse.association import cut_off, metered, patient
from federation.pacs.dimse.contexts import Proposal
from federation.pacs.dimse.listener import Listener, Reports
from federation.pacs.dimse.requestor import Requestor
from federation.pacs.gateway import Level, Moved
from federation.pacs.limits import Throttle
from federation.pacs.matching import MAX_MATCHES, matches_all
from federation.pacs.part10 import InstanceFile

SUCCESS = 0x0000
_PENDING = "Pending"
_COUNTED = ("Completed", "Warning", "Failed", "Remaining")

_MEANINGS = {
    0x0111: "duplicate SOP Instance UID: other content is there under it",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0xA700: "out of resources: free space on the archive, then run again",
    0xA701: "out of resources: unable to count matches",
    0xA702: "out of resources: unable to send",
    0xA801: "unknown move destination",
    0xA900: "the data set or the keys do not match the SOP class",
    0xC000: "the archive cannot understand it",
}


def described(status: int) -> str:
    """A status as a number and in words (PS3.4, PS3.7 Annex C)."""
    meaning = _MEANINGS.get(status) or code_to_category(status).lower()
    return f"0x{status:04X} ({meaning})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Instances of one series to retrieve.

    sop_class: that of the first, where it is known
    """

    study: str
    series: str
    instances: tuple[str, ...]
    sop_class: str = ""

    def __str__(self) -> str:
        if len(self.instances) == 1:
            return f"instance {self.instances[0]}"
        return f"series {self.series}"

    @property
    def identifier(self) -> Dataset:
        keys = {"StudyInstanceUID": self.study, "SeriesInstanceUID": self.series}
        return identifier("IMAGE", keys | {"SOPInstanceUID": "\\".join(self.instances)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """How a C-GET or C-MOVE ended, by the archive's own count."""

    status: int
    completed: int
    failed: int


class NotOffered(PacsError):
    """The archive accepted no presentation context for this service, or refuses it to us."""


class NoReport(NotOffered):
    """The archive took a request for storage commitment, and did not report on it."""


class Channel(Closing):
    """An association with an archive, opened when needed. Close it.

    Not for use from several threads at once, but for :meth:`cut_off`.
    """

    def __init__(
        self,
        to: DimseAddress,
        reports: Reports,
        *,
        timeout_s: float,
        throttle: Throttle,
        moved: Moved,
    ) -> None:
        """``reports`` takes those of storage commitment that come over this association."""
        self._to = to
        self._timeout_s = timeout_s
        self._reports = reports
        self._inbox = Inbox()
        self._requestor = Requestor(
            to,
            timeout_s=timeout_s,
            handlers=[
                metered(moved, throttle),
                *self._inbox.handlers,
                (evt.EVT_N_EVENT_REPORT, reports.take),
            ],
        )

    # --- questions ------------------------------------------------------------------------

    def echo(self) -> None:
        status = self._requestor.ask(lambda association: _status(association.send_c_echo()))
        if status != SUCCESS:
            raise PacsError(f"C-ECHO to {self._to} answered {described(status)}")

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        """Matches, filtered again and each once. Keys are those of :meth:`Gateway.find`."""
        asked = identifier(level, keys)
        try:
            found = self._requestor.ask(lambda association: _find(association, asked))
        except ValueError:  # pynetdicom: no context was accepted
            raise PacsRefused(
                f"{self._to} does not answer C-FIND (Study Root): it takes no questions, or not "
                "from this AE title"
            ) from None
        if found.status != SUCCESS or found.unreadable:
            unread = ", with matches that cannot be decoded" if found.unreadable else ""
            raise PacsError(
                f"C-FIND at {level} level in {self._to} answered {described(found.status)}{unread}"
            )
        unique = UIDS[level]
        answers: dict[str, Dataset] = {}
        for answer in found.matches:
            if unique in answer and matches_all(keys, answer):
                answers.setdefault(str(answer[unique].value), answer)
        return list(answers.values())

    # --- receiving ------------------------------------------------------------------------

    def get(self, wanted: Wanted, folder: Path) -> Arrivals:
        """Retrieve instances over this association (C-GET); what came is whole.

        Raises :class:`NotOffered` where the archive has no C-GET, :class:`StorageError` where
        ``folder`` takes no more, :class:`PacsError` where the archive fails or sends less than
        it says; then nothing stays.
        """
        self._requestor.propose(self._requestor.proposal.receiving(wanted.sop_class))
        arrivals = Arrivals(folder, frozenset(wanted.instances))
        try:
            report = self._get(wanted, arrivals)
            if (report.failed or report.status != SUCCESS) and not arrivals.failure:
                # Perhaps they are of several SOP classes, or of an unusual transfer syntax.
                proposal = self._requestor.proposal.receiving_apart(self._sop_classes(wanted))
                if proposal != self._requestor.proposal:
                    arrivals.discard()
                    self._requestor.propose(proposal)
                    report = self._get(wanted, arrivals)
            check_arrivals(f"C-GET of {wanted} from {self._to}", report, arrivals)
        except BaseException:
            arrivals.discard()
            raise
        return arrivals

    def _sop_classes(self, wanted: Wanted) -> set[str]:
        """Those of all that is wanted; none where the archive does not say."""
        keys = {"StudyInstanceUID": wanted.study, "SeriesInstanceUID": wanted.series}
        found = self.find("IMAGE", {"SOPInstanceUID": "", "SOPClassUID": "", **keys})
        kinds = {str(one.get("SOPClassUID") or "") for one in found}
        return kinds if "" not in kinds else set()

    def _get(self, wanted: Wanted, arrivals: Arrivals) -> Report:
        def get(association: Association) -> Report | None:
            return self._last(
                association,
                association.send_c_get(
                    wanted.identifier, StudyRootQueryRetrieveInformationModelGet
                ),
                lambda: len(arrivals.paths),
            )

        try:
            with self._inbox.taking(arrivals):
                return self._requestor.ask(get)
        except ValueError as error:  # pynetdicom: no accepted presentation context
            raise NotOffered(f"{self._to} takes no C-GET") from error

    def move(self, wanted: Wanted, listener: Listener) -> Report:
        """Have instances sent to where ``listener`` takes them (C-MOVE).

        Raises :class:`NotOffered` where the archive has no C-MOVE.
        """

        def move(association: Association) -> Report | None:
            with patient(association, lambda: listener.arrived):
                return self._last(
                    association,
                    association.send_c_move(
                        wanted.identifier,
                        self._to.calling,
                        StudyRootQueryRetrieveInformationModelMove,
                    ),
                    lambda: listener.arrived,
                )

        try:
            return self._requestor.ask(move)
        except ValueError as error:
            raise NotOffered(f"{self._to} takes no C-MOVE") from error

    def _last(
        self,
        association: Association,
        answers: Iterator[tuple[Dataset, Any]],
        progress: Callable[[], int],
    ) -> Report | None:
        """The final answer of a C-GET or C-MOVE; None where the association ended before.

        Raises :class:`PacsError` where the archive only says that it is not ready yet, while
        nothing comes and it counts no further.
        """
        before, since = None, time.monotonic()
        for status, _ in answers:
            if "Status" not in status:
                return None
            counts = [int(status.get(f"NumberOf{kind}Suboperations") or 0) for kind in _COUNTED]
            completed, warned, failed, _ = counts
            if code_to_category(status.Status) != _PENDING:
                return Report(
                    status=int(status.Status), completed=completed + warned, failed=failed
                )
            now = time.monotonic()
            if (reached := (progress(), *counts)) != before:
                before, since = reached, now
            elif now - since > self._timeout_s:
                cut_off(association)
                raise PacsError(
                    f"{self._to} has sent nothing for {self._timeout_s:g} s, but that it is not "
                    "ready yet. Does it fetch from a slow store first? Then let timeout_s be longer"
                )
        return None

    # --- sending --------------------------------------------------------------------------

    def store(self, instance: InstanceFile, kinds: frozenset[tuple[str, str]]) -> None:
        """Send one instance over an association that can carry all these kinds.

        Raises :class:`StorageError` where the archive does not take it.
        """
        self._requestor.propose(Proposal(sent=kinds))
        path, uid = instance.path, instance.uid
        try:
            status = self._requestor.ask(
                lambda association: _status(association.send_c_store(path))
            )
        except ValueError:
            raise StorageError(
                f"{self._to} takes no instance like {uid}: it accepted no presentation context "
                "for its SOP class and transfer syntax; nothing was stored"
            ) from None
        except OSError as error:
            raise StorageError(f"{path.name} cannot be read: {error.strerror}") from error
        if code_to_category(status) not in ("Success", "Warning"):
            raise StorageError(
                f"C-STORE of {uid} to {self._to} answered {described(status)}; it was not stored"
            )

    def request_commitment(self, instances: Sequence[InstanceFile]) -> list[str]:
        """Ask the archive to commit itself to keep instances (PS3.4 Annex J).

        Returns the UIDs of those that it does not keep, when it has reported. Raises
        :class:`NotOffered` where it has no storage commitment, or reports nothing.
        """
        transaction = generate_uid()
        request = Dataset()
        request.TransactionUID = transaction
        request.ReferencedSOPSequence = [_reference(instance) for instance in instances]

        def ask(association: Association) -> int | None:
            status, _ = association.send_n_action(request, 1, _COMMITMENT, _COMMITMENT_INSTANCE)
            return _status(status)

        with self._reports.expected(transaction):
            try:
                status = self._requestor.ask(ask)
            except ValueError as error:
                raise NotOffered(f"{self._to} has no storage commitment") from error
            if status != SUCCESS:
                raise NotOffered(
                    f"N-ACTION of storage commitment to {self._to} answered {described(status)}"
                )
            kept = self._reports.kept_of(transaction)
        if kept is None:
            raise NoReport(
                f"no report of storage commitment reached us within {self._reports.timeout_s:g} s"
            )
        return [instance.uid for instance in instances if instance.uid not in kept]

    # --- ending ---------------------------------------------------------------------------

    def cut_off(self) -> None:
        """From another thread: end whatever is going on at once, for good."""
        self._requestor.cut_off()

    def close(self) -> None:
        """Release the association; asking opens another. Closing twice is harmless."""
        self._requestor.close()


def check_arrivals(what: str, report: Report, arrivals: Arrivals) -> None:
    """Raises :class:`StorageError` or :class:`PacsError` unless all that was reported came."""
    if arrivals.failure is not None:
        raise StorageError(
            f"{what} cannot be written to {arrivals.folder}: {arrivals.failure.strerror}. "
            "Is the folder there, and room in it?"
        ) from arrivals.failure
    if report.status != SUCCESS or report.failed or report.completed != len(arrivals.paths):
        raise PacsError(
            f"{what} answered {described(report.status)}: {len(arrivals.paths)} instances came, "
            f"{report.failed} failed"
        )


# --- questions and answers ----------------------------------------------------------------


_COMMITMENT = cast(UID, StorageCommitmentPushModel)
_COMMITMENT_INSTANCE = UID("1.2.840.10008.1.20.1.1")  # the only one there is (PS3.4 Section J.3.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """How a C-FIND ended, and its matches so far."""

    status: int
    matches: Sequence[Dataset]
    unreadable: bool


def _reference(instance: InstanceFile) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = instance.sop_class
    item.ReferencedSOPInstanceUID = instance.uid
    return item


def _status(answer: Dataset) -> int | None:
    return int(answer.Status) if "Status" in answer else None


def _find(association: Association, asked: Dataset) -> _Found | None:
    matches: list[Dataset] = []
    unreadable = False
    for status, answer in association.send_c_find(
        asked, StudyRootQueryRetrieveInformationModelFind
    ):
        if "Status" not in status:
            return None
        if code_to_category(status.Status) != _PENDING:
            return _Found(status=int(status.Status), matches=matches, unreadable=unreadable)
        if answer is None:
            unreadable = True
        else:
            matches.append(answer)
        if len(matches) > MAX_MATCHES:
            cut_off(association)
            raise PacsError(
                f"a C-FIND was answered with more than {MAX_MATCHES} matches; ask for less, by a "
                "query with more keys"
            )
    return None


def identifier(level: Level, keys: Mapping[str, str]) -> Dataset:
    """The keys as a data set. Values were checked; pydicom's warnings would repeat them."""
    asked = Dataset()
    asked.SpecificCharacterSet = "ISO_IR 192"
    asked.QueryRetrieveLevel = level
    for keyword, text in {UIDS[level]: "", **keys}.items():
        vr = dictionary_VR(keyword)
        value: Any = int(text) if vr == "US" and text not in ("", "*") else text
        if vr == "UI":
            value = text.split("\\")
        asked[Tag(keyword)] = DataElement(Tag(keyword), vr, value, validation_mode=config.IGNORE)
    return asked
