"""Selecting out of archives: what a study's series are, and which networks are released."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread

from federation.errors import DataError, PacsError, PacsUnreachable, RegistryError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import AGGREGATOR, EvaluationManifest, VersionManifest
from federation.pacs.attributes import NO_IMAGES, text_of
from federation.pacs.gateway import Gateway
from federation.registry import Registry
from federation.releases import released
from federation.selection.image import ImageFacts, facts_of
from federation.selection.ranking import Model, like
from federation.task import TASKS


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSeries:
    """A series of images, by its UIDs, and what it says of itself.

    instances: SOP Instance UIDs, in their own order; of a file, its own
    header:    one of its images, without pixels
    """

    study: str
    series: str
    number: str
    instances: tuple[str, ...]
    facts: ImageFacts
    header: Dataset = field(repr=False, compare=False)


def series_in(gateway: Gateway, study: str) -> Iterator[ImageSeries]:
    """The image series of a study, in the order of their numbers; of each, one image is fetched.

    A series of which none comes counts by what the archive lists of it. Raises
    :class:`DataError` for a study without images.
    """
    wanted = ("SeriesInstanceUID", "SeriesNumber", "Modality", "NumberOfSeriesRelatedInstances")
    asked = dict.fromkeys((*wanted, "BodyPartExamined", "SeriesDescription"), "")
    rows = gateway.find("SERIES", {**asked, "StudyInstanceUID": study})
    images = [row for row in rows if row.get("Modality") not in (*NO_IMAGES, "OT")]
    if not images:
        raise DataError(
            f"study {study} has no series of images in {gateway.address}"
            + ("; it has others" if rows else ", or is not there; `iodeep pacs find` shows what is")
        )
    for row in sorted(
        images, key=lambda row: (row.get("SeriesNumber") or 0, row.SeriesInstanceUID)
    ):
        series = str(row.SeriesInstanceUID)
        instances = _instances(gateway, study, series)
        image = _image(gateway, study, series, instances) or row
        yield ImageSeries(
            study=study,
            series=series,
            number=text_of(row, "SeriesNumber"),
            instances=tuple(instances),
            facts=facts_of(image, len(instances)),
            header=image,
        )


def read_image(path: Path) -> ImageSeries:
    """What a DICOM file says of its series, which is taken for a whole volume's where its kind is.

    Raises :class:`DataError` for what is none.
    """
    try:
        ds = dcmread(path, stop_before_pixels=True)
        uids = str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID)
    except Exception as error:  # pydicom raises anything on malformed files
        raise DataError(
            f"{path} is no DICOM image; expected a file of the series to select for"
        ) from error
    if text_of(ds, "Modality") in NO_IMAGES or "Rows" not in ds:
        raise DataError(f"{path} holds no image; expected a file of the series to select for")
    is_slice = "ImagePositionPatient" in ds
    return ImageSeries(
        study=uids[0],
        series=uids[1],
        number=text_of(ds, "SeriesNumber"),
        instances=(text_of(ds, "SOPInstanceUID"),),
        facts=facts_of(ds, 2 if is_slice else 1),
        header=ds,
    )


class ReleasedModels:
    """The released versions of an archive, read as they are asked for.

    site: whose evaluations give a network its score
    """

    def __init__(self, registry: Registry, site: str | None = None) -> None:
        self._registry = registry
        self._site = site
        self._lines: dict[str, list[Line]] = {}
        self._known: dict[Line, Model | None] = {}

    def lines_for(self, modality: str) -> list[Line]:
        """The lines for images of a modality; all that there are, where none is.

        As the archive is when it is first asked.
        """
        if modality not in self._lines:
            found = [line for one in like(modality) for line in self._listed(one)]
            self._lines[modality] = found or self._listed("*")
        return self._lines[modality]

    def _listed(self, modality: str) -> list[Line]:
        branches = self._registry.branches(modality=modality)
        return list(dict.fromkeys(branch.line for branch in branches))

    def of(self, line: Line) -> Model | None:
        """A line's released network; None where there is none, or it is not whole or believed."""
        if line not in self._known:
            self._known[line] = self._read(line)
        return self._known[line]

    def _read(self, line: Line) -> Model | None:
        try:
            version = released(self._registry, line)
        except RegistryError:
            return None
        return Model(version=version, score=self._score(version))

    def _score(self, version: VersionManifest) -> float | None:
        if self._site is None:
            return None
        headline = f"test_{TASKS[version.task].headline}"
        for one in self._registry.evaluations(version.line, version.branch):
            if one.of == version.reference and (score := self._score_in(one, headline)):
                return score
        return None

    def _score_in(self, evaluation: EvaluationManifest, headline: str) -> float | None:
        if evaluation.by == AGGREGATOR:
            measured = evaluation.sites.get(self._site or "")
            return measured.metrics.get(headline) if measured else None
        return evaluation.measured.metrics.get(headline) if evaluation.by == self._site else None


def _instances(gateway: Gateway, study: str, series: str) -> list[str]:
    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": ""}
    return sorted(str(row.SOPInstanceUID) for row in gateway.find("IMAGE", keys))


def _image(gateway: Gateway, study: str, series: str, instances: list[str]) -> Dataset | None:
    """One image without its pixels; None where it does not come."""
    with tempfile.TemporaryDirectory(prefix="iodeep-image-") as folder:
        try:
            middle = instances[len(instances) // 2]
            (path,) = gateway.fetch(Path(folder), study=study, series=series, instance=middle)
            return dcmread(path, stop_before_pixels=True)
        except PacsUnreachable:
            raise
        except (PacsError, IndexError):
            return None
        except Exception:  # pydicom raises anything on malformed files
            return None
