"""Storing over HTTP (STOW-RS, PS3.18 Section 10.5)."""

from pydicom import Dataset
from pydicom.sequence import Sequence

from federation.errors import PacsError, PacsUnreachable, StorageError
from federation.pacs.attributes import text_of
from federation.pacs.part10 import InstanceFile
from federation.pacs.web.dicomjson import NotDicomJson, read_dataset
from federation.pacs.web.http import WebConnection
from federation.pacs.web.multipart import OnePart

_ACCEPT = "application/dicom+json"
_NONE_STORED = 409  # also where there was only one
_REASONS = {
    0x0110: "the archive failed",
    0x0111: "duplicate SOP Instance UID: other content is there under it",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0xC122: "transfer syntax not supported",
}
_RANGES = {
    0xA7: "out of resources: free space on the archive, then run again",
    0xA9: "the data set does not match the SOP class",
    **dict.fromkeys(range(0xC0, 0xD0), "the archive cannot understand it"),
}


def store_instance(connection: WebConnection, instance: InstanceFile) -> None:
    """Send an instance.

    Raises :class:`StorageError` unless the archive lists it as stored, though with a warning.
    """
    uid = instance.uid
    what = f"the storing of {uid}"
    try:
        with (
            OnePart(instance.path) as body,
            connection.ask(
                what, "/studies", accept=_ACCEPT, body=body, also=frozenset({_NONE_STORED})
            ) as answer,
        ):
            status, document = answer.status, answer.json()
        said = f"{connection.address} answered {status} to {what}"
        report = Dataset() if document is None else read_dataset(document)
    except (PacsUnreachable, StorageError):
        raise
    except NotDicomJson as error:
        raise StorageError(f"{said} with JSON that is no DICOM ({error})") from None
    except PacsError as error:
        raise StorageError(f"{error}. Take it as not stored") from error
    for item in [*_items(report, "FailedSOPSequence"), *_items(report, "OtherFailuresSequence")]:
        raise StorageError(f"{said}: {_reason(item)}; it was not stored")
    if uid not in {
        text_of(item, "ReferencedSOPInstanceUID")
        for item in _items(report, "ReferencedSOPSequence")
    }:
        raise StorageError(f"{said}, but does not list it among what it stored")


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    """A sequence's items; none where it is absent, or no sequence."""
    value = ds.get(keyword)
    return list(value) if isinstance(value, Sequence) else []


def _reason(item: Dataset) -> str:
    """A Failure Reason (PS3.18 Section 10.5.3) as a number and in words."""
    text = text_of(item, "FailureReason")
    if not text.isdecimal():
        return "it failed"
    reason = int(text)
    meaning = _REASONS.get(reason) or _RANGES.get(reason >> 8) or "failure"
    return f"0x{reason:04X} ({meaning})"
