"""Instances like those that IODeep stores, to try an archive with.

They belong to a patient of their own, and may be deleted at any time.
"""

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RawDataStorage

PATIENT_ID = "IODEEP-DOCTOR"

_GROUP, _CREATOR = 0x7FDF, "IODEEP"
_TEXT, _POSITION, _PAYLOAD = 0x03, 0x05, 0x10
_WORDS = '{"answer":"bit for bit"}'
_PIECE_BYTES = 2**20
_DEFER_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A series to store: two private elements, and a payload in each instance.

    digests: SHA-256 of each instance's payload, by SOP Instance UID
    """

    study: str
    series: str
    paths: list[Path]
    digests: dict[str, str]


def write_sample(folder: Path, *, instances: int, size: int, name: str) -> Sample:
    """A sample with so many instances of so many bytes each.

    The same ``name`` and ``size`` give the same UIDs and the same content, so that an archive
    keeps it once however often it is tried.
    """
    study, series = _uid("study"), _uid(name, size, instances)
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
    return Sample(study=study, series=series, paths=paths, digests=digests)


def changes(sample: Sample, fetched: list[Path]) -> tuple[list[str], list[str]]:
    """What came back otherwise than it was sent: what is damage, and what does no harm."""
    damage: list[str] = []
    harmless: list[str] = []
    came = {path.stem for path in fetched}
    if missing := sample.digests.keys() - came:
        damage.append(f"{len(missing)} of {len(sample.digests)} instances did not come back")
    for path in fetched:
        sent = _read(sample.paths[0].parent / path.name)
        got = _read(path)
        if got.file_meta.TransferSyntaxUID != sent.file_meta.TransferSyntaxUID:
            harmless.append(f"sent back in {got.file_meta.TransferSyntaxUID.name}")
        block = _Block(got)
        if block.creator != _CREATOR:
            damage.append("private elements were dropped")
            continue
        if block.text(_TEXT) != _WORDS:
            damage.append("a private text was changed or dropped")
        if block.vr(_TEXT) != "UT":
            harmless.append(f"private elements come back as {block.vr(_TEXT)}")
        if block.digest(path, _PAYLOAD) != sample.digests.get(path.stem):
            damage.append("the payload is not the one that was sent")
        damage += [
            f"{element.keyword} was changed"
            for element in sent
            if not element.tag.is_private
            and got.get(element.tag, None) != element
            and element.keyword != "SpecificCharacterSet"
        ]
        if more := [e.keyword or str(e.tag) for e in got if e.tag not in sent]:
            harmless.append(f"attributes were added: {', '.join(more[:5])}")
    return list(dict.fromkeys(damage)), list(dict.fromkeys(harmless))


class _Block:
    """Our private block in an instance, whatever VR its elements have by now."""

    def __init__(self, ds: Dataset) -> None:
        self._ds = ds
        creator = ds.get_item((_GROUP, 0x0010))
        value = creator.value if creator is not None else ""
        self.creator = (value.decode() if isinstance(value, bytes) else str(value)).strip(" \0")

    def vr(self, element: int) -> str:
        found = self._ds.get_item((_GROUP, 0x1000 + element))
        return str(found.VR) if found is not None else "nothing"

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
    """Bytes that no compression shortens and no repetition explains; equal for equal seeds."""
    generator = np.random.default_rng(seed)
    for start in range(0, size, _PIECE_BYTES):
        yield generator.bytes(min(_PIECE_BYTES, size - start))


def _header(uid: UID, study: str, series: str, number: int) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = RawDataStorage, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
    ds.PatientID, ds.PatientName = PATIENT_ID, "IODEEP^DOCTOR"
    ds.PatientBirthDate = ds.PatientSex = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.StudyID, ds.StudyDate, ds.StudyTime = "DOCTOR", "20260101", "000000"
    ds.StudyDescription = "IODeep: to try the archive; may be deleted"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "OT", 1, number
    ds.SeriesDescription = "doctor"
    ds.Manufacturer = "IODeep Federation"
    ds.ContentDate, ds.ContentTime = "20260101", "000000"
    ds.AcquisitionDateTime = ""
    ds.AcquisitionContextSequence = []
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = RawDataStorage
    ds.file_meta.MediaStorageSOPInstanceUID = uid
    return ds


def _uid(*of: object) -> str:
    number = uuid.uuid5(uuid.NAMESPACE_URL, "/".join(map(str, ("iodeep", "doctor", *of)))).int
    return f"2.25.{number}"
