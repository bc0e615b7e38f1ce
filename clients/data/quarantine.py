"""Why a study is left out of training; the run goes on without it."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from federation.errors import DataError
from federation.whole import make_private


class Reason(StrEnum):
    """A code that may leave the site, with a count and nothing else."""

    OPTED_OUT = "opted-out"
    NO_PATIENT_ID = "no-patient-id"
    PATIENTS_DIFFER = "patients-differ"
    INSTANCES_LIMIT = "instances-limit"
    NO_LABELS = "no-labels"
    SEVERAL_LABELS = "several-labels"
    PREDICTION = "prediction"
    IMAGES_ABSENT = "images-absent"
    NOT_RETRIEVED = "not-retrieved"
    IMAGE_UNSUPPORTED = "image-unsupported"
    IMAGE_UNDECODABLE = "image-undecodable"
    SLICE_MISSING = "slice-missing"
    SLICES_REPEATED = "slices-repeated"
    SLICES_IRREGULAR = "slices-irregular"
    LABELS_UNDECODABLE = "labels-undecodable"
    LABELS_UNSUPPORTED = "labels-unsupported"
    SEGMENT_MISSING = "segment-missing"
    SEGMENTS_OVERLAP = "segments-overlap"
    LABELS_OFF_GRID = "labels-off-grid"
    LABELS_EMPTY = "labels-empty"


class Unusable(DataError):
    """One study that cannot be used. The message names neither patient nor study."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A study left out: for the site's own eyes, as it names the study.

    study:  its UID, empty where that is none
    series: the image series concerned, or the SEG's where no image series is there
    """

    study: str
    series: str
    reason: Reason
    detail: str

    @classmethod
    def because_of(cls, problem: Unusable, *, study: str, series: str) -> Self:
        return cls(study=study, series=series, reason=problem.reason, detail=str(problem))


def count_reasons(quarantined: Iterable[Quarantined]) -> Mapping[Reason, int]:
    """How many studies were left out for each reason, in the order of :class:`Reason`."""
    counts = Counter(entry.reason for entry in quarantined)
    return {reason: counts[reason] for reason in Reason if counts[reason]}


def write_quarantine(path: Path, quarantined: Iterable[Quarantined]) -> None:
    """Replace ``path`` by one JSON line an entry: UIDs and reasons, no patient identifier."""
    make_private(path.parent)
    lines = "".join(json.dumps(asdict(entry)) + "\n" for entry in quarantined)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=path.name, suffix=".part", delete=False, encoding="utf-8"
    ) as file:
        file.write(lines)
    Path(file.name).replace(path)
