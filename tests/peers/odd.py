"""Somebody else's archive, in memory, with the oddities that a test gives it.

    with odd_archive(Oddities(keeps="nothing")) as archive:
        open_gateway(archive.dimse)

It shares nothing with the archive of our own, so that one mistake is not made on both sides.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from io import BytesIO
from typing import Any, Literal, cast

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RawDataStorage,
    SegmentationStorage,
)
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.dimse_primitives import C_GET
from pynetdicom.dsutils import decode, encode
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

AE_TITLE = "ODD"

_UIDS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_MATCHED = ("PatientID", *_UIDS.values())
_PENDING, _SUCCESS, _OUT_OF_RESOURCES, _NO_SUCH_INSTANCE = 0xFF00, 0x0000, 0xA700, 0x0112
_ONLY = "1.2.840.10008.1.20.1.1"  # the one instance of storage commitment


@dataclass(frozen=True, kw_only=True, slots=True)
class Oddities:
    """What is odd about an archive; nothing unless given.

    keeps:        ``nothing`` of what it answers 0x0000 to, or only what came last of a ``series``
    full_above:   answers 0xA700 to payloads (the last element) of more bytes
    raw_data:     whether it takes Raw Data Storage
    private:      what becomes of private elements: ``un`` where it does not know their VRs
    syntax:       in which everything is given back
    changes:      one bit of each payload, the PatientID, or it adds an attribute
    finds:        all there is, twice, whatever is asked (``everything``); or a failure's status
    get:          what becomes of a C-GET; ``absent`` offers none, ``empty`` finds nothing to send,
                  ``pending`` is always about to
    reaches:      AE title and port of loopback that C-MOVE and reports of commitment go to
    commits:      to keep things: has ``none`` of the service, to ``all`` or ``nothing``, or never
                  reports (``silent``)
    associations: so many at once, further ones are rejected
    hangs:        answers nothing, once it has accepted an association
    """

    keeps: Literal["everything", "nothing", "series"] = "everything"
    full_above: int | None = None
    raw_data: bool = True
    private: Literal["kept", "un", "dropped"] = "kept"
    syntax: str = ExplicitVRLittleEndian
    changes: Literal["nothing", "payload", "patient", "more"] = "nothing"
    finds: Literal["asked", "everything"] | int = "asked"
    get: Literal["offered", "absent", "aborts", "empty", "pending"] = "offered"
    reaches: tuple[str, int] | None = None
    commits: Literal["none", "all", "nothing", "silent"] = "none"
    associations: int = 10
    hangs: bool = False


@dataclass(kw_only=True)
class OddArchive:
    """An archive that is running, and what it has.

    dimse:     its address; ``&listen=PORT`` and the like can be added to it
    instances: by SOP Instance UID, in the order in which they came
    """

    odd: Oddities
    dimse: str = ""
    instances: dict[str, Dataset] = field(default_factory=dict)
    closing: threading.Event = field(default_factory=threading.Event)

    def series(self) -> set[str]:
        return {str(ds.SeriesInstanceUID) for ds in self.instances.values()}

    # --- what it answers ------------------------------------------------------------------

    def on_echo(self, event: evt.Event) -> int:
        if self.odd.hangs:
            self.closing.wait(60)
        return _SUCCESS

    def on_store(self, event: evt.Event) -> int:
        ds = event.dataset
        if self.odd.full_above is not None and len(_last(ds).value) > self.odd.full_above:
            return _OUT_OF_RESOURCES
        if self.odd.keeps != "nothing":
            ds = self._changed(ds)
            if self.odd.keeps == "series" and ds.SeriesInstanceUID not in self.series():
                self.instances.clear()
            self.instances.setdefault(str(ds.SOPInstanceUID), ds)
        return _SUCCESS

    def on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if isinstance(self.odd.finds, int):
            yield self.odd.finds, None
            return
        asked = event.identifier
        unique = _UIDS[asked.QueryRetrieveLevel]
        found = list(self.instances.values()) * 2
        if self.odd.finds == "asked":
            found = list({ds[unique].value: ds for ds in self._matches(asked)}.values())
        for ds in found:
            answer = Dataset()
            for element in asked:
                keyword = keyword_for_tag(element.tag)
                setattr(answer, keyword, ds.get(keyword, element.value))
            yield _PENDING, answer

    def on_get(self, event: evt.Event) -> Iterator[Any]:
        if self.odd.get == "aborts":
            event.assoc.abort()
            yield 0
            return
        if self.odd.get == "pending":
            self._say_pending(event)
        yield from self._sent([] if self.odd.get == "empty" else self._matches(event.identifier))

    def _say_pending(self, event: evt.Event) -> None:
        answer = C_GET()
        answer.MessageIDBeingRespondedTo = event.request.MessageID
        answer.AffectedSOPClassUID = event.request.AffectedSOPClassUID
        answer.Status = _PENDING
        answer.NumberOfRemainingSuboperations = 1
        while event.assoc.is_established and not self.closing.wait(0.02):
            event.assoc.dimse.send_msg(answer, event.context.context_id)

    def on_move(self, event: evt.Event) -> Iterator[Any]:
        if self.odd.reaches is None or self.odd.reaches[0] != event.move_destination:
            yield None, None
            return
        found = self._matches(event.identifier)
        contexts = [build_context(ds.SOPClassUID, self.odd.syntax) for ds in found[:1]]
        yield "127.0.0.1", self.odd.reaches[1], {"contexts": contexts}
        yield from self._sent(found)

    def on_commit(self, event: evt.Event) -> tuple[int, None]:
        request = event.action_information
        if self.odd.commits != "silent" and self.odd.reaches is not None:
            threading.Thread(target=self._report, args=(request,)).start()
        return _SUCCESS, None

    def _report(self, request: Dataset) -> None:
        assert self.odd.reaches is not None
        title, port = self.odd.reaches
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        if self.odd.commits == "all":
            report.ReferencedSOPSequence = request.ReferencedSOPSequence
        else:
            report.FailedSOPSequence = request.ReferencedSOPSequence
            for item in report.FailedSOPSequence:
                item.FailureReason = _NO_SUCH_INSTANCE
        push = cast(UID, StorageCommitmentPushModel)
        ae = AE(ae_title=AE_TITLE)
        ae.add_requested_context(push)
        role = build_role(push, scp_role=True)
        association = ae.associate("127.0.0.1", port, ae_title=title, ext_neg=[role])
        if association.is_established:
            kind = 1 if self.odd.commits == "all" else 2
            association.send_n_event_report(report, kind, push, UID(_ONLY))
            association.release()

    # --- what it has ----------------------------------------------------------------------

    def _matches(self, asked: Dataset) -> list[Dataset]:
        keys = {keyword: asked.get(keyword) or "*" for keyword in _MATCHED}
        return [
            ds
            for ds in self.instances.values()
            if all(_match(str(ds.get(keyword)), key) for keyword, key in keys.items())
        ]

    def _sent(self, found: list[Dataset]) -> Iterator[Any]:
        yield len(found)
        for ds in found:
            yield _PENDING, ds

    def _changed(self, ds: Dataset) -> Dataset:
        """As it keeps it."""
        if self.odd.private == "dropped":
            ds.remove_private_tags()
        if self.odd.changes == "payload":
            payload = _last(ds).value
            _last(ds).value = bytes([payload[0] ^ 1]) + payload[1:]
        if self.odd.changes == "patient":
            ds.PatientID = "HOSPITAL-17"
        if self.odd.changes == "more":
            ds.InstitutionName = "Hospital"
        if self.odd.private == "un" or self.odd.syntax == ImplicitVRLittleEndian:
            ds = decode(BytesIO(encode(ds, True, True) or b""), True, True)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = UID(self.odd.syntax)
        return ds


def _match(value: str, key: Any) -> bool:
    """A list of UIDs, or a value with wildcards."""
    return value in key if isinstance(key, MultiValue) else fnmatchcase(value, str(key))


def _last(ds: Dataset) -> Any:
    return ds[max(ds.keys())]


@contextmanager
def odd_archive(odd: Oddities | None = None) -> Iterator[OddArchive]:
    """An archive that answers at a free port of loopback; stopped at the end."""
    odd = odd or Oddities()
    archive = OddArchive(odd=odd)
    ae = AE(ae_title=AE_TITLE)
    ae.maximum_associations = odd.associations
    ae.maximum_pdu_size = 131072
    for service, offered in {
        Verification: True,
        StudyRootQueryRetrieveInformationModelFind: True,
        StudyRootQueryRetrieveInformationModelGet: odd.get != "absent",
        StudyRootQueryRetrieveInformationModelMove: odd.reaches is not None,
        StorageCommitmentPushModel: odd.commits != "none",
    }.items():
        if offered:
            ae.add_supported_context(service)
    kinds = [MRImageStorage, SegmentationStorage, *([RawDataStorage] if odd.raw_data else [])]
    for kind in kinds:
        syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        ae.add_supported_context(kind, syntaxes, scu_role=True, scp_role=True)
    handlers: list[Any] = [
        (evt.EVT_C_ECHO, archive.on_echo),
        (evt.EVT_C_STORE, archive.on_store),
        (evt.EVT_C_FIND, archive.on_find),
        (evt.EVT_C_GET, archive.on_get),
        (evt.EVT_C_MOVE, archive.on_move),
        (evt.EVT_N_ACTION, archive.on_commit),
    ]
    server = ThreadedAssociationServer(
        ae, ("127.0.0.1", 0), AE_TITLE, ae.supported_contexts, evt_handlers=handlers
    )
    ae._servers.append(server)  # which shutdown ends
    # As start_server does; but that looks every half a second whether it shall end.
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    archive.dimse = f"dimse://{AE_TITLE}@127.0.0.1:{server.server_address[1]}"
    try:
        yield archive
    finally:
        archive.closing.set()
        ae.shutdown()
