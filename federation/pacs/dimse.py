"""The gateway over DICOM associations: C-ECHO, C-FIND, C-GET and C-STORE."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydicom import Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.tag import Tag
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)
from pynetdicom.status import code_to_category

from federation.closing import Closing
from federation.errors import PacsError, StorageError
from federation.pacs.address import DimseAddress
from federation.pacs.attributes import UIDS, is_uid
from federation.pacs.contexts import MAX_APART, MAX_SENT, Proposal
from federation.pacs.gateway import Level
from federation.pacs.matching import check_keys, check_uids, matches_all
from federation.pacs.receiving import IncomingFile, receive_into
from federation.pacs.requestor import Requestor

_SUCCESS = 0x0000
_PENDING = "Pending"

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


class DimseGateway(Closing):
    """An archive over DICOM associations. Close it, or use it as a context manager.

    An association is opened when first needed, kept, and opened anew once where the archive
    ended it in between. Not for use from several threads at once.
    """

    def __init__(self, address: DimseAddress, *, timeout_s: float = 30.0) -> None:
        """``timeout_s`` bounds every single wait: to connect, and for each answer."""
        self._to = address
        self._requestor = Requestor(
            address, timeout_s=timeout_s, handlers=[(evt.EVT_C_STORE, self._on_store)]
        )
        self._fetch = _Fetch(folder=None)

    @property
    def address(self) -> str:
        return str(self._to)

    def echo(self) -> None:
        status = self._requestor.ask(lambda association: _status(association.send_c_echo()))
        if status != _SUCCESS:
            raise PacsError(f"C-ECHO to {self.address} answered {_described(status)}")

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        check_keys(level, keys)
        identifier = _identifier(level, keys)
        found = self._requestor.ask(lambda association: _find(association, identifier))
        if found.status != _SUCCESS or found.unreadable:
            unread = ", with matches that cannot be decoded" if found.unreadable else ""
            raise PacsError(
                f"C-FIND at {level} level in {self.address} answered "
                f"{_described(found.status)}{unread}"
            )
        unique = UIDS[level]
        answers: dict[str, Dataset] = {}
        for answer in found.matches:
            if unique in answer and matches_all(keys, answer):
                answers.setdefault(str(answer[unique].value), answer)
        return list(answers.values())

    # --- receiving ------------------------------------------------------------------------

    def fetch(
        self, folder: Path, *, study: str, series: str, instance: str | None = None
    ) -> list[Path]:
        check_uids(study, series, *([] if instance is None else [instance]))
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        if instance is not None:
            keys["SOPInstanceUID"] = instance
        try:
            self._prepare_for(keys)
            report = self._get(folder, keys)
            incomplete = report.failed or report.status != _SUCCESS
            kinds = self._sop_classes(keys) if incomplete and not self._fetch.failure else set()
            if 0 < len(kinds) <= MAX_APART:
                # Perhaps for want of the right transfer syntax: propose each of them apart.
                self._requestor.propose(Proposal(apart=frozenset(kinds)))
                report = self._get(folder, keys)
            self._check(report, folder, instance, series)
        except BaseException:
            self._fetch.discard()
            raise
        paths = list(self._fetch.received.values())
        self._fetch = _Fetch(folder=None)
        return paths

    def _prepare_for(self, keys: Mapping[str, str]) -> None:
        """Propose what is asked for; where its SOP classes are unknown, every one."""
        proposal = self._requestor.proposal
        if proposal.every:
            return
        kinds = self._sop_classes(keys)
        if not kinds or not proposal.receives(kinds):
            self._requestor.propose(Proposal(every=True))

    def _get(self, folder: Path, keys: Mapping[str, str]) -> "_Report":
        level: Level = "IMAGE" if "SOPInstanceUID" in keys else "SERIES"
        identifier = _identifier(level, keys)
        self._fetch.discard()
        self._fetch = _Fetch(folder=folder)

        def get(association: Association) -> _Report | None:
            receive_into(association, folder)
            return _get(association, identifier)

        try:
            return self._requestor.ask(get)
        finally:
            self._fetch.folder = None  # whatever else comes was not asked for

    def _sop_classes(self, keys: Mapping[str, str]) -> set[str]:
        """The SOP classes of a series; none where they are unknown."""
        found = self.find("IMAGE", {"SOPInstanceUID": "", "SOPClassUID": "", **keys})
        kinds = {str(one.get("SOPClassUID") or "") for one in found}
        return kinds if "" not in kinds else set()

    def _check(self, report: "_Report", folder: Path, instance: str | None, series: str) -> None:
        what = f"series {series}" if instance is None else f"instance {instance}"
        fetch = self._fetch
        if fetch.failure is not None:
            raise StorageError(
                f"{what} of {self.address} cannot be written to {folder}: "
                f"{fetch.failure.strerror}. Is the folder there, and room in it?"
            ) from fetch.failure
        if report.status != _SUCCESS or report.failed or report.completed != len(fetch.received):
            raise PacsError(
                f"C-GET of {what} from {self.address} answered {_described(report.status)}: "
                f"{len(fetch.received)} instances came, {report.failed} failed"
            )
        if not fetch.received or instance not in (None, *fetch.received):
            raise PacsError(f"C-GET of {what} from {self.address} brought nothing: it is not there")

    def _on_store(self, event: evt.Event) -> int:
        """An instance of a C-GET: give the file that it was written into its place."""
        request = cast(C_STORE, event.request)
        uid = str(request.AffectedSOPInstanceUID)
        with cast(IncomingFile, request._dataset_file) as file:
            if self._fetch.folder is None or not is_uid(uid):
                return 0xC000
            path = self._fetch.folder / f"{uid}.dcm"
            try:
                file.move(path)
            except OSError as error:
                self._fetch.failure = error
                return 0xA700
        self._fetch.received[uid] = path
        return _SUCCESS

    # --- sending --------------------------------------------------------------------------

    def store(self, paths: Iterable[Path]) -> None:
        pending = [(path, *_meta(path)) for path in paths]
        while pending:
            # As many files in a row as one association's contexts can carry.
            kinds: set[tuple[str, str]] = set()
            count = 0
            for _, _, kind in pending:
                if len(kinds | {kind}) > MAX_SENT:
                    break
                kinds.add(kind)
                count += 1
            self._requestor.propose(Proposal(sent=frozenset(kinds)))
            for path, uid, _ in pending[:count]:
                self._store_one(path, uid)
            pending = pending[count:]

    def _store_one(self, path: Path, uid: str) -> None:
        try:
            status = self._requestor.ask(
                lambda association: _status(association.send_c_store(path))
            )
        except ValueError:
            raise StorageError(
                f"{self.address} takes no instance like {uid}: it accepted no presentation context "
                "for its SOP class and transfer syntax; nothing was stored"
            ) from None
        except OSError as error:
            raise StorageError(f"{path.name} cannot be read: {error.strerror}") from error
        if code_to_category(status) not in ("Success", "Warning"):
            raise StorageError(
                f"C-STORE of {uid} to {self.address} answered {_described(status)}; "
                "it was not stored"
            )

    def release(self) -> None:
        self._requestor.close()

    def close(self) -> None:
        self._requestor.close()


# --- questions and answers ----------------------------------------------------------------


class _Fetch:
    """A C-GET in progress: where its instances go, and what came."""

    def __init__(self, *, folder: Path | None) -> None:
        self.folder = folder
        self.received: dict[str, Path] = {}
        self.failure: OSError | None = None

    def discard(self) -> None:
        """Delete what came."""
        for path in self.received.values():
            path.unlink(missing_ok=True)
        self.received.clear()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """How a C-FIND ended, and its matches so far."""

    status: int
    matches: list[Dataset]
    unreadable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Report:
    """How a C-GET ended, by the archive's own count."""

    status: int
    completed: int
    failed: int


def _status(answer: Dataset) -> int | None:
    return int(answer.Status) if "Status" in answer else None


def _find(association: Association, identifier: Dataset) -> _Found | None:
    matches: list[Dataset] = []
    unreadable = False
    for status, answer in association.send_c_find(
        identifier, StudyRootQueryRetrieveInformationModelFind
    ):
        if "Status" not in status:
            return None
        if code_to_category(status.Status) != _PENDING:
            return _Found(status=int(status.Status), matches=matches, unreadable=unreadable)
        if answer is None:
            unreadable = True
        else:
            matches.append(answer)
    return None


def _get(association: Association, identifier: Dataset) -> _Report | None:
    for status, _ in association.send_c_get(identifier, StudyRootQueryRetrieveInformationModelGet):
        if "Status" not in status:
            return None
        if code_to_category(status.Status) != _PENDING:
            completed, warned, failed = (
                int(status.get(f"NumberOf{kind}Suboperations") or 0)
                for kind in ("Completed", "Warning", "Failed")
            )
            return _Report(status=int(status.Status), completed=completed + warned, failed=failed)
    return None


def _identifier(level: Level, keys: Mapping[str, str]) -> Dataset:
    """The keys as a data set. Values were checked; pydicom's warnings would repeat them."""
    identifier = Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.QueryRetrieveLevel = level
    for keyword, text in {UIDS[level]: "", **keys}.items():
        vr = dictionary_VR(keyword)
        value = int(text) if vr == "US" and text not in ("", "*") else text
        identifier[Tag(keyword)] = DataElement(
            Tag(keyword), vr, value, validation_mode=config.IGNORE
        )
    return identifier


def _meta(path: Path) -> tuple[str, tuple[str, str]]:
    """SOP Instance UID of a Part 10 file, and its SOP class and transfer syntax."""
    try:
        meta, _ = split_dataset(path)
        return (
            str(meta.MediaStorageSOPInstanceUID),
            (str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)),
        )
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror}") from error
    except Exception as error:  # pydicom raises anything on malformed data
        raise StorageError(f"{path.name} is no DICOM file, so it was not sent") from error


def _described(status: int) -> str:
    meaning = _MEANINGS.get(status) or code_to_category(status).lower()
    return f"0x{status:04X} ({meaning})"
