"""The embedded PACS on the network: C-ECHO, C-STORE, C-FIND, C-GET and C-MOVE.

Instances stream between the association and the archive's files in both directions.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AllStoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from federation.closing import Closing
from federation.errors import PacsError, StorageError
from federation.pacs.address import check_ae_title
from federation.pacs.archive import Archive, DuplicateError, NotStorable, StoredInstance
from federation.pacs.association import (
    STREAMING,
    TRANSFER_SYNTAXES,
    application_entity,
    cut_off,
)
from federation.pacs.gateway import Level
from federation.pacs.matching import UIDS, text_of

MAX_ASSOCIATIONS = 32
TIMEOUT_S = 120.0

# PS3.4 Annexes B.2.3, C.4.1.1.4, C.4.2.1.5 and C.4.3.1.4; PS3.7 Annex C
SUCCESS = 0x0000
PENDING = 0xFF00
CANCEL = 0xFE00
DUPLICATE = 0x0111
OUT_OF_RESOURCES = 0xA700
UNKNOWN_DESTINATION = 0xA801
NOT_THE_SOP_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000

_log = logging.getLogger("iodeep.pacs")


class ArchiveServer(Closing):
    """An archive answering at an address. Close it, or use it as a context manager.

    destinations: the application entities that C-MOVE may send to, by title: host and port
    """

    def __init__(
        self,
        archive: Archive,
        *,
        ae_title: str = "IODEEP",
        host: str = "127.0.0.1",
        port: int = 0,
        destinations: Mapping[str, tuple[str, int]] | None = None,
    ) -> None:
        """Port 0 is any free one. Raises :class:`PacsError` where the port is in use."""
        self.archive = archive
        self._closed = False
        self.ae_title = check_ae_title(ae_title)
        self._destinations = dict(destinations or {})
        archive.remove_leftovers()
        ae = application_entity(self.ae_title, timeout_s=TIMEOUT_S)
        ae.require_called_aet = True
        ae.maximum_associations = MAX_ASSOCIATIONS
        ae.add_supported_context(Verification)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelMove)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(
                cast(UID, context.abstract_syntax),
                list(TRANSFER_SYNTAXES),
                scu_role=True,
                scp_role=True,
            )
        handlers: list[Any] = [
            *STREAMING,
            (evt.EVT_ESTABLISHED, _send_from_files),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_C_GET, self._on_get),
            (evt.EVT_C_MOVE, self._on_move),
        ]
        try:
            server = ae.start_server((host, port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise PacsError(
                f"port {port} on {host} cannot be listened at ({error.strerror}); "
                "choose another, or 0 for any free one"
            ) from error
        self._server = cast(Any, server)
        self.host = host
        self.port: int = self._server.server_address[1]

    @property
    def address(self) -> str:
        """The archive's address: ``dimse://AE@host:port``."""
        return f"dimse://{self.ae_title}@{self.host}:{self.port}"

    def close(self) -> None:
        """Stop listening and end open associations. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        self._server.shutdown()
        for association in self._server.active_associations:
            cut_off(association)

    # --- what is asked --------------------------------------------------------------------

    def _on_store(self, event: evt.Event) -> int:
        try:
            self.archive.ingest(event.dataset_path)
        except NotStorable as error:
            _log.warning("C-STORE refused: %s", error)
            return CANNOT_UNDERSTAND
        except DuplicateError as error:
            _log.warning("C-STORE refused: %s", error)
            return DUPLICATE
        except StorageError as error:
            _log.error("C-STORE failed: %s", error)
            return OUT_OF_RESOURCES
        return SUCCESS

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        identifier = event.identifier
        level = _level(identifier)
        if level is None or not _has_upper_keys(identifier, level):
            yield NOT_THE_SOP_CLASS, None
            return
        for answer in self.archive.find(level, _keys(identifier)):
            if event.is_cancelled:
                yield CANCEL, None
                return
            answer.QueryRetrieveLevel = level
            answer.RetrieveAETitle = self.ae_title
            yield PENDING, answer

    def _on_get(self, event: evt.Event) -> Iterator[Any]:
        found = self._retrieved(event.identifier)
        yield len(found)
        yield from _sent(found, event)

    def _on_move(self, event: evt.Event) -> Iterator[Any]:
        destination = self._destinations.get(str(event.move_destination).strip())
        if destination is None:
            yield None, None  # pynetdicom answers 0xA801, unknown move destination
            return
        found = self._retrieved(event.identifier)
        contexts = {(one.sop_class, one.transfer_syntax) for one in found}
        yield (
            *destination,
            {
                "contexts": [build_context(*pair) for pair in sorted(contexts)],
                "evt_handlers": [*STREAMING, (evt.EVT_ESTABLISHED, _send_from_files)],
            },
        )
        yield len(found)
        yield from _sent(found, event)

    def _retrieved(self, identifier: Dataset) -> list[StoredInstance]:
        """The instances that a retrieve request names, by the unique keys of its level."""
        level = _level(identifier)
        if level is None or not _has_upper_keys(identifier, level):
            return []
        study, series, instance = (text_of(identifier, keyword) for keyword in UIDS.values())
        wanted = {"STUDY": study, "SERIES": series, "IMAGE": instance}[level]
        if not wanted:
            return []
        return self.archive.instances(
            study=study,
            series=series if level != "STUDY" else "",
            instance=instance if level == "IMAGE" else "",
        )


def _level(identifier: Dataset) -> Level | None:
    level = identifier.get("QueryRetrieveLevel", "")
    return cast(Level, level) if level in UIDS else None


def _has_upper_keys(identifier: Dataset, level: Level) -> bool:
    """Hierarchical queries name the entities above their level (PS3.4 Section C.4.1.3.1.1)."""
    above = {"STUDY": (), "SERIES": ("STUDY",), "IMAGE": ("STUDY", "SERIES")}[level]
    return all(text_of(identifier, UIDS[upper]) for upper in above)


def _keys(identifier: Dataset) -> dict[str, str]:
    return {
        element.keyword: text_of(identifier, element.keyword)
        for element in identifier
        if element.keyword and element.keyword not in ("QueryRetrieveLevel", "SpecificCharacterSet")
    }


# --- sending files ------------------------------------------------------------------------


class _Stored(Dataset):
    """Stands for an instance in a file: pynetdicom's services want a Dataset to pass on."""

    path: Path


def _sent(found: list[StoredInstance], event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
    for instance in found:
        if event.is_cancelled:
            yield CANCEL, None
            return
        stored = _Stored()
        stored.SOPInstanceUID = instance.uid
        object.__setattr__(stored, "path", instance.path)
        yield PENDING, stored


def _send_from_files(event: evt.Event) -> None:
    """Handler of EVT_ESTABLISHED: let the association send a :class:`_Stored` from its file.

    pynetdicom's retrieve services pass datasets to ``send_c_store``, which takes a path as
    well; in between they insist on a Dataset.
    """
    association = event.assoc
    send = association.send_c_store

    def send_c_store(dataset: Any, *args: Any, **kwargs: Any) -> Dataset:
        source = dataset.path if isinstance(dataset, _Stored) else dataset
        return send(source, *args, **kwargs)

    association.send_c_store = send_c_store  # type: ignore[method-assign]
