"""Instances like those that IODeep stores, to try an archive with.

They belong to a patient of their own, and may be deleted at any time.
"""

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RawDataStorage

PATIENT_ID = "IODEEP-DOCTOR"

MAY_DIFFER = frozenset(
    {
        "ContentDate",
        "ContentTime",
        "SoftwareVersions",
        "SpecificCharacterSet",
        "StudyDate",
        "StudyTime",
    }
)
"""What a record of ours may have changed; anything else, and it is not believed any more."""

_GROUP, _CREATOR = 0x7FDF, "IODEEP"
_TEXT, _POSITION, _PAYLOAD = 0x03, 0x05, 0x10
_WORDS = '{"answer":"bit for bit"}'
_PIECE_BYTES = 2**20
_DEFER_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A series to store: two private elements, and a payload in each instance.

    digests: SHA-256 of each instance's payload, by SOP Instance UID
    size:    bytes of all files
    """

    study: str
    series: str
    paths: list[Path]
    digests: dict[str, str]
    size: int


def study_uid() -> str:
    """The study of all samples."""
    return _uid("study")


def write_sample(folder: Path, *, instances: int, size: int, name: str) -> Sample:
    """A sample with so many instances of so many bytes each.

    The same ``name`` and ``size`` give the same UIDs and the same content, so that an archive
    keeps it once however often it is tried.
    """
    study, series = study_uid(), _uid(name, size, instances)
    paths, digests = [], {}
    for number in range(1, instances + 1):
        uid = _uid(name, size, instances, number)
        path = folder / f"{uid}.dcm"
        ds = _header(UID(uid), study, series, number)
        block = ds.private_block(_GROUP, _CREATOR, create=True)
        block.add_new(_TEXT, "UT", _WORDS)
        block.add_new(_POSITION, "US", [number, instances])
        digest = hashlib.sha256()
        with path.open("wb") as file:
            ds.save_as(file, enforce_file_format=True)
            # The last element by hand, so that it is never held in memory: tag, VR, length.
            file.write(b"\xdf\x7f\x10\x10OB\0\0" + size.to_bytes(4, "little"))
            for piece in _payload(size, number):
                digest.update(piece)
                file.write(piece)
        paths.append(path)
        digests[uid] = digest.hexdigest()
    return Sample(
        study=study,
        series=series,
        paths=paths,
        digests=digests,
        size=sum(path.stat().st_size for path in paths),
    )


def changes(sample: Sample, fetched: list[Path]) -> tuple[list[str], list[str]]:
    """What came back otherwise than it was sent: what is damage, and what does no harm."""
    damage: list[str] = []
    harmless: list[str] = []
    came = {path.stem: path for path in fetched}
    if missing := sample.digests.keys() - came.keys():
        damage.append(f"{len(missing)} of {len(sample.digests)} instances did not come back")
    if came.keys() - sample.digests.keys():
        harmless.append("it added instances to the series")
    for sent in sample.paths:
        if sent.stem not in came:
            continue
        try:
            worse, other = _changes(sent, came[sent.stem], sample.digests[sent.stem])
        except Exception:  # pydicom raises anything on malformed data
            worse, other = ["it cannot be read as DICOM any more"], []
        damage += worse
        harmless += other
    return list(dict.fromkeys(damage)), list(dict.fromkeys(harmless))


def _changes(sent_path: Path, got_path: Path, digest: str) -> tuple[list[str], list[str]]:
    sent, got = _read(sent_path), _read(got_path)
    standard = [tag for tag in sorted(sent.keys()) if not tag.is_private]  # the payload is large
    changed = [keyword_for_tag(tag) for tag in standard if got.get(tag) != sent[tag]]
    damage = [f"{keyword} was changed" for keyword in changed if keyword not in MAY_DIFFER]
    harmless = [f"{keyword} was changed" for keyword in changed if keyword in MAY_DIFFER]
    if got.file_meta.TransferSyntaxUID != sent.file_meta.TransferSyntaxUID:
        harmless.append(f"sent back in {got.file_meta.TransferSyntaxUID.name}")
    block = _Block(got)
    if block.creator != _CREATOR:
        damage.append("private elements were dropped")
        return damage, harmless
    if block.text(_TEXT) != _WORDS:
        damage.append("a private text was changed or dropped")
    elif block.vr(_TEXT) != "UT":
        harmless.append(f"private elements come back as {block.vr(_TEXT)}")
    if block.digest(got_path, _PAYLOAD) != digest:
        damage.append("the payload is not the one that was sent")
    if more := [keyword_for_tag(tag) or str(tag) for tag in sorted(got.keys() - sent.keys())]:
        harmless.append(f"attributes were added: {', '.join(more[:5])}")
    return damage, harmless


class _Block:
    """Our private block in an instance, whatever VR its elements have by now."""

    def __init__(self, ds: Dataset) -> None:
        self._ds = ds
        creator = ds.get_item((_GROUP, 0x0010))
        value = creator.value if creator is not None else ""
        self.creator = (value.decode() if isinstance(value, bytes) else str(value)).strip(" \0")

    def vr(self, element: int) -> str:
        found = self._ds.get_item((_GROUP, 0x1000 + element))
        return str(found.VR or "UN") if found is not None else "nothing"  # implicit VR: none

    def text(self, element: int) -> str:
        found = self._ds.get_item((_GROUP, 0x1000 + element))
        value = found.value if found is not None else ""
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
        return text.strip(" \0")

    def digest(self, path: Path, element: int) -> str:
        """SHA-256 of a value, read from the file in pieces where it is large."""
        found = self._ds.get_item((_GROUP, 0x1000 + element), keep_deferred=True)
        if found is None:
            return ""
        if found.value is not None:
            return hashlib.sha256(found.value).hexdigest()
        deferred = cast(RawDataElement, found)
        digest, left = hashlib.sha256(), deferred.length
        with path.open("rb") as file:
            file.seek(deferred.value_tell)
            while left and (piece := file.read(min(left, _PIECE_BYTES))):
                digest.update(piece)
                left -= len(piece)
        return digest.hexdigest()


def _read(path: Path) -> Dataset:
    return dcmread(path, defer_size=_DEFER_BYTES)


def _payload(size: int, seed: int) -> Iterator[bytes]:
    """Bytes that no compression shortens and no repetition explains; for ever equal for equal
    seeds, as an archive may have them under the same UID from years ago.
    """
    for start in range(0, size, _PIECE_BYTES):
        yield hashlib.shake_128(b"%d/%d" % (seed, start)).digest(min(_PIECE_BYTES, size - start))


def _header(uid: UID, study: str, series: str, number: int) -> Dataset:
    """All attributes that a version of a model has, for an archive to change."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = RawDataStorage, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
    ds.PatientID, ds.IssuerOfPatientID = PATIENT_ID, _CREATOR
    ds.PatientName = "IODEEP^DOCTOR"
    ds.PatientBirthDate = ds.PatientSex = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.StudyID, ds.StudyDate, ds.StudyTime = "DOCTOR", "20260101", "000000"
    ds.StudyDescription = "IODeep: to try the archive; may be deleted"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "OT", 1, number
    ds.SeriesDescription = "doctor"
    ds.Manufacturer, ds.SoftwareVersions = "IODeep Federation", "doctor"
    ds.ContentDate, ds.ContentTime = "20260101", "000000"
    ds.AcquisitionDateTime = ""
    ds.CreatorVersionUID = _uid("creator")
    ds.BodyPartExamined = "BRAIN"
    ds.AnatomicRegionSequence = [_coded("12738006", "SCT", "Brain")]
    ds.AcquisitionContextSequence = []
    ds.ReferencedInstanceSequence = [_referenced(_uid("parent"))]
    ds.ContributingEquipmentSequence = [_contributor()]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = RawDataStorage
    ds.file_meta.MediaStorageSOPInstanceUID = uid
    return ds


def _referenced(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = RawDataStorage, uid
    item.PurposeOfReferenceCodeSequence = [_coded("122401", "DCM", "Temporal Predecessor")]
    return item


def _contributor() -> Dataset:
    item = Dataset()
    item.Manufacturer, item.StationName = "IODeep Federation", "DOCTOR"
    item.PurposeOfReferenceCodeSequence = [_coded("109104", "DCM", "Processing Equipment")]
    return item


def _coded(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _uid(*of: object) -> str:
    number = uuid.uuid5(uuid.NAMESPACE_URL, "/".join(map(str, ("iodeep", "doctor", *of)))).int
    return f"2.25.{number}"
