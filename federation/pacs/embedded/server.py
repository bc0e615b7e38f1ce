"""The embedded PACS on the network: C-ECHO, C-STORE, C-FIND, C-GET, C-MOVE, storage commitment.

Instances stream between the association and the archive's files in both directions.
"""

import errno
import logging
from collections.abc import Iterable, Iterator
from typing import Any, cast

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from federation.closing import Closing
from federation.errors import PacsError, StorageError
from federation.pacs.address import DimseAddress, check_ae_title
from federation.pacs.attributes import UIDS, NotAsAnnounced, NotStorable, text_of
from federation.pacs.dimse.acceptor import Acceptor
from federation.pacs.dimse.admission import Admission, Caller
from federation.pacs.dimse.association import (
    IDENTIFIER_SYNTAXES,
    MAX_CONTEXTS,
    STREAMING,
    TRANSFER_SYNTAXES,
    application_entity,
)
from federation.pacs.dimse.receiving import receive_into
from federation.pacs.embedded.archive import Archive, DuplicateError, StoredInstance
from federation.pacs.embedded.committing import Commitments
from federation.pacs.embedded.sending import CANCEL, PENDING, send_from_files, sent
from federation.pacs.gateway import Level
from federation.pacs.incoming import IncomingFile
from federation.pacs.matching import has_upper_keys
from federation.pacs.tls import Tls

TIMEOUT_S = 120.0

# PS3.4 Annexes B.2.3, C.4.1.1.4, C.4.2.1.5 and C.4.3.1.4; PS3.7 Annex C
SUCCESS = 0x0000
DUPLICATE = 0x0111
OUT_OF_RESOURCES = 0xA700
NOT_THE_SOP_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000

_QUESTIONS = (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

_log = logging.getLogger("iodeep.pacs")


class ArchiveServer(Closing):
    """An archive answering at an address. Close it, or use it as a context manager.

    condition: what the check of the archive found at the start
    """

    def __init__(
        self,
        archive: Archive,
        *,
        ae_title: str = "IODEEP",
        host: str = "127.0.0.1",
        port: int = 0,
        callers: Iterable[Caller] = (),
        destinations: Iterable[DimseAddress] = (),
        tls: Tls | None = None,
        takes_only: bool = False,
    ) -> None:
        """Port 0 is any free one. Raises :class:`PacsError` where it cannot be listened at.

        callers:      who may associate; everybody unless some are named
        destinations: the application entities that C-MOVE may send to, and reports of storage
                      commitment
        tls:          our certificate; with a ``ca``, callers must have one of it, too
        takes_only:   it stores and commits, and answers no question about what it holds

        Raises what :meth:`Archive.check` does, too, and :class:`ConfigError` for TLS files that
        cannot be used.
        """
        self.archive = archive
        self._closed = False
        self.ae_title = check_ae_title(ae_title)
        self._destinations = {one.called: one for one in destinations}
        secured = None if tls is None else tls.server()
        self.condition = archive.check()
        ae = _application_entity(self.ae_title, takes_only=takes_only)
        self._commitments = Commitments(archive, ae, self._destinations)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._on_open),
            *STREAMING,
            *self._commitments.handlers,
            (evt.EVT_ESTABLISHED, send_from_files),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_C_GET, self._on_get),
            (evt.EVT_C_MOVE, self._on_move),
        ]
        try:
            self._acceptor = Acceptor(
                ae,
                (host, port),
                admission=Admission.of(callers),
                tls=secured,
                handlers=handlers,
            )
        except (OSError, OverflowError) as error:
            raise PacsError(_not_listening(host, port, error)) from error
        self.host = host
        self.port = int(self._acceptor.server_address[1])

    @property
    def address(self) -> str:
        """The archive's address: ``dimse://AE@host:port``."""
        return str(DimseAddress(called=self.ae_title, host=self.host, port=self.port))

    def close(self) -> None:
        """Stop listening and end open associations. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        self._acceptor.close()
        self._commitments.close()

    # --- what is asked --------------------------------------------------------------------

    def _on_open(self, event: evt.Event) -> None:
        receive_into(event.assoc, lambda: self.archive.incoming, self.archive.room)

    def _on_store(self, event: evt.Event) -> int:
        request = cast(C_STORE, event.request)
        try:
            with cast(IncomingFile, request._dataset_file) as file:
                self.archive.take(file)
        except NotAsAnnounced as error:
            _log.warning("C-STORE refused: %s", error)
            return NOT_THE_SOP_CLASS
        except NotStorable as error:
            _log.warning("C-STORE refused: %s", error)
            return CANNOT_UNDERSTAND
        except DuplicateError as error:
            _log.warning("C-STORE refused: %s", error)
            return DUPLICATE
        except StorageError as error:
            _log.error("C-STORE failed: %s", error)
            return OUT_OF_RESOURCES
        _log.info(
            "stored %s from %s", request.AffectedSOPInstanceUID, event.assoc.requestor.ae_title
        )
        return SUCCESS

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        identifier = event.identifier
        level, keys = _level(identifier), _keys(identifier)
        if level is None or not has_upper_keys(level, keys):
            yield NOT_THE_SOP_CLASS, None
            return
        for answer in self.archive.find(level, keys):
            if event.is_cancelled:
                yield CANCEL, None
                return
            answer.QueryRetrieveLevel = level
            answer.RetrieveAETitle = self.ae_title
            yield PENDING, answer

    def _on_get(self, event: evt.Event) -> Iterator[Any]:
        found = self._retrieved(event.identifier)
        if found is None:
            yield 1  # the number of sub-operations must come first, and be more than none
            yield NOT_THE_SOP_CLASS, None
            return
        yield len(found)
        yield from sent(found, event)

    def _on_move(self, event: evt.Event) -> Iterator[Any]:
        destination = self._destinations.get(str(event.move_destination).strip())
        if destination is None:
            yield None, None  # pynetdicom answers 0xA801, unknown move destination
            return
        found = self._retrieved(event.identifier) or []
        contexts = sorted({(one.sop_class, one.transfer_syntax) for one in found})
        yield (
            destination.host,
            destination.port,
            {
                "contexts": [build_context(*pair) for pair in contexts[:MAX_CONTEXTS]],
                "evt_handlers": [*STREAMING, (evt.EVT_ESTABLISHED, send_from_files)],
                "tls_args": destination.tls and (destination.tls.client(), destination.host),
            },
        )
        yield len(found)
        yield from sent(found, event)

    def _retrieved(self, identifier: Dataset) -> list[StoredInstance] | None:
        """The instances that a request names, by the unique keys of its level; None if by none."""
        level, keys = _level(identifier), _keys(identifier)
        if level is None or not has_upper_keys(level, keys) or not keys.get(UIDS[level]):
            return None
        return self.archive.instances(
            study=keys.get("StudyInstanceUID", ""),
            series=keys.get("SeriesInstanceUID", "") if level != "STUDY" else "",
            instance=keys["SOPInstanceUID"] if level == "IMAGE" else "",
        )


def _application_entity(title: str, *, takes_only: bool) -> AE:
    ae = application_entity(title, timeout_s=TIMEOUT_S)
    ae.require_called_aet = True
    ae.add_supported_context(Verification, list(IDENTIFIER_SYNTAXES))
    for question in () if takes_only else _QUESTIONS:
        ae.add_supported_context(question, list(IDENTIFIER_SYNTAXES))
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(
            cast(UID, context.abstract_syntax),
            list(TRANSFER_SYNTAXES),
            scu_role=not takes_only or None,
            scp_role=not takes_only or None,
        )
    return ae


def _level(identifier: Dataset) -> Level | None:
    level = text_of(identifier, "QueryRetrieveLevel")
    return cast(Level, level) if level in UIDS else None


def _keys(identifier: Dataset) -> dict[str, str]:
    """A request's keys as text. Sequences and private elements are not matched here."""
    keywords = {keyword_for_tag(tag) for tag in identifier.keys()}  # noqa: SIM118  # raw elements
    keywords -= {"", "QueryRetrieveLevel", "SpecificCharacterSet"}
    return {keyword: text_of(identifier, keyword) for keyword in sorted(keywords)}


def _not_listening(host: str, port: int, error: OSError | OverflowError) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; choose another with --port, or 0 for any free one"
    why = getattr(error, "strerror", None) or str(error)
    return f"port {port} on {host} cannot be listened at ({why}); choose another with --port"
