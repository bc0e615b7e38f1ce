"""Decoded examples on disk, so that a study is fetched from the archive once.

One safetensors file an example, named by a digest of everything that decides its content; a
study that turned out unusable leaves its reason under the same name. Files are written under
another name, synced and renamed, so a kill leaves none half-written, and processes that build
the same example write the same bytes. The folder may be deleted at any time.

MONAI's ``PersistentDataset`` does not do for this: it names files by the items that they are made
of and not by what is in them, never removes one, and notices no damage.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rfc8785
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from clients.data.census import Examined, Headers, LabelledSeries, LabelObject, Studies
from clients.data.labels import LabelHeader, Segment, Wanted
from clients.data.opt_outs import OptedOut
from clients.data.quarantine import Quarantined, Reason, Unusable
from federation.config import CacheTable
from federation.errors import DataError
from federation.iodeep.architecture import Preprocessing
from federation.sizes import size_text
from federation.software import software
from federation.whole import make_private

if TYPE_CHECKING:
    import torch

_FORMAT = "3"  # raise it when decoding or preprocessing gives other voxels
_HEADERS = "labels.json"
_STUDIES = "studies.json"
_FETCHED = ("iodeep-fetch-*", "iodeep-labels-*", "iodeep-image-*")  # folders of census and dataset
_ABANDONED_S = 3600.0
_IN_USE_S = 3600.0  # an example that was opened since may be read again at any moment
_DAY_S = 86400.0
_VERDICT_S = _DAY_S  # then an example is tried again: what it is made of may have been sent again
_STUDIES_S = 6 * 3600.0  # then a study is asked about again: a SEG may have taken another's place
_LIMITS = CacheTable()


@dataclass(frozen=True, kw_only=True, slots=True)
class Whose:
    """Whose an example is: keyed hashes of all Patient IDs that its objects and the archive name.

    split:   under the split's key
    opt_out: under the opt-outs' key; None where the site kept no such list
    """

    split: tuple[str, ...]
    opt_out: tuple[str, ...] | None = None

    def is_known_by(self, other: "Whose") -> bool:
        """Whether the two share an ID, under the same keys."""
        if other.opt_out is not None and set(self.opt_out or ()).isdisjoint(other.opt_out):
            return False
        return not set(self.split).isdisjoint(other.split)


class OutByObjects(Unusable):
    """The patient does not take part, as objects say, not the archive."""

    def __init__(self, whose: Whose) -> None:
        super().__init__(Reason.OPTED_OUT, "the patient does not take part, by another ID")
        self.whose = whose


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Example:
    """One labelled image as the network sees it.

    image: float32 (1, D, H, W), label: uint8 (1, D, H, W), axes as the preprocessing orders
    them; or label is the image's class, uint8 (1,). spacing_mm of D, H and W. key names the
    example at this site.
    """

    key: str
    image: "torch.Tensor"
    label: "torch.Tensor"
    spacing_mm: tuple[float, float, float]

    def __repr__(self) -> str:
        return f"Example({self.key[:12]}, {tuple(self.image.shape)})"


def example_key(series: LabelledSeries, wanted: Wanted, preprocessing: Preprocessing) -> str:
    """SHA-256 over the objects an example is made of, by their UIDs, and what is made of them.

    Objects that take the place of others under the same UIDs, which the Standard forbids, go
    unnoticed.
    """
    content: dict[str, Any] = {
        "format": _FORMAT,
        "labels": [one.instance for one in series.labels],
        "images": [series.image_series, series.image_digest],
        "instances": series.image_instances,
        "wanted": wanted.as_json,
        "preprocessing": preprocessing.model_dump(mode="json"),
    }
    if series.image_class is not None:
        content["class"] = series.image_class
    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()


class ExampleCache:
    """The folder of examples, within limits. Any number of processes may share it."""

    def __init__(self, folder: Path, limits: CacheTable = _LIMITS) -> None:
        self._folder = folder
        self._limits = limits
        try:
            make_private(folder)
        except OSError as error:
            raise DataError(f"the cache {folder} cannot be made: {error.strerror}") from error
        self._remove_abandoned()
        self._remove_old()

    def whose(self, key: str) -> Whose | None:
        """Whose an example is; None where it is not there, or does not say."""
        try:
            with safe_open(self._example(key), framework="np") as file:
                return _whose_from_json(json.loads(file.metadata()["whose"]))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return None

    def remove_opted_out(self, opted_out: OptedOut) -> None:
        """Delete the examples of patients who do not take part, and of who knows whom."""
        if not opted_out.is_anybody_asked:
            return
        for path in self._folder.glob("*.safetensors"):
            whose = self.whose(path.stem)
            if whose is None or whose.opt_out is None:
                path.unlink(missing_ok=True)
            elif opted_out.has_any(whose.opt_out):
                self.remove(path.stem)
                self.remember(path.stem, OutByObjects(whose))

    def remove(self, key: str) -> None:
        """Delete an example. Removing twice is harmless."""
        self._example(key).unlink(missing_ok=True)

    def verify(self, key: str) -> bool:
        """Whether the example is there, whole and undamaged; a damaged one is removed."""
        path = self._example(key)
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="np") as file:
                sums = [_checksum(file.get_tensor(name)) for name in ("image", "label")]
                if file.metadata()["checksums"] == json.dumps(sums):
                    path.touch()  # it is in use
                    return True
        except (SafetensorError, OSError, KeyError, TypeError):
            pass
        path.unlink(missing_ok=True)
        return False

    def read(self, key: str) -> Example:
        """Map an example into memory; pages are read as they are used.

        Raises :class:`DataError` where the file is gone, as after the folder was deleted.
        """
        try:
            path = self._example(key)
            path.touch()
            with safe_open(path, framework="pt") as file:
                d, h, w = json.loads(file.metadata()["spacing_mm"])
                return Example(
                    key=key,
                    image=file.get_tensor("image"),
                    label=file.get_tensor("label"),
                    spacing_mm=(d, h, w),
                )
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(
                "an example of the cache was removed or damaged while it was in use; start again"
            ) from error

    def write(self, example: Example, whose: Whose | None = None) -> None:
        """Keep an example, and whose it is; those used longest ago make room for it.

        Raises :class:`DataError` where the limit, or the disk, does not take it.
        """
        from safetensors.torch import save

        tensors = {"image": example.image, "label": example.label}
        sums = [_checksum(tensor.numpy()) for tensor in tensors.values()]
        metadata = {
            "checksums": json.dumps(sums),
            "spacing_mm": json.dumps(example.spacing_mm),
        }
        if whose is not None:
            metadata["whose"] = json.dumps(asdict(whose))
        content = save(tensors, metadata)
        self._make_room(len(content))
        self._replace(self._example(example.key), content)
        self._verdict(example.key).unlink(missing_ok=True)

    def verdict(self, key: str) -> Unusable | None:
        """Why the example cannot be made, where this version of the software found so today."""
        try:
            verdict = json.loads(self._verdict(key).read_bytes())
            age_s = time.time() - self._verdict(key).stat().st_mtime
            if verdict["software"] == _software() and age_s < _VERDICT_S:
                if "whose" in verdict:
                    return OutByObjects(_whose_from_json(verdict["whose"]))
                return Unusable(Reason(verdict["reason"]), str(verdict["detail"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def remember(self, key: str, problem: Unusable) -> None:
        """Keep why an example cannot be made, so that its study is not fetched again today."""
        verdict: dict[str, Any] = {**_as_json(problem), "software": _software()}
        if isinstance(problem, OutByObjects):
            verdict["whose"] = asdict(problem.whose)
        self._replace(self._verdict(key), json.dumps(verdict).encode())

    def read_headers(self, names: Iterable[str] = ()) -> Headers:
        """The remembered headers of label objects, by SOP Instance UID; none where damaged.

        names: what segments may be called; what others are called was not kept
        """
        texts = {_text_digest(name): name for name in names}
        try:
            return {
                uid: _header_from_json(entry, texts)
                for uid, entry in self._header_entries().items()
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}

    def write_headers(self, headers: Headers) -> None:
        """Add to the remembered headers.

        Of names of segments, which people type, digests are kept: enough to know those looked for.
        """
        entries = {uid: _header_as_json(header) for uid, header in headers.items()}
        content = {"software": _software(), "headers": {**entries, **self._header_entries()}}
        self._replace(self._folder / _HEADERS, json.dumps(content).encode())

    def _header_entries(self) -> dict[str, Any]:
        """As they are on disk; an object that was of no use yesterday may have been mended."""
        oldest = time.time() - _VERDICT_S
        try:
            content = json.loads((self._folder / _HEADERS).read_bytes())
            if content["software"] == _software():
                return {
                    uid: entry
                    for uid, entry in content["headers"].items()
                    if "reason" not in entry or entry["at"] > oldest
                }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return {}

    def read_studies(self, run: str) -> Studies:
        """The studies as they were found in this run in the last hours; none where damaged."""
        try:
            content = json.loads((self._folder / _STUDIES).read_bytes())
            if (content["software"], content["run"]) == (_software(), run):
                found = {uid: _examined_from_json(one) for uid, one in content["found"].items()}
                now = time.time()
                return {
                    uid: examined
                    for uid, examined in found.items()
                    if 0 <= now - examined.at < _STUDIES_S
                }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return {}

    def write_studies(self, run: str, studies: Studies) -> None:
        """Replace the remembered studies; Patient IDs are not among what is remembered."""
        found = {uid: _as_json_without_patients(examined) for uid, examined in studies.items()}
        content = {"software": _software(), "run": run, "found": found}
        self._replace(self._folder / _STUDIES, json.dumps(content).encode())

    def _example(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"

    def _verdict(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def _replace(self, path: Path, content: bytes) -> None:
        try:
            with tempfile.NamedTemporaryFile(
                dir=self._folder, suffix=".part", delete=False
            ) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(path)
        except OSError as error:
            raise DataError(
                f"the cache {self._folder} cannot be written: {error.strerror}; free space there"
            ) from error

    def _make_room(self, count: int) -> None:
        limit = self._limits.bytes
        held = self._held()
        total = sum(size for _, size, _ in held) + count
        in_use = time.time() - _IN_USE_S
        for used, size, path in held:
            if total <= limit or used > in_use:
                break
            path.unlink(missing_ok=True)
            total -= size
        if total > limit:
            raise DataError(
                f"the examples in use take {size_text(total)} in {self._folder}, and "
                f"policy.cache.bytes allows {size_text(limit)}; allow more, or let limits.studies "
                "be fewer"
            )

    def _remove_old(self) -> None:
        """Verdicts that are none any more, and examples that nobody uses."""
        now = time.time()
        for path in self._folder.glob("*.json"):
            if path.name not in (_HEADERS, _STUDIES):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < now - _VERDICT_S:
                        path.unlink()
        if self._limits.days is None:
            return
        oldest = time.time() - self._limits.days * _DAY_S
        for used, _, path in self._held():
            if used < oldest:
                path.unlink(missing_ok=True)

    def _held(self) -> list[tuple[float, int, Path]]:
        """When each example was last used, its bytes and path; used longest ago first."""
        held = []
        for path in self._folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                held.append((status.st_mtime, status.st_size, path))
        return sorted(held)

    def _remove_abandoned(self) -> None:
        """Delete what a killed process left half-written, long enough ago to be nobody's."""
        oldest = time.time() - _ABANDONED_S
        for path in self._folder.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def make_scratch(work: Path) -> Path:
    """The folder for what is fetched, in a site's work folder; what a killed process left there
    long enough ago to be nobody's is deleted. Raises :class:`DataError` where it cannot be made.
    """
    scratch = work / "scratch"
    try:
        make_private(scratch)
    except OSError as error:
        raise DataError(f"the folder {scratch} cannot be made: {error.strerror}") from error
    oldest = time.time() - _ABANDONED_S
    for folder in (folder for name in _FETCHED for folder in scratch.glob(name)):
        if _last_change(folder) < oldest:
            shutil.rmtree(folder, ignore_errors=True)
    return scratch


def _last_change(folder: Path) -> float:
    """Of a folder and all in it, in seconds of the epoch."""
    times = []
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times, default=time.time())


def _checksum(array: NDArray[Any]) -> int:
    return zlib.crc32(array.data)


def _software() -> str:
    """What a verdict depends on: another version may decode what this one could not."""
    return f"{software()} {_FORMAT}"


def _as_json(problem: Unusable) -> dict[str, str]:
    return {"reason": str(problem.reason), "detail": str(problem)}


def _header_as_json(header: LabelHeader | Unusable) -> dict[str, Any]:
    if isinstance(header, Unusable):
        return {**_as_json(header), "at": time.time()}
    entry = asdict(header)
    for segment in entry["segments"]:
        for name in ("label", "meaning"):
            segment[name] = _text_digest(segment[name])
    return entry


def _header_from_json(entry: Mapping[str, Any], texts: Mapping[str, str]) -> LabelHeader | Unusable:
    if "reason" in entry:
        return Unusable(Reason(entry["reason"]), str(entry["detail"]))
    return LabelHeader(
        source=str(entry["source"]),
        series=tuple(entry["series"]),
        segments=tuple(_segment_from_json(segment, texts) for segment in entry["segments"]),
    )


def _segment_from_json(segment: Mapping[str, Any], texts: Mapping[str, str]) -> Segment:
    kind = segment["kind"]
    return Segment(
        **{
            **segment,
            "label": texts.get(segment["label"], ""),
            "meaning": texts.get(segment["meaning"], ""),
            "kind": None if kind is None else _pair(kind),
            "modifiers": tuple(_pair(modifier) for modifier in segment["modifiers"]),
        }
    )


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def _pair(code: Sequence[Any]) -> tuple[str, str]:
    value, scheme = code
    return str(value), str(scheme)


def _as_json_without_patients(examined: Examined) -> dict[str, Any]:
    entries = [asdict(entry) for entry in examined.entries]
    for entry in entries:
        entry.pop("patient_ids", None)
    return {"counts": examined.counts, "entries": entries, "at": examined.at}


def _examined_from_json(found: Mapping[str, Any]) -> Examined:
    """As it was written, the Patient IDs missing."""
    entries = tuple(
        Quarantined(**{**entry, "reason": Reason(entry["reason"])})
        if "reason" in entry
        else _labelled_from_json(entry)
        for entry in found["entries"]
    )
    return Examined(counts=tuple(found["counts"]), entries=entries, at=float(found["at"]))


def _whose_from_json(entry: Mapping[str, Any]) -> Whose:
    opt_out = entry["opt_out"]
    return Whose(
        split=tuple(map(str, entry["split"])),
        opt_out=None if opt_out is None else tuple(map(str, opt_out)),
    )


def _labelled_from_json(entry: Mapping[str, Any]) -> LabelledSeries:
    labels = tuple(LabelObject(**one) for one in entry["labels"])
    return LabelledSeries(**{**entry, "labels": labels}, patient_ids=())
