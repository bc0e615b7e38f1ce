"""Cases into an archive: made as DICOM one at a time, stored through the gateway."""

import tempfile
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from federation.pacs.gateway import Gateway
from federation.samples.case import Case, Problem, UnusableCase
from federation.samples.dicom import content_digest, image_series


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A case that is in the archive, SEG and all; ``instances`` counts its objects."""

    case: Case
    instances: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A case of which nothing was stored, and why."""

    case: Case
    problem: Problem
    detail: str


def import_cases(cases: Iterable[Case], gateway: Gateway) -> Iterator[Stored | Quarantined]:
    """Store ``cases`` one by one, yielding what became of each as soon as it is known.

    A case that cannot become DICOM is quarantined and the next one follows, whatever it raises. An
    archive that fails raises :class:`~federation.errors.PacsError`, a full disk :class:`OSError`:
    the cases yielded until then are stored, and importing again is safe, since a case's UIDs
    depend on its content alone.
    """
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="iodeep-import-") as folder:
            try:
                paths = write_case(case, Path(folder))
            except UnusableCase as error:
                yield Quarantined(case=case, problem=error.problem, detail=str(error))
                continue
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the system's, of the temporary folder: it says nothing of the case
                yield Quarantined(case=case, problem=Problem.UNEXPECTED, detail=_place_of(error))
                continue
            gateway.store(paths)
            gateway.confirm(paths)
        yield Stored(case=case, instances=len(paths))


def write_case(case: Case, folder: Path) -> list[Path]:
    """Write a case's image series and SEG into ``folder``; the SEG is the last file.

    Raises :class:`UnusableCase` for a problem of the case, before anything is written.
    """
    from federation.samples.segmentation import segmentation  # highdicom is slow to import

    image = case.read()
    digest = content_digest(case, image)
    series = image_series(case, image, digest)
    seg = segmentation(case, image, series, digest)
    paths = []
    for number, dataset in enumerate([*series, seg], start=1):
        # By way of memory, so that what cannot be encoded is told from what the disk refuses.
        encoded = BytesIO()
        dataset.save_as(encoded, enforce_file_format=True)
        path = folder / f"{number:04d}.dcm"
        path.write_bytes(encoded.getbuffer())
        paths.append(path)
    return paths


def _place_of(error: Exception) -> str:
    """What was raised and where; its message stays out, as it may repeat a patient's name."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"making it DICOM raised {type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
    )
