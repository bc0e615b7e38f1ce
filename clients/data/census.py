"""Which image series of an archive have labels: a SEG that refers to them.

Hierarchical C-FIND (PS3.4 Section C.4.1) finds studies, series and SEG instances. What a SEG
refers to is only in the SEG, so each is fetched once; its header is remembered after that.
"""

import tempfile
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom import Dataset

from clients.data.labels import SegmentationHeader, match_segments, read_header
from clients.data.quarantine import Quarantined, Reason, Unusable
from federation.config import DataTable
from federation.errors import PacsError, PacsUnreachable
from federation.pacs.gateway import Gateway
from federation.pacs.matching import matches_all

Headers = MutableMapping[str, SegmentationHeader | Unusable]

# How much is in a study, where an archive says so (optional keys, PS3.4 Section C.6.2.1.2).
_COUNTS = ("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances")
# Query keys of the STUDY level (PS3.4 Table C.6-5); all others are matched at SERIES level.
_STUDY_KEYS = frozenset(
    {
        "AccessionNumber",
        "IssuerOfPatientID",
        "ModalitiesInStudy",
        "PatientBirthDate",
        "PatientID",
        "PatientName",
        "PatientSex",
        "ReferringPhysicianName",
        "StudyDate",
        "StudyDescription",
        "StudyID",
        "StudyInstanceUID",
        "StudyTime",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledSeries:
    """An image series and the one SEG instance that labels it.

    The Patient ID decides the split and stays in memory.
    """

    study: str
    image_series: str
    image_instances: int
    seg_series: str
    seg_instance: str
    patient_id: str = field(repr=False)


Entry = LabelledSeries | Quarantined


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What a study was found to hold, when the archive counted so much in it."""

    counts: tuple[str, ...]
    entries: tuple[Entry, ...]


Studies = MutableMapping[str, Examined]


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """Every image series that the query matches is in one of the two."""

    labelled: tuple[LabelledSeries, ...]
    quarantined: tuple[Quarantined, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Segmentation:
    """A SEG instance in a study, and what it says, or why it says nothing."""

    series: str
    instance: str
    header: SegmentationHeader | Unusable


def find_labelled_series(
    gateway: Gateway,
    table: DataTable,
    *,
    known: Headers | None = None,
    examined: Studies | None = None,
    most: int | None = None,
) -> Census:
    """Match every image series that answers ``table.query`` with its SEG.

    known:    SEG headers by SOP Instance UID, filled as SEGs are fetched; keep it for next time
    examined: what was found in each study, filled too. A study whose counts of series and
              instances are still those is not asked about again, so keep it no longer than one
              run: a SEG that replaces another goes unnoticed for as long
    most:     look into no more studies than so many

    A study with no image that answers the query, but other images, is no business of ours; one
    that holds nothing but SEGs has lost its images and is quarantined. Raises
    :class:`PacsUnreachable`, and :class:`PacsError` where the archive refuses a query.
    """
    headers: Headers = {} if known is None else known
    labelled: list[LabelledSeries] = []
    quarantined: list[Quarantined] = []
    studies: Studies = {} if examined is None else examined
    study_keys = {key: value for key, value in table.query.items() if key in _STUDY_KEYS}
    wanted = dict.fromkeys(("StudyInstanceUID", "PatientID", *_COUNTS), "")
    for study in gateway.find("STUDY", {**wanted, **study_keys})[:most]:
        for entry in _examine_anew(gateway, table, study, headers, studies):
            if isinstance(entry, LabelledSeries):
                labelled.append(entry)
            else:
                quarantined.append(entry)
    labelled.sort(key=lambda series: (series.image_series, series.seg_instance))
    quarantined.sort(key=lambda entry: (entry.study, entry.series))
    return Census(labelled=tuple(labelled), quarantined=tuple(quarantined))


def _examine_anew(
    gateway: Gateway, table: DataTable, study: Dataset, headers: Headers, studies: Studies
) -> tuple[Entry, ...]:
    """The study's entries, as they were unless something came or went."""
    uid, patient_id = str(study.StudyInstanceUID), _patient_id(study)
    counts = tuple(str(study.get(keyword) or "") for keyword in _COUNTS)
    before = studies.get(uid)
    if before is not None and before.counts == counts and all(counts):
        return tuple(
            replace(entry, patient_id=patient_id) if isinstance(entry, LabelledSeries) else entry
            for entry in before.entries
        )
    entries = tuple(_examine(gateway, table, study, headers))
    reasons = {entry.reason for entry in entries if isinstance(entry, Quarantined)}
    if Reason.NOT_RETRIEVED not in reasons:
        studies[uid] = Examined(counts=counts, entries=entries)
    return entries


def _patient_id(study: Dataset) -> str:
    return str(study.get("PatientID") or "").strip()


def _examine(
    gateway: Gateway, table: DataTable, study: Dataset, headers: Headers
) -> Iterator[LabelledSeries | Quarantined]:
    uid = str(study.StudyInstanceUID)
    query = {key: value for key, value in table.query.items() if key not in _STUDY_KEYS}
    every = _find_series(gateway, uid, query)
    segs = [series for series, row in every.items() if row.get("Modality") == "SEG"]
    images = [
        series for series, row in every.items() if series not in segs and matches_all(query, row)
    ]
    if not images and len(segs) < len(every):
        return
    segmentations = [
        segmentation
        for series in segs
        for segmentation in _read_segmentations(gateway, uid, series, headers)
    ]
    for segmentation in segmentations:
        if _has_lost_its_images(segmentation, every, table.labels.map):
            yield Quarantined(
                study=uid,
                series=segmentation.series,
                reason=Reason.IMAGES_ABSENT,
                detail="a SEG that refers to no series of its study in the archive",
            )
    patient_id = _patient_id(study)
    for image in images:
        try:
            if not patient_id:
                raise Unusable(Reason.NO_PATIENT_ID, "a study without a Patient ID has no part")
            segmentation = _choose(image, segmentations, table.labels.map)
            yield LabelledSeries(
                study=uid,
                image_series=image,
                image_instances=_count_instances(gateway, uid, image, every[image]),
                seg_series=segmentation.series,
                seg_instance=segmentation.instance,
                patient_id=patient_id,
            )
        except Unusable as problem:
            yield Quarantined(study=uid, series=image, reason=problem.reason, detail=str(problem))


def _find_series(gateway: Gateway, study: str, query: Mapping[str, str]) -> dict[str, Dataset]:
    """Every series of a study, with the attributes that ``query`` wants to match."""
    wanted = dict.fromkeys(["SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"], "")
    rows = gateway.find("SERIES", {**wanted, **dict.fromkeys(query, ""), "StudyInstanceUID": study})
    return {str(row.SeriesInstanceUID): row for row in rows}


def _find_instances(gateway: Gateway, study: str, series: str) -> list[str]:
    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": ""}
    return sorted(str(row.SOPInstanceUID) for row in gateway.find("IMAGE", keys))


def _count_instances(gateway: Gateway, study: str, series: str, row: Dataset) -> int:
    """As the archive counts them (an optional key, PS3.4 Section C.6.1.1.3), else by asking."""
    count = row.get("NumberOfSeriesRelatedInstances")
    return int(count) if count else len(_find_instances(gateway, study, series))


def _read_segmentations(
    gateway: Gateway, study: str, series: str, headers: Headers
) -> Iterator[_Segmentation]:
    for instance in _find_instances(gateway, study, series):
        header = headers.get(instance)
        if header is None:
            header = _fetch_header(gateway, study, series, instance)
            if not (isinstance(header, Unusable) and header.reason is Reason.NOT_RETRIEVED):
                headers[instance] = header
        yield _Segmentation(series=series, instance=instance, header=header)


def _fetch_header(
    gateway: Gateway, study: str, series: str, instance: str
) -> SegmentationHeader | Unusable:
    with tempfile.TemporaryDirectory(prefix="iodeep-seg-") as folder:
        try:
            (path,) = gateway.fetch(Path(folder), study=study, series=series, instance=instance)
            return read_header(path)
        except Unusable as problem:
            return problem
        except PacsUnreachable:
            raise
        except (PacsError, ValueError):
            return Unusable(Reason.NOT_RETRIEVED, "the archive did not give its SEG")


def _has_lost_its_images(
    segmentation: _Segmentation, every: Mapping[str, Dataset], wanted: Mapping[str, int]
) -> bool:
    """Whether a SEG with the wanted segments refers to nothing in its study."""
    header = segmentation.header
    if isinstance(header, Unusable) or any(series in every for series in header.series):
        return False
    return _names_segments(header, wanted)


def _choose(
    image: str, segmentations: Sequence[_Segmentation], wanted: Mapping[str, int]
) -> _Segmentation:
    """The one SEG that refers to ``image`` and has the wanted segments; raises Unusable."""
    readable = [(s, s.header) for s in segmentations if isinstance(s.header, SegmentationHeader)]
    referring = [(s, header) for s, header in readable if image in header.series]
    usable = [s for s, header in referring if _names_segments(header, wanted)]
    if len(usable) == 1:
        return usable[0]
    if usable:
        raise Unusable(Reason.SEVERAL_SEGMENTATIONS, f"{len(usable)} SEGs label the same images")
    for _, header in referring:
        match_segments(header.segments, wanted)  # raises, saying which segment is missing
    for segmentation in segmentations:
        if isinstance(segmentation.header, Unusable):
            raise segmentation.header
    raise Unusable(Reason.NO_SEGMENTATION, "no SEG refers to the images")


def _names_segments(header: SegmentationHeader, wanted: Mapping[str, int]) -> bool:
    try:
        match_segments(header.segments, wanted)
    except Unusable:
        return False
    return True
