"""Cases into an archive: made as DICOM one at a time, stored through the gateway."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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

    A case that cannot become DICOM is quarantined and the next one follows. An archive that
    fails raises :class:`~federation.errors.PacsError`: the cases yielded until then are
    stored, and importing again is safe, since a case's UIDs depend on its content alone.
    """
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="iodeep-import-") as folder:
            try:
                paths = write_case(case, Path(folder))
            except UnusableCase as error:
                yield Quarantined(case=case, problem=error.problem, detail=str(error))
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
        path = folder / f"{number:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
