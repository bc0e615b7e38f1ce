"""IODeep records as DICOM files: streamed when written, lazy when read.

A record is a series: instance 1 holds the manifest, instances 2…n hold one weight part each,
as the last element, so that it can be written behind an encoded header and mapped in place.
Memory does not grow with the model in either direction.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import read_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    RawDataStorage,
)

from federation.errors import CodecError, DigestError, IODeepError
from federation.iodeep.header import (
    CREATOR,
    ELEMENT_DIGEST,
    ELEMENT_MANIFEST,
    ELEMENT_PART,
    ELEMENT_POSITION,
    ELEMENT_SIGNATURE,
    GROUP,
    Stamp,
    instance_header,
)
from federation.iodeep.manifest import (
    MAX_MANIFEST_BYTES,
    AnyManifest,
    Part,
    VersionManifest,
    Weights,
    WeightsManifest,
    parse_manifest,
)
from federation.iodeep.signature import SIGNATURE_BYTES, Signature
from federation.iodeep.weights import (
    PART_BYTES,
    FileRange,
    Tensor,
    divide,
    join,
    part_chunks,
    read_part,
    weights_digest,
)

Chunks = Iterable[bytes | memoryview]

MAX_PART_BYTES = 2**31 - 2  # several archives fail above 2 GiB in one instance

_BINARY = frozenset({ELEMENT_POSITION, ELEMENT_SIGNATURE})  # where a space is no padding
_DEFER_BYTES = 4096
_PART_TAG = Tag(GROUP, 0x1000 + ELEMENT_PART)


# --- writing ------------------------------------------------------------------------------


def describe_weights(
    tensors: Mapping[str, Tensor], part_bytes: int = PART_BYTES
) -> tuple[Weights, list[Chunks]]:
    """What a manifest says about ``tensors``, and their parts' bytes for :func:`write_record`."""
    divided = divide(tensors, part_bytes)
    weights = Weights(
        digest=weights_digest(tensors),
        parameters=sum(tensor.elements for tensor in tensors.values()),
        parts=tuple(_measure(part_chunks(part)) for part in divided),
    )
    return weights, [part_chunks(part) for part in divided]


def _measure(chunks: Chunks) -> Part:
    digest = hashlib.sha256()
    length = 0
    for chunk in chunks:
        digest.update(chunk)
        length += memoryview(chunk).nbytes
    return Part(bytes=length, sha256=digest.hexdigest())


def write_record(
    folder: Path,
    manifest: AnyManifest,
    parts: Sequence[Chunks],
    stamp: Stamp,
    signature: Signature | None = None,
) -> list[Path]:
    """Write a record's instances into ``folder``; returns their paths, the manifest's last.

    That order is the one to store them in: a record becomes visible with its manifest.
    ``parts`` are the parts' bytes, in pieces. Raises :class:`DigestError` where they are not
    the bytes that the manifest names.
    """
    expected = _parts(manifest)
    if len(parts) != len(expected):
        raise CodecError(
            f"{len(parts)} weight parts were given; the manifest names {len(expected)}"
        )
    paths = []
    for number, (chunks, part) in enumerate(zip(parts, expected, strict=True), start=2):
        path = folder / f"{number:04d}.dcm"
        header = instance_header(manifest, number, 1 + len(parts), stamp)
        with path.open("wb") as file:
            header.save_as(file, enforce_file_format=True)
            digest = _append_part(file, chunks, part.bytes)
        if digest != part.sha256:
            raise DigestError(f"weight part {number - 1} has not the digest its manifest names")
        paths.append(path)
    path = folder / "0001.dcm"
    header = instance_header(manifest, 1, 1 + len(parts), stamp)
    if signature is not None:
        block = header.private_block(GROUP, CREATOR)
        block.add_new(ELEMENT_SIGNATURE, "OB", signature.encode())
    header.save_as(path, enforce_file_format=True)
    return [*paths, path]


def _append_part(file: BinaryIO, chunks: Chunks, length: int) -> str:
    """Append the part's element (PS3.5 Section 7.1.2, OB) and return its bytes' digest."""
    if length > MAX_PART_BYTES:
        raise CodecError(
            f"a weight part has {length} bytes; at most {MAX_PART_BYTES} fit an instance"
        )
    padded = length + length % 2
    file.write(struct.pack("<HH2sHI", _PART_TAG.group, _PART_TAG.element, b"OB", 0, padded))
    digest = hashlib.sha256()
    written = 0
    for chunk in chunks:
        digest.update(chunk)
        written += file.write(chunk)
    if written != length:
        raise CodecError(f"a weight part came to {written} bytes; its manifest names {length}")
    file.write(b"\0" * (padded - length))
    return digest.hexdigest()


# --- reading ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record read from files: its manifest, and where that and its weight parts lie.

    The signature is as found: :mod:`federation.trust` decides what it is worth.
    """

    manifest: AnyManifest
    signature: Signature | None
    stamp: Stamp
    path: Path
    parts: tuple[FileRange, ...]

    @property
    def version(self) -> VersionManifest:
        """The manifest of a VERSION. Raises :class:`CodecError` for another kind."""
        if not isinstance(self.manifest, VersionManifest):
            raise CodecError(f"a {self.manifest.kind} record was found; expected a VERSION")
        return self.manifest

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, as ranges of the files."""
        return join([read_part(part) for part in self.parts])

    def verify(self) -> None:
        """Compare every attribute and every byte with the manifest.

        Raises :class:`DigestError`.
        """
        for number, path in enumerate([self.path, *(part.path for part in self.parts)], start=1):
            with _damage_as_codec_error(path):
                _check_header(_read_header(path), self.manifest, number, self.stamp)
        for number, (part, expected) in enumerate(
            zip(self.parts, _parts(self.manifest), strict=True), start=1
        ):
            seen = _measure(part.chunks())
            if seen != expected:
                raise DigestError(
                    f"weight part {number} has digest {seen.sha256[:12]}…; "
                    f"its manifest names {expected.sha256[:12]}…"
                )
        if not isinstance(self.manifest, WeightsManifest):
            return
        if weights_digest(self.tensors()) != self.manifest.weights.digest:
            raise DigestError("the weights have not the digest that their manifest names")


def read_manifest(path: Path) -> tuple[AnyManifest, Signature | None, Stamp]:
    """The manifest in instance 1 of a record, and its signature; its weights are not touched.

    Raises :class:`CodecError` for a file that is no IODeep manifest, and :class:`DigestError`
    where an attribute is not what the manifest says.
    """
    with _damage_as_codec_error(path):
        ds = _read_header(path)
        manifest, signature, stamp = _manifest_of(ds, path)
        _check_header(ds, manifest, 1, stamp)
        return manifest, signature, stamp


def _manifest_of(ds: Dataset, path: Path) -> tuple[AnyManifest, Signature | None, Stamp]:
    text = _value_bytes(ds, ELEMENT_MANIFEST, at_most=MAX_MANIFEST_BYTES + 1)
    if text is None:
        raise CodecError(f"{path.name} holds no IODeep manifest")
    signed = _value_bytes(ds, ELEMENT_SIGNATURE, at_most=SIGNATURE_BYTES)
    signature = None if signed is None else Signature.decode(signed)
    return parse_manifest(text.rstrip(b" \0")), signature, Stamp.of(ds)


def _parts(manifest: AnyManifest) -> tuple[Part, ...]:
    return manifest.weights.parts if isinstance(manifest, WeightsManifest) else ()


def read_record(paths: Iterable[Path]) -> Record:
    """A record from the files of its series, in any order.

    Structure and lengths are checked here; attributes and the weights' bytes by
    :meth:`Record.verify`. Raises :class:`CodecError` naming what is missing or wrong.
    """
    manifests: list[tuple[Path, Dataset]] = []
    parts: list[tuple[Path, Dataset]] = []
    for path in paths:
        with _damage_as_codec_error(path):
            ds = _read_header(path)
            is_part = _value_bytes(ds, ELEMENT_DIGEST, at_most=64) is not None
        (parts if is_part else manifests).append((path, ds))
    if len(manifests) != 1:
        raise CodecError(f"a record has {len(manifests)} manifests; expected exactly one")
    ((path, ds),) = manifests
    with _damage_as_codec_error(path):
        manifest, signature, stamp = _manifest_of(ds, path)
    expected = _parts(manifest)
    found: dict[int, FileRange] = {}
    for path, ds in parts:
        with _damage_as_codec_error(path):
            number, part = _part_of(ds, path, manifest)
        found[number] = part
    missing = sorted(set(range(1, len(expected) + 1)) - found.keys())
    if missing:
        raise CodecError(
            f"weight part {', '.join(map(str, missing))} of {len(expected)} is missing"
        )
    return Record(
        manifest=manifest,
        signature=signature,
        stamp=stamp,
        path=manifests[0][0],
        parts=tuple(found[number] for number in sorted(found)),
    )


def _part_of(ds: Dataset, path: Path, manifest: AnyManifest) -> tuple[int, FileRange]:
    digest = _value_bytes(ds, ELEMENT_DIGEST, at_most=64)
    if digest != manifest.digest.encode():
        raise DigestError("a weight part belongs to another manifest")
    position = _value_bytes(ds, ELEMENT_POSITION, at_most=4)
    if position is None or len(position) != 4:
        raise CodecError("a weight part does not say which part it is")
    number = struct.unpack("<HH", position)[0] - 1
    parts = _parts(manifest)
    if not 1 <= number <= len(parts):
        raise CodecError(f"weight part {number} was found; the manifest names {len(parts)}")
    element = ds.get_item(_PART_TAG, keep_deferred=True)
    if not isinstance(element, RawDataElement):
        raise CodecError(f"weight part {number} is empty")
    length = parts[number - 1].bytes
    end = element.value_tell + element.length
    if element.length not in (length, length + length % 2) or end > path.stat().st_size:
        raise CodecError(
            f"weight part {number} claims {element.length} bytes in a file of "
            f"{path.stat().st_size}; its manifest names {length}"
        )
    return number, FileRange(path=path, offset=element.value_tell, nbytes=length)


def _read_header(path: Path) -> Dataset:
    """All elements but large values, which are left in the file."""
    # pydicom would inflate such a file whole into memory, however large it becomes.
    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise CodecError(f"{path.name} is deflated, which no IODeep object is")
    ds = dcmread(path, defer_size=_DEFER_BYTES)
    if ds.get("SOPClassUID") not in (RawDataStorage, KeyObjectSelectionDocumentStorage):
        raise CodecError(
            f"{path.name} is neither Raw Data nor a Key Object Selection, so no IODeep object"
        )
    return ds


@contextmanager
def _damage_as_codec_error(path: Path) -> Iterator[None]:
    """pydicom converts elements when they are looked at, and raises anything on damaged ones."""
    try:
        yield
    except IODeepError:
        raise
    except Exception as error:
        raise CodecError(f"{path.name} is damaged DICOM: {type(error).__name__}") from error


def _value_bytes(ds: Dataset, element: int, at_most: int) -> bytes | None:
    """The bytes of a private element, whether an archive kept its VR or made it UN.

    None where it is absent; padding is removed from text. Lengths are checked before reading.
    """
    if ds.get((GROUP, 0x0010)) is None or str(ds[GROUP, 0x0010].value).strip() != CREATOR:
        return None
    tag = Tag(GROUP, 0x1000 + element)
    raw = ds.get_item(tag, keep_deferred=True)
    if raw is None:
        return None
    if isinstance(raw, RawDataElement):
        if raw.length > at_most + 2:
            raise CodecError(
                f"element {tag} claims {raw.length} bytes; at most {at_most} are allowed"
            )
        value = _encode(ds[tag]) if raw.value is None else bytes(raw.value)
    else:
        value = _encode(raw)
    if value is None or element in _BINARY:
        return value
    return value.rstrip(b" ")


def _encode(element: DataElement) -> bytes | None:
    value = element.value
    if value is None:
        return None
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.rstrip(" ").encode("ascii", errors="replace")
    return struct.pack(f"<{len(value)}H", *value)


def _check_header(ds: Dataset, manifest: AnyManifest, number: int, stamp: Stamp) -> None:
    """Every attribute we write must be as the manifest says; archives may add others."""
    expected = instance_header(manifest, number, 1 + len(_parts(manifest)), stamp)
    for element in expected:
        if element.tag in _MAY_DIFFER or element.tag.is_private_creator:
            continue
        if element.tag.is_private:  # its VR may have become UN on the way: compare bytes
            wanted = _encode(element) or b""
            same = _value_bytes(ds, element.tag.element - 0x1000, len(wanted)) == wanted
        else:
            same = element.tag in ds and ds[element.tag].value == element.value
        if not same:
            raise DigestError(
                f"attribute {element.tag} {element.keyword} of instance {number} "
                "is not what the manifest says"
            )


# What a manifest does not decide: the versions and times of writing, and the character set,
# which archives may rewrite.
_MAY_DIFFER = frozenset(
    Tag(keyword)
    for keyword in (
        "ContentDate",
        "ContentTime",
        "SoftwareVersions",
        "SpecificCharacterSet",
        "StudyDate",
        "StudyTime",
    )
)
