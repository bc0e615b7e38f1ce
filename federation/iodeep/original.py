"""Objects as the original IODeep code writes them: read without believing them, and written.

Contino, Cruciata, Gambino, Pirrone, *IODeep*, 2024: (0017,0016) is the layer JSON as the text of a
Python dict, (0017,0018) base64 of what ``torch.save`` makes of the weights, (0017,0020) a name.
They lie where private creators belong (PS3.5 Section 7.8.1) and have none, in Implicit VR Little
Endian. The pickle is copied out, and never opened here.
"""

import base64
import binascii
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RawDataStorage,
)

from federation.errors import CodecError, ConfigError
from federation.iodeep.labels import MODALITIES, Concept, Line, find_concept
from federation.iodeep.regions import REGIONS

MAX_DOCUMENT_BYTES = 2**16
MAX_WEIGHTS_BYTES = 2**32 - 2
"""Of base64: what the length of a DICOM element can say (PS3.5 Section 7.1)."""

_MAX_DEPTH = 8
_LABEL_BYTES = 64
_CHUNK_BYTES = 3 * 2**20
_DEFER_BYTES = 4096

_ARCHITECTURE = 0x00170016
_WEIGHTS = 0x00170018
_NAME = 0x00170020
_UID = 0x00170022

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'[ !#-&(-\[\]-~]*'|"[ !#-&(-\[\]-~]*")|(?P<word>[A-Za-z]{4,5})"""
    r"""|(?P<plain>[{}\[\]:,]|-?[0-9]{1,17}(?:\.[0-9]{1,17})?(?:e[+-]?[0-9]{1,3})?(?![0-9.])))\s*""",
    re.ASCII,
)
_WORDS = {"True": "true", "False": "false", "None": "null"}  # what JSON calls them
_OPENING = ("{", "[")
_CLOSING = ("}", "]")
_TERMS = {region.term: code for code, region in REGIONS.items() if region.term}


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """What an original object says, its weights left in the file.

    document:  the layer JSON, as read: not checked yet
    name:      what its author called it
    modality:  such as ``MR``; "" where it says none
    region:    what Body Part Examined means, where that is a term of PS3.16 Annex L
    weights:   the file's base64 text, from ``offset``, ``length`` bytes
    """

    path: Path
    document: dict[str, JsonValue]
    name: str
    modality: str
    region: Concept | None
    offset: int
    length: int

    @property
    def line(self) -> Line:
        """The line that the object's own labels and name make.

        Raises :class:`ConfigError` where they do not: then one has to be given.
        """
        modality = "MR" if self.modality == "MRI" else self.modality
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower())[:24].strip("-")
        if modality not in MODALITIES or self.region is None or not slug:
            raise ConfigError(
                f"{self.path.name} does not say what its network is for: modality "
                f"{self.modality!r:.20}, body part {'known' if self.region else 'unknown'}, name "
                f"{self.name!r:.40}. Name its line: --line MR/brain/-/unet"
            )
        return Line(modality=modality, region=self.region, slug=slug)

    def copy_weights(self, target: Path) -> None:
        """Write what ``torch.save`` made, decoded a chunk at a time; nothing of it is opened.

        Raises :class:`CodecError` where it is no base64.
        """
        with self.path.open("rb") as source, target.open("wb") as decoded:
            source.seek(self.offset)
            left, rest, ended = self.length, b"", False
            while left:
                text = source.read(min(left, _CHUNK_BYTES))
                if not text:
                    raise CodecError("the weights of an original object are cut short")
                left -= len(text)
                text = rest + text.translate(None, b" \0\r\n")
                whole = len(text) // 4 * 4 if left else len(text)
                if ended and text:
                    raise CodecError(_NO_BASE64)
                ended = text[:whole].endswith(b"=")
                decoded.write(_decoded(text[:whole]))
                rest = text[whole:]


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise CodecError(_NO_BASE64) from error


_NO_BASE64 = "the weights of an original object, (0017,0018), are no base64 text"


def read_original(path: Path) -> Original:
    """Read an object that the original IODeep code wrote.

    Raises :class:`ConfigError` for a file that cannot be read, :class:`CodecError` for what is no
    such object: no DICOM, an element missing or too long, an architecture that is no plain dict.
    """
    ds = _read(path)
    weights = ds.get_item(_WEIGHTS, keep_deferred=True) if _WEIGHTS in ds else None
    if _ARCHITECTURE not in ds or not isinstance(weights, RawDataElement):
        raise CodecError(
            f"{path.name} is no object of the original IODeep: expected an architecture in "
            "(0017,0016) and weights in (0017,0018)"
        )
    if _is_deflated(ds):
        raise CodecError(f"{path.name} is deflated; store it in another transfer syntax first")
    length, offset, size = weights.length, weights.value_tell, path.stat().st_size
    if not 0 < length <= min(size - offset, MAX_WEIGHTS_BYTES):
        raise CodecError(f"{path.name}: the weights' length, {length}, does not fit the file")
    term = _TERMS.get(_label(ds, 0x00180015).upper())
    return Original(
        path=path,
        document=parse_document(_text(ds, _ARCHITECTURE, path, MAX_DOCUMENT_BYTES)),
        name=_label(ds, _NAME),
        modality=_label(ds, 0x00080060).upper(),
        region=find_concept(term) if term else None,
        offset=offset,
        length=length,
    )


def write_original(
    path: Path,
    *,
    document: dict[str, JsonValue],
    weights: bytes,
    name: str,
    modality: str,
    body_part: str,
    uid: str,
    study: tuple[str, str],
) -> None:
    """Write an object in which the original's reader finds its elements.

    Unlike the original's, its SOP Class UID in the data set is Raw Data's, and it has a Study Date:
    so an archive takes it. ``weights`` is what ``torch.save`` made of a state dict; it is held in
    memory, as that form demands. ``study`` is the date and time of its study, as DA and TM. Raises
    :class:`CodecError` where it is more than an element can hold.
    """
    if len(weights) > MAX_WEIGHTS_BYTES // 4 * 3:
        raise CodecError(
            f"{len(weights)} bytes of weights are more than the original's form can hold"
        )
    shape: Any = document["input_shape"]
    channels = _channels(document)
    ds = Dataset()
    ds.SOPClassUID = RawDataStorage
    ds.SOPInstanceUID = ds.SeriesInstanceUID = ds.StudyInstanceUID = UID(uid)
    ds.StudyDate, ds.StudyTime = study
    ds.Modality = modality
    ds.PatientName = ds.PatientID = ds.PatientBirthDate = ds.PatientSex = ""
    ds.ReferringPhysicianName = ds.StudyID = ds.AccessionNumber = ""
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.BodyPartExamined = body_part
    ds.PatientOrientation = "A"
    ds.SamplesPerPixel = 3 if channels == 3 else 1
    ds.PhotometricInterpretation = "RGB" if channels == 3 else "MONOCHROME2"
    ds.Rows = shape.get("input_shape1") or 0
    ds.Columns = shape.get("input_shape2") or 0
    text = str(document).encode("ascii")
    for tag, value in (
        (_ARCHITECTURE, text),
        (_WEIGHTS, base64.b64encode(weights)),
        (_NAME, name.encode("ascii")),
    ):
        ds.add_new(tag, "UN", value + b" " * (len(value) % 2))
    ds.add_new(_UID, "UN", uid.encode() + b"\0" * (len(uid) % 2))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = RawDataStorage
    ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)


def parse_document(text: str) -> dict[str, JsonValue]:
    """The text of a Python dict, or JSON, of plain words and numbers; nothing is evaluated.

    Raises :class:`CodecError` for anything else, such as names, calls, escapes or long numbers.
    """
    tokens: list[str] = []
    depth = position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise CodecError(
                "the architecture of an original object is no plain dict: expected quoted words, "
                f"numbers, brackets; something else at character {position}"
            )
        position = found.end()
        depth += (found["plain"] in _OPENING) - (found["plain"] in _CLOSING)
        if depth > _MAX_DEPTH:
            raise CodecError(
                f"the architecture of an original object is nested deeper than {_MAX_DEPTH}"
            )
        _append(tokens, found)
    try:
        document = json.loads(" ".join(tokens), parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise CodecError("the architecture of an original object is no dict") from error
    if not isinstance(document, dict):
        raise CodecError("the architecture of an original object is no dict")
    return document


def _append(tokens: list[str], found: re.Match[str]) -> None:
    """A token as JSON spells it, which has neither trailing commas nor numbers as keys."""
    word = found["text"]
    token = f'"{word[1:-1]}"' if word else _WORDS.get(found["word"], found[0].strip())
    if token in _CLOSING and tokens[-1:] == [","]:
        tokens.pop()
    if token == ":" and tokens and tokens[-1].isdigit():
        tokens[-1] = f'"{tokens[-1]}"'
    tokens.append(token)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is out of range")
    return number


def _channels(document: dict[str, JsonValue]) -> object:
    shape: Any = document["input_shape"]
    order: Any = document.get("data_format") or {}
    first = order.get("data_format") == "channels_first"
    return shape.get("input_shape0" if first else "input_shape2")


def _read(path: Path) -> Dataset:
    try:
        return dcmread(path, defer_size=_DEFER_BYTES, force=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever pydicom raises on bytes from outside
        raise CodecError(f"{path.name} is no DICOM file that can be read") from error


def _is_deflated(ds: Dataset) -> bool:
    """Then nothing lies in the file where its elements say."""
    meta = getattr(ds, "file_meta", None)
    return meta is not None and meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian


def _text(ds: Dataset, tag: int, path: Path, at_most: int) -> str:
    """An element's value as ASCII text; its VR can be anything."""
    named = f"{path.name}: ({tag >> 16:04X},{tag & 0xFFFF:04X})"
    element = ds.get_item(tag, keep_deferred=True)
    if not isinstance(element, RawDataElement):
        raise CodecError(f"{named} is no text")
    if element.length > at_most:
        raise CodecError(f"{named} is longer than the {at_most} bytes that are allowed")
    value = element.value
    if value is None and element.length:  # deferred
        with path.open("rb") as file:
            file.seek(element.value_tell)
            value = file.read(element.length)
    try:
        return bytes(value or b"").decode("ascii").strip(" \0")
    except UnicodeDecodeError as error:
        raise CodecError(f"{named} holds characters that are not ASCII") from error


def _label(ds: Dataset, tag: int) -> str:
    """The beginning of a label that serves to name things; "" where it is absent or no text."""
    element = ds.get_item(tag, keep_deferred=True) if tag in ds else None
    value = element.value if isinstance(element, RawDataElement) else None
    return bytes(value or b"")[:_LABEL_BYTES].decode("ascii", "replace").strip(" \0")
