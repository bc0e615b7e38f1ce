"""The gateway over DICOM associations: C-ECHO, C-FIND, C-GET and C-STORE."""

import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from pydicom import Dataset
from pydicom.uid import UID, RawDataStorage
from pynetdicom import StoragePresentationContexts, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    SegmentationStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)
from pynetdicom.status import code_to_category

from federation.closing import Closing
from federation.errors import PacsError, PacsUnreachable, StorageError
from federation.pacs.address import DimseAddress
from federation.pacs.association import (
    MAX_PDU_BYTES,
    STREAMING,
    TRANSFER_SYNTAXES,
    application_entity,
)
from federation.pacs.gateway import Level
from federation.pacs.matching import UIDS, matches_all

_SUCCESS = 0x0000
_PENDING = "Pending"
_MAX_CONTEXTS = 128  # PS3.8 Section 9.3.2: context identifiers are the odd numbers to 255
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")

_MEANINGS = {
    0x0111: "duplicate SOP Instance UID: other content is there under it",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0xA700: "out of resources: free space on the archive, then run again",
    0xA701: "out of resources: unable to count matches",
    0xA702: "out of resources: unable to send",
    0xA801: "unknown move destination",
    0xA900: "the identifier does not match the SOP class",
    0xC000: "the archive cannot understand it",
}
_REJECTIONS = {
    (1, 1, 3): "it does not know our AE title",
    (1, 1, 7): "it does not go by that AE title",
    (2, 3, 1): "it is busy; try again",
    (2, 3, 2): "it takes no more associations at present; try again",
}


class DimseGateway(Closing):
    """An archive over DICOM associations. Close it, or use it as a context manager.

    An association is opened when first needed, kept, and opened anew once where the archive
    ended it in between. Not for use from several threads at once.
    """

    def __init__(self, address: DimseAddress, *, timeout_s: float = 30.0) -> None:
        """``timeout_s`` bounds every single wait: to connect, and for each answer."""
        self._to = address
        self._ae = application_entity(address.calling, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._association: Association | None = None
        self._proposed: frozenset[tuple[str, str]] = frozenset()
        self._folder: Path | None = None
        self._received: dict[str, Path] = {}
        self._failure: OSError | None = None

    @property
    def address(self) -> str:
        return str(self._to)

    # --- the protocol ---------------------------------------------------------------------

    def echo(self) -> None:
        status = self._asking(lambda association: association.send_c_echo())
        if status != _SUCCESS:
            raise PacsError(f"C-ECHO to {self.address} answered {_described(status)}")

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        identifier = _identifier(level, keys)
        answers, status = self._asking(lambda association: _find(association, identifier))
        if status != _SUCCESS:
            raise PacsError(
                f"C-FIND at {level} level in {self.address} answered {_described(status)}"
            )
        unique = UIDS[level]
        found: dict[str, Dataset] = {}
        for answer in answers:
            if unique in answer and matches_all(keys, answer):
                found.setdefault(str(answer[unique].value), answer)
        return list(found.values())

    def fetch(
        self, folder: Path, *, study: str, series: str, instance: str | None = None
    ) -> list[Path]:
        level: Level = "SERIES" if instance is None else "IMAGE"
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        if instance is not None:
            keys["SOPInstanceUID"] = instance
        identifier = _identifier(level, keys)
        what = f"series {series}" if instance is None else f"instance {instance}"
        self._folder, self._received, self._failure = folder, {}, None
        try:
            report = self._asking(lambda association: _get(association, identifier))
        finally:
            self._folder = None
        if self._failure is not None:
            raise StorageError(
                f"{what} of {self.address} cannot be written to {folder}: "
                f"{self._failure.strerror}. Free space there, then run again"
            ) from self._failure
        if report.status != _SUCCESS or report.failed or report.completed != len(self._received):
            raise PacsError(
                f"C-GET of {what} from {self.address} answered {_described(report.status)}: "
                f"{len(self._received)} instances came, {report.failed} failed"
            )
        if not self._received:
            raise PacsError(f"C-GET of {what} from {self.address} brought nothing: it is not there")
        return list(self._received.values())

    def store(self, paths: Iterable[Path]) -> None:
        files = [(path, *_meta(path)) for path in paths]
        pending = [(path, uid, (sop_class, syntax)) for path, uid, sop_class, syntax in files]
        while pending:
            # As many files in a row as one association's contexts can carry.
            contexts: set[tuple[str, str]] = set()
            batch = []
            for item in pending:
                if len(contexts | {item[2]}) > _MAX_CONTEXTS // 2:
                    break
                contexts.add(item[2])
                batch.append(item)
            pending = pending[len(batch) :]
            self._propose(frozenset(contexts))
            for path, uid, _ in batch:
                self._store_one(path, uid)

    def close(self) -> None:
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None

    # --- storing and receiving ------------------------------------------------------------

    def _store_one(self, path: Path, uid: str) -> None:
        try:
            status = self._asking(lambda association: association.send_c_store(path))
        except ValueError:
            raise StorageError(
                f"{self.address} takes no instance like {uid}: it accepted no presentation context "
                "for its SOP class and transfer syntax; nothing was stored"
            ) from None
        if code_to_category(status) not in ("Success", "Warning"):
            raise StorageError(
                f"C-STORE of {uid} to {self.address} answered {_described(status)}; "
                "it was not stored"
            )

    def _on_store(self, event: evt.Event) -> int:
        """An instance of a C-GET: move it from pynetdicom's temporary file to the folder."""
        uid = str(cast(C_STORE, event.request).AffectedSOPInstanceUID)
        if self._folder is None or len(uid) > 64 or not _UID.fullmatch(uid):
            return 0xC000
        path = self._folder / f"{uid}.dcm"
        try:
            shutil.copyfile(event.dataset_path, path)
        except OSError as error:
            self._failure = error
            path.unlink(missing_ok=True)
            return 0xA700
        self._received[uid] = path
        return _SUCCESS

    # --- the association ------------------------------------------------------------------

    def _propose(self, contexts: frozenset[tuple[str, str]]) -> None:
        """Make sure that the next association can send instances of these kinds."""
        if not contexts <= self._proposed:
            self.close()
            self._proposed = contexts

    def _asking(self, ask: Any) -> Any:
        """Ask over the association; once more over a new one where the old one had ended."""
        kept = self._association is not None and self._association.is_established
        answer = self._ask_once(ask)
        if answer is None and kept:
            answer = self._ask_once(ask)
        if answer is None:
            raise PacsUnreachable(
                f"{self.address} ended the association, or did not answer within "
                f"{self._timeout_s:g} s. Is the archive still running?"
            )
        return answer

    def _ask_once(self, ask: Any) -> Any:
        """The answer, or None where the association ended before one came."""
        try:
            answer = ask(self._established())
        except RuntimeError:  # pynetdicom: the association is not established (any more)
            answer = None
        if isinstance(answer, Dataset):
            answer = int(answer.Status) if "Status" in answer else None
        if answer is None:
            self._abandon()
        return answer

    def _abandon(self) -> None:
        if self._association is not None:
            with suppress(Exception):  # it is broken already; whatever ending it says is no news
                self._association.abort()
        self._association = None

    def _established(self) -> Association:
        if self._association is None or not self._association.is_established:
            self._association = self._associate()
        return self._association

    def _associate(self) -> Association:
        contexts, roles = _contexts(self._proposed)
        association = self._ae.associate(
            self._to.host,
            self._to.port,
            contexts=contexts,
            ae_title=self._to.called,
            max_pdu=MAX_PDU_BYTES,
            ext_neg=roles,
            evt_handlers=[
                *STREAMING,
                (evt.EVT_C_STORE, self._on_store),
            ],
        )
        if association.is_established:
            return association
        if association.is_rejected:
            primitive = cast(Any, association.acceptor.primitive)
            reason = (primitive.result, primitive.result_source, primitive.diagnostic)
            why = _REJECTIONS.get(reason, f"result {reason[0]}, source {reason[1]}, {reason[2]}")
            raise PacsUnreachable(
                f"{self.address} rejected the association: {why}. Called {self._to.called!r}, "
                f"calling {self._to.calling!r}: compare with the archive's configuration"
            )
        raise PacsUnreachable(
            f"no association with {self.address} within {self._timeout_s:g} s: "
            "is the archive running, and are host and port right?"
        )


class _Report:
    """How a C-GET ended."""

    def __init__(self, status: int, completed: int, failed: int) -> None:
        self.status, self.completed, self.failed = status, completed, failed


def _find(association: Association, identifier: Dataset) -> tuple[list[Dataset], int] | None:
    answers: list[Dataset] = []
    for status, answer in association.send_c_find(
        identifier, StudyRootQueryRetrieveInformationModelFind
    ):
        if "Status" not in status:
            return None
        if code_to_category(status.Status) != _PENDING:
            return answers, int(status.Status)
        if answer is not None:
            answers.append(answer)
    return None


def _get(association: Association, identifier: Dataset) -> _Report | None:
    for status, _ in association.send_c_get(identifier, StudyRootQueryRetrieveInformationModelGet):
        if "Status" not in status:
            return None
        if code_to_category(status.Status) != _PENDING:
            return _Report(
                int(status.Status),
                int(status.get("NumberOfCompletedSuboperations", 0) or 0)
                + int(status.get("NumberOfWarningSuboperations", 0) or 0),
                int(status.get("NumberOfFailedSuboperations", 0) or 0),
            )
    return None


def _identifier(level: Level, keys: Mapping[str, str]) -> Dataset:
    identifier = Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    if UIDS[level] not in identifier:
        setattr(identifier, UIDS[level], "")
    return identifier


def _contexts(proposed: frozenset[tuple[str, str]]) -> tuple[list[PresentationContext], list[Any]]:
    """Contexts to query, to send what is proposed, and to receive what archives hold."""
    contexts = [
        build_context(Verification),
        build_context(StudyRootQueryRetrieveInformationModelFind),
        build_context(StudyRootQueryRetrieveInformationModelGet),
    ]
    contexts += [build_context(sop_class, syntax) for sop_class, syntax in sorted(proposed)]
    received = [str(context.abstract_syntax) for context in StoragePresentationContexts]
    # What matters most here comes first, in case the rest does not fit.
    received = list(dict.fromkeys([str(RawDataStorage), str(SegmentationStorage), *received]))
    received = received[: _MAX_CONTEXTS - len(contexts)]
    contexts += [build_context(sop_class, list(TRANSFER_SYNTAXES)) for sop_class in received]
    sent = {sop_class for sop_class, _ in proposed}
    roles = [
        build_role(UID(sop_class), scu_role=sop_class in sent, scp_role=True)
        for sop_class in received
    ]
    return contexts, roles


def _meta(path: Path) -> tuple[str, str, str]:
    """SOP Instance UID, SOP Class UID and transfer syntax of a Part 10 file."""
    try:
        meta, _ = split_dataset(path)
        return (
            str(meta.MediaStorageSOPInstanceUID),
            str(meta.MediaStorageSOPClassUID),
            str(meta.TransferSyntaxUID),
        )
    except Exception as error:  # pydicom raises anything on malformed data
        raise StorageError(f"{path.name} is no DICOM file, so it was not sent") from error


def _described(status: int) -> str:
    meaning = _MEANINGS.get(status) or code_to_category(status).lower()
    return f"0x{status:04X} ({meaning})"
