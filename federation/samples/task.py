"""A task folder of the Medical Segmentation Decathlon, as it is published, as cases.

Antonelli M. et al., Nature Communications 13, 4128 (2022), http://medicaldecathlon.com. Its
``dataset.json`` names the images and their labels (``training``), what the label images' values
mean (``labels``), and with what was scanned (``modality``): CT, or one MR image or several on the
same grid, the channels of a 4D file.

Each case counts as a patient of its own, whose ID is the name of the image's file; the folder
knows no hospitals. Of a file with several channels one becomes DICOM: the first, or the one asked
for. Another may be imported afterwards, into the same study, with a SEG of its own. Images without
labels (``test``) are left out.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from federation.errors import ConfigError, DataError
from federation.samples.case import INVERSION_PREPARED, UNKNOWN_SEQUENCE, Case, Modality
from federation.samples.decathlon import MANIFEST, read_manifest
from federation.samples.meanings import anatomy_of
from federation.samples.nifti import NiftiCase, inside

DATASET = "dataset.json"
MOST_BYTES = 2**24  # of a dataset.json; the Decathlon's largest has some 100 kB
MOST_LABELS = 255

_SUFFIX = re.compile(r"(?<=[^/])\.nii(\.gz)?$")
_MR = re.compile(r"mri?|flair|t1.{0,6}|t2.{0,6}|adc|dwi|pd|swi", re.IGNORECASE)
_TEXT = re.compile(r"[ -\[\]-~]{1,64}")  # of a Long String (PS3.5 Section 6.2), in ASCII
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_NAME_LENGTH, _CHANNEL_LENGTH, _COLLECTION_LENGTH = 40, 16, 60
_SEEN_LENGTH = 80


def read_cases(folder: Path, channel: str = "") -> list[Case]:
    """The cases of a folder with a ``manifest.csv``; without one, of its ``dataset.json``.

    ``channel`` is one of those that the dataset.json names. Raises :class:`ConfigError` where
    neither file is there or the channel is not, and :class:`DataError` for a damaged one.
    """
    if (folder / MANIFEST).is_file():
        if channel:
            raise ConfigError(
                f"channel {channel!r:.40} was asked for, but the images of {folder / MANIFEST} "
                "have one; leave --channel out"
            )
        return read_manifest(folder)
    if (folder / DATASET).is_file():
        return read_task(folder, channel)
    raise ConfigError(
        f"{folder} holds neither {MANIFEST} nor {DATASET}; expected a task folder of the Medical "
        "Segmentation Decathlon, such as Task09_Spleen, unpacked"
    )


def read_task(folder: Path, channel: str = "") -> list[Case]:
    """The labelled cases that ``folder/dataset.json`` names, in its order; no image is opened.

    Raises :class:`ConfigError` for a channel that is not among its modalities, and
    :class:`DataError`, with what was seen and expected, where the document is damaged.
    """
    path = folder / DATASET
    document = _read_json(path)
    name = re.sub(r"[^ -\[\]-~]", "_", _member(document, "name", str, path)).strip()
    channels = _channels(_member(document, "modality", dict, path), path)
    index = _index_of(channel, channels, path)
    labels = _labels(_member(document, "labels", dict, path), path)
    anatomy = anatomy_of(name, list(labels.values()))
    modality = _modality(channels[index], path)
    case_of = partial(
        NiftiCase,
        collection=f"MSD {name}"[:_COLLECTION_LENGTH].rstrip(),
        site="",
        split="train",
        study="1",
        series_number=index + 1,
        anatomy=anatomy,
        modality=modality,
        channel=channels[index] if len(channels) > 1 else "",
        sequence=UNKNOWN_SEQUENCE if modality == "MR" else INVERSION_PREPARED,
        label_values=tuple(labels),
        may_lack_labels=True,
        channels=len(channels),
        channel_index=index,
    )
    cases: list[Case] = []
    for number, entry in enumerate(_member(document, "training", list, path), start=1):
        where = f"{path}, training {number}"
        files = {role: _file_of(entry, role, where) for role in ("image", "label")}
        file_name = files["image"].rpartition("/")[2]
        if file_name.startswith("._"):  # what macOS keeps beside a file
            continue
        case_name = re.sub(r"[^A-Za-z0-9._-]", "_", _SUFFIX.sub("", file_name))[:_NAME_LENGTH]
        image, label = (inside(folder, file, where) for file in files.values())
        cases.append(case_of(name=case_name, patient_id=case_name, image=image, label=label))
    if not cases:
        raise DataError(f"{path} names no case under training")
    _refuse_repeated(cases, path)
    return cases


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise DataError(f"{path} has more than {MOST_BYTES} bytes; expected a task's description")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is no JSON document: {str(error) or 'nested too deep':.100}"
        ) from error
    if not isinstance(document, dict):
        raise DataError(f"{path} holds {_seen(document)}; expected an object with name, labels, …")
    return document


def _member(document: Mapping[str, Any], key: str, kind: type, path: Path) -> Any:
    """A member of the document, of the JSON type that ``kind`` stands for."""
    expected = {"str": "a text", "dict": "an object", "list": "a list"}[kind.__name__]
    if key not in document:
        raise DataError(f"{path} has no {key!r}; expected {expected}")
    value = document[key]
    if not isinstance(value, kind):
        raise DataError(f"{path}: {key} is {_seen(value)}; expected {expected}")
    return value


def _labels(given: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Names by the value that stands for them, ascending; without the background, 0."""
    example = '{"0": "background", "1": "spleen"}'
    for key, name in given.items():
        if not _NUMBER.fullmatch(key) or not isinstance(name, str) or not _TEXT.fullmatch(name):
            raise DataError(
                f"{path}: labels has {_seen(key)}: {_seen(name)}; expected whole numbers and names "
                f"of 1 to 64 ASCII characters, such as {example}"
            )
    labels = {int(key): name.strip() for key, name in given.items() if int(key) != 0}
    if not 0 < len(labels) <= MOST_LABELS or not all(labels.values()):
        raise DataError(
            f"{path}: labels names {len(labels)} besides the background, or an empty one; expected "
            f"1 to {MOST_LABELS}, such as {example}"
        )
    if len({name.lower() for name in labels.values()}) < len(labels):
        raise DataError(f"{path}: two labels have the same name, so that none can find the other")
    return dict(sorted(labels.items()))


def _channels(given: Mapping[str, Any], path: Path) -> list[str]:
    """The modalities' names, in the order of the channels."""
    numbers = {str(number) for number in range(len(given))}
    names = [given.get(str(number)) for number in range(len(given))]
    if (
        not names
        or set(given) != numbers
        or not all(
            isinstance(name, str)
            and _TEXT.fullmatch(name)
            and len(name.strip()) in range(1, _CHANNEL_LENGTH + 1)
            for name in names
        )
    ):
        raise DataError(
            f"{path}: modality is {_seen(given)}; expected names numbered from 0, such as "
            '{"0": "CT"} or {"0": "FLAIR", "1": "T1w"}'
        )
    return [str(name).strip() for name in names]


def _index_of(channel: str, channels: Sequence[str], path: Path) -> int:
    if not channel:
        return 0
    for index, name in enumerate(channels):
        if name.lower() == channel.lower():
            return index
    raise ConfigError(f"{path} has no channel {channel!r:.40}; it has {', '.join(channels)}")


def _modality(channel: str, path: Path) -> Modality:
    if channel.lower() == "ct":
        return "CT"
    if _MR.fullmatch(channel):
        return "MR"
    raise DataError(
        f"{path}: modality {channel!r} is neither CT nor a kind of MR; expected CT, MRI, FLAIR, "
        "T1w, T1gd, T2w, ADC or the like"
    )


def _file_of(entry: Any, role: str, where: str) -> str:
    name = entry.get(role) if isinstance(entry, dict) else None
    if not isinstance(name, str) or not _SUFFIX.search(name):
        raise DataError(
            f"{where} is {_seen(entry)}; expected an object whose {role} is the path of a .nii or "
            ".nii.gz file in the folder"
        )
    return name


def _refuse_repeated(cases: Iterable[Case], path: Path) -> None:
    seen: set[str] = set()
    for case in cases:
        if case.name in seen:
            raise DataError(f"{path} names case {case.name} twice, as far as a Patient ID can tell")
        seen.add(case.name)


def _seen(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SEEN_LENGTH else f"{text[:_SEEN_LENGTH]}…"
