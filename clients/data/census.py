"""Which image series of an archive have labels: objects that refer to them.

Hierarchical C-FIND (PS3.4 Section C.4.1) finds studies, series and label objects. What one refers
to is only in the object, so each is fetched once; its header is remembered after that.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom import Dataset, dcmread

from clients.data import identities
from clients.data.labels import LabelHeader, Wanted, WantedClass, read_header, read_list
from clients.data.quarantine import Quarantined, Reason, Unusable
from federation.config import DataTable
from federation.errors import PacsError, PacsUnreachable
from federation.pacs.attributes import NO_IMAGES, is_uid, text_of
from federation.pacs.gateway import Gateway
from federation.pacs.matching import matches

Headers = MutableMapping[str, LabelHeader | Unusable]

# How much is in a study, where an archive says so (optional keys, PS3.4 Section C.6.2.1.2).
_COUNTS = ("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances")
_MODALITIES = "ModalitiesInStudy"  # of the study; an archive may leave it out
_OURS = ("IODEEP.", "IODEEP-DOCTOR")  # patients that are models, or samples of the doctor
# Query keys of the STUDY level (PS3.4 Table C.6-5); all others are matched at SERIES level.
_STUDY_KEYS = frozenset(
    {
        "AccessionNumber",
        "IssuerOfPatientID",
        _MODALITIES,
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
class LabelObject:
    """An instance that labels images, by its UIDs."""

    series: str
    instance: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledSeries:
    """An image series and the objects that label it, together.

    image_digest: SHA-256 of the images' SOP Instance UIDs
    source:      which kind of object they are, or ``CSV``, which has none
    image_class: that they, or a list, give to the series as a whole; None where they draw labels

    The patient's IDs, the one that they go by first, decide the split and stay in memory.
    """

    study: str
    image_series: str
    image_instances: int
    source: str
    labels: tuple[LabelObject, ...]
    image_class: int | None = None
    image_digest: str = ""
    patient_ids: tuple[str, ...] = field(repr=False)


Entry = LabelledSeries | Quarantined


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What a study was found to hold, when the archive counted so much in it.

    at: when that was, in seconds of the epoch
    """

    counts: tuple[str, ...]
    entries: tuple[Entry, ...]
    at: float = 0.0


Studies = MutableMapping[str, Examined]


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """Every image series that the query matches is in one of the two."""

    labelled: tuple[LabelledSeries, ...]
    quarantined: tuple[Quarantined, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """A label object in a study, and what it says, or why it says nothing."""

    source: str
    object: LabelObject
    header: LabelHeader | Unusable


def find_labelled_series(
    gateway: Gateway,
    table: DataTable,
    wanted: Wanted,
    *,
    known: Headers | None = None,
    examined: Studies | None = None,
    opted_out: Callable[[str], bool] | None = None,
    most: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    scratch: Path | None = None,
) -> Census:
    """Match every image series that answers ``table.query`` with what labels it.

    known:     headers of label objects by SOP Instance UID, filled as these are fetched; keep it
               for next time
    examined:  what was found in each study, filled too. A study whose counts of series and
               instances are still those is not asked about again, so keep it no longer than some
               hours: a SEG that replaces another goes unnoticed for as long
    opted_out: whether a patient, by ID, does not take part; nothing of theirs is fetched
    most:      look into no more studies than so many
    progress:  called with the number of studies looked into, and of all
    scratch:   a folder for what is fetched, meanwhile; the system's own unless given

    A study or series whose UID is none cannot be asked about, and is quarantined. A study with no
    image that answers the query, but other images, is no business of ours; one that holds nothing
    but labels has lost its images and is quarantined. Raises :class:`PacsUnreachable`,
    :class:`PacsError` where the archive refuses a query, and
    :class:`~federation.errors.ConfigError` for a list of classes that cannot be read.
    """
    finder = _Finder(gateway, table, wanted, {} if known is None else known, scratch)
    studies: Studies = {} if examined is None else examined
    labelled: list[LabelledSeries] = []
    quarantined: list[Quarantined] = []
    keys = {key: value for key, value in table.query.items() if key in _STUDY_KEYS}
    asked = dict.fromkeys(("StudyInstanceUID", "PatientID", identities.KEY, *_COUNTS), "")
    asked |= {key: "" for exclude in table.exclude for key in exclude if key in _STUDY_KEYS}
    rows = _find_studies(gateway, table, {**asked, **keys})
    patients = identities.Identities(rows)
    rows = [row for row in rows if not str(row.get("PatientID", "")).startswith(_OURS)][:most]
    for done, row in enumerate(rows, start=1):
        patient = patients.of(row)
        if not is_uid(text_of(row, "StudyInstanceUID")):
            quarantined.append(_without_uid("study"))
            continue
        if opted_out is not None and any(map(opted_out, patient)):
            entries: tuple[Entry, ...] = (_of_nobody(row),)
        else:
            entries = _entries(finder, row, patient, studies)
        for entry in entries:
            if isinstance(entry, LabelledSeries):
                labelled.append(entry)
            else:
                quarantined.append(entry)
        if progress is not None:
            progress(done, len(rows))
    labelled.sort(key=lambda series: (series.image_series, [o.instance for o in series.labels]))
    quarantined.sort(key=lambda entry: (entry.study, entry.series))
    return Census(labelled=tuple(labelled), quarantined=tuple(quarantined))


def _without_uid(what: str, study: str = "") -> Quarantined:
    """Of a study or series that nobody can ask for; what it has in place of a UID may be anything,
    and is not repeated."""
    return Quarantined(
        study=study,
        series="",
        reason=Reason.NOT_RETRIEVED,
        detail=f"a {what} whose {what.capitalize()} Instance UID is no UID",
    )


def _find_studies(gateway: Gateway, table: DataTable, keys: Mapping[str, str]) -> list[Dataset]:
    """Studies with images of the modality, or with what labels them, which may be all that is
    left; where no modality is asked for, all."""
    modality = table.query.get("Modality", "")
    if not modality or set(modality) & set("*?") or "ModalitiesInStudy" in keys:
        return gateway.find("STUDY", keys)
    drawn = [source for source in table.labels.source if source in ("SEG", "RTSTRUCT")]
    found: dict[str, Dataset] = {}
    for one in (modality, *drawn):
        for row in gateway.find("STUDY", {**keys, "ModalitiesInStudy": one}):
            found.setdefault(text_of(row, "StudyInstanceUID"), row)
    return list(found.values())


def _of_nobody(row: Dataset) -> Quarantined:
    """All that is said of a study of a patient who does not take part."""
    return Quarantined(
        study=str(row.StudyInstanceUID),
        series="",
        reason=Reason.OPTED_OUT,
        detail="the patient does not take part",
    )


def _entries(
    finder: "_Finder", row: Dataset, patient_ids: tuple[str, ...], studies: Studies
) -> tuple[Entry, ...]:
    """The study's entries, as they were unless something came or went."""
    uid = str(row.StudyInstanceUID)
    counts = tuple(str(row.get(keyword) or "") for keyword in _COUNTS)
    before = studies.get(uid)
    if before is not None and before.counts == counts and all(counts):
        return tuple(
            replace(entry, patient_ids=patient_ids) if isinstance(entry, LabelledSeries) else entry
            for entry in before.entries
        )
    entries = tuple(finder.examine(row, patient_ids))
    reasons = {entry.reason for entry in entries if isinstance(entry, Quarantined)}
    if Reason.NOT_RETRIEVED not in reasons:
        studies[uid] = Examined(counts=counts, entries=entries, at=time.time())
    return entries


class _Finder:
    """Looks into one study after another."""

    def __init__(
        self,
        gateway: Gateway,
        table: DataTable,
        wanted: Wanted,
        headers: Headers,
        scratch: Path | None,
    ) -> None:
        self._gateway = gateway
        self._table = table
        self._wanted = wanted
        self._headers = headers
        self._scratch = scratch
        self._listed = read_list(table.labels.file) if table.labels.file else None
        self._sources = table.labels.source
        self._query = {k: v for k, v in table.query.items() if v not in ("", "*")}

    def examine(self, row: Dataset, patient_ids: tuple[str, ...]) -> Iterator[Entry]:
        """Every image series of a study that answers the query, or what is left of it."""
        study = str(row.StudyInstanceUID)
        found_series = self._find_series(study)
        every = {uid: one for uid, one in found_series.items() if is_uid(uid)}
        for one in (one for uid, one in found_series.items() if uid not in every):
            if self._may_be_meant(row, one):
                yield _without_uid("series", study)
        images: list[str] = []
        for series in every:
            try:
                if self._is_meant(row, every, series):
                    images.append(series)
            except Unusable as problem:
                yield Quarantined.because_of(problem, study=study, series=series)
        if not images and any(one.get("Modality") not in NO_IMAGES for one in every.values()):
            return
        objects = [
            found
            for series, one in found_series.items()
            if one.get("Modality") in self._sources
            for found in self._read_objects(study, series, str(one.Modality))
        ]
        for found in objects:
            if self._has_lost_its_images(found, every):
                yield Quarantined(
                    study=study,
                    series=found.object.series,
                    reason=Reason.IMAGES_ABSENT,
                    detail=f"a {found.source} that refers to no series of its study in the archive",
                )
        for image in images:
            try:
                count = self._check(study, patient_ids, image, every[image])
                source, chosen, image_class = self._choose(study, image, patient_ids, objects)
                yield LabelledSeries(
                    study=study,
                    image_series=image,
                    image_instances=count,
                    source=source,
                    labels=chosen,
                    image_class=image_class,
                    image_digest=self._digest_instances(study, image),
                    patient_ids=patient_ids,
                )
            except Unusable as problem:
                yield Quarantined.because_of(problem, study=study, series=image)

    def _check(self, study: str, patient_ids: Collection[str], image: str, series: Dataset) -> int:
        """How many instances an image series has. Raises :class:`Unusable` where it is left out,
        whatever labels it."""
        if not patient_ids:
            raise Unusable(Reason.NO_PATIENT_ID, "a study without a Patient ID has no part")
        count = self._count_instances(study, image, series)
        limits = self._table.limits
        if count < limits.least_instances or (
            limits.most_instances is not None and count > limits.most_instances
        ):
            raise Unusable(Reason.INSTANCES_LIMIT, f"{count} instances, which limits leave out")
        return count

    def _is_meant(self, row: Dataset, every: Mapping[str, Dataset], series: str) -> bool:
        """Whether it has images, answers the query and none of what is excluded.

        What the archive does not answer, an image of the series does, and what that does not say
        is no match. Raises :class:`Unusable` where the image does not come.
        """
        one = every[series]
        said = [self._with_modalities(row, every), one]
        if not self._may_be_meant(*said):
            return False
        asked = (self._query, *self._table.exclude)
        if any(_meets(keys, said) is None for keys in asked):
            said.append(self._image_in(str(row.StudyInstanceUID), series))
        return _meets(self._query, said) is True and not self._is_excluded(said)

    def _may_be_meant(self, study: Dataset, series: Dataset) -> bool:
        """The same, as far as the archive says."""
        said = [study, series]
        return not (
            series.get("Modality") in NO_IMAGES
            or _meets(self._query, said) is False
            or self._is_excluded(said)
        )

    def _is_excluded(self, said: Sequence[Dataset]) -> bool:
        return any(_meets(keys, said) is True for keys in self._table.exclude)

    def _with_modalities(self, row: Dataset, every: Mapping[str, Dataset]) -> Dataset:
        """What an archive says of a study; not all say what its series do."""
        asked = (self._query, *self._table.exclude)
        if _MODALITIES in row or not any(_MODALITIES in keys for keys in asked):
            return row
        filled = Dataset()
        filled.update(row)
        filled.ModalitiesInStudy = sorted({text_of(one, "Modality") for one in every.values()})
        return filled

    def _image_in(self, study: str, series: str) -> Dataset:
        """One image of a series, without its pixels."""
        with tempfile.TemporaryDirectory(prefix="iodeep-image-", dir=self._scratch) as folder:
            try:
                first = self._find_instances(study, series)[0]
                (path,) = self._gateway.fetch(
                    Path(folder), study=study, series=series, instance=first
                )
                return dcmread(path, stop_before_pixels=True)
            except PacsUnreachable:
                raise
            except Exception as error:  # a damaged file can raise anything in the parser
                raise Unusable(
                    Reason.NOT_RETRIEVED,
                    "the archive does not answer the query, and gave no image to look at instead",
                ) from error

    def _find_series(self, study: str) -> dict[str, Dataset]:
        """Every series of a study, with the attributes that the query wants to match."""
        wanted = ["SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"]
        asked = (self._query, *self._table.exclude)
        wanted += [key for keys in asked for key in keys if key not in _STUDY_KEYS]
        keys = {**dict.fromkeys(wanted, ""), "StudyInstanceUID": study}
        rows = self._gateway.find("SERIES", keys)
        return {text_of(row, "SeriesInstanceUID"): row for row in rows}

    def _find_instances(self, study: str, series: str) -> list[str]:
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": ""}
        rows = self._gateway.find("IMAGE", keys)
        return sorted(text_of(row, "SOPInstanceUID") for row in rows)

    def _digest_instances(self, study: str, series: str) -> str:
        """SHA-256 of which instances a series has."""
        return hashlib.sha256("\n".join(self._find_instances(study, series)).encode()).hexdigest()

    def _count_instances(self, study: str, series: str, row: Dataset) -> int:
        """As the archive counts them (an optional key, PS3.4 Section C.6.1.1.3), else by asking."""
        count = row.get("NumberOfSeriesRelatedInstances")
        return int(count) if count else len(self._find_instances(study, series))

    # --- label objects --------------------------------------------------------------------

    def _read_objects(self, study: str, series: str, source: str) -> Iterator[_Found]:
        if not is_uid(series):
            yield _Found(
                source=source,
                object=LabelObject(series="", instance=""),
                header=Unusable(Reason.NOT_RETRIEVED, "a label object whose UID is none"),
            )
            return
        for instance in self._find_instances(study, series):
            key = self._key(instance)
            header = self._headers.get(key)
            if header is None:
                header = self._fetch_header(study, series, instance)
                if not (isinstance(header, Unusable) and header.reason is Reason.NOT_RETRIEVED):
                    self._headers[key] = header
            yield _Found(
                source=source,
                object=LabelObject(series=series, instance=instance),
                header=header,
            )

    def _key(self, instance: str) -> str:
        """By what a header is remembered. Of a report that depends on what is looked for in it, as
        nothing else of what it says about a patient is kept."""
        if not isinstance(self._wanted, WantedClass):
            return instance
        asked = json.dumps(self._wanted.as_json, sort_keys=True)
        return f"{instance}/{hashlib.sha256(asked.encode()).hexdigest()[:16]}"

    def _fetch_header(self, study: str, series: str, instance: str) -> LabelHeader | Unusable:
        """The header, or why there is none. Raises :class:`PacsUnreachable`."""
        with tempfile.TemporaryDirectory(prefix="iodeep-labels-", dir=self._scratch) as folder:
            try:
                if not is_uid(instance):
                    raise Unusable(Reason.NOT_RETRIEVED, "a label object whose UID is none")
                (path,) = self._gateway.fetch(
                    Path(folder), study=study, series=series, instance=instance
                )
                header = read_header(path)
                if not isinstance(self._wanted, WantedClass):
                    return header
                said = [one for one in header.segments if self._wanted.label_of(one) is not None]
                return replace(header, segments=tuple(said))
            except Unusable as problem:
                return problem
            except PacsUnreachable:
                raise
            except (PacsError, ValueError):
                return Unusable(
                    Reason.NOT_RETRIEVED, "a label object that the archive did not give"
                )

    def _has_lost_its_images(self, found: _Found, every: Mapping[str, Dataset]) -> bool:
        header = found.header
        if isinstance(header, Unusable) or any(series in every for series in header.series):
            return False
        return self._wanted.is_met_by(header.segments)

    def _choose(
        self, study: str, image: str, ids: Collection[str], objects: Sequence[_Found]
    ) -> tuple[str, tuple[LabelObject, ...], int | None]:
        """What labels ``image``, of the first source that does: its objects, and the class of the
        whole image where they say one. Raises :class:`Unusable`.

        Of objects that draw labels one that has all that is wanted, else several that share it.
        """
        problem: Unusable | None = None
        for source in self._sources:
            referring = [
                (found, found.header)
                for found in objects
                if found.source == source
                and isinstance(found.header, LabelHeader)
                and image in found.header.series
            ]
            try:
                if self._listed is not None and source == "CSV":
                    image_class = self._listed.class_of(
                        self._wanted, series=image, study=study, patients=ids
                    )
                    return source, (), image_class
                if referring and isinstance(self._wanted, WantedClass):
                    return source, *_agreeing(referring, self._wanted)
                if referring:
                    return source, _sharing(referring, self._wanted), None
            except Unusable as why:
                if isinstance(self._wanted, WantedClass) and why.reason is Reason.SEVERAL_LABELS:
                    raise
                problem = problem or why
        unreadable = [one.header for one in objects if isinstance(one.header, Unusable)]
        if problem is None and unreadable:
            problem = unreadable[0]
        kinds = " or ".join(self._sources)
        raise problem or Unusable(Reason.NO_LABELS, f"no {kinds} refers to the images")


def _agreeing(
    referring: Sequence[tuple[_Found, LabelHeader]], wanted: WantedClass
) -> tuple[tuple[LabelObject, ...], int]:
    """The reports that say a class, and the one that all of them say. Raises :class:`Unusable`."""
    saying = [(found, header) for found, header in referring if wanted.is_met_by(header.segments)]
    image_class = wanted.class_in(segment for _, header in saying for segment in header.segments)
    objects = sorted((found.object for found, _ in saying), key=lambda one: one.instance)
    return tuple(objects), image_class


def _sharing(
    referring: Sequence[tuple[_Found, LabelHeader]], wanted: Wanted
) -> tuple[LabelObject, ...]:
    whole = [found for found, header in referring if wanted.is_met_by(header.segments)]
    parts = [(found, wanted.labels_in(header.segments)) for found, header in referring]
    sharing = [(found, labels) for found, labels in parts if labels]
    if len(whole) == 1 and len(sharing) <= 1:  # none, where it is not known what is wanted
        return (whole[0].object,)
    if whole:  # what draws a part of it again may correct it, and may not
        count = max(len(whole), len(sharing))
        raise Unusable(Reason.SEVERAL_LABELS, f"{count} objects label the same images")
    wanted.check([segment for _, header in referring for segment in header.segments])
    if sum(len(labels) for _, labels in sharing) > len(set().union(*(one for _, one in sharing))):
        raise Unusable(
            Reason.SEVERAL_LABELS, f"{len(sharing)} objects have the same labels between them"
        )
    return tuple(sorted((found.object for found, _ in sharing), key=lambda one: one.instance))


def _meets(keys: Mapping[str, str], rows: Sequence[Dataset]) -> bool | None:
    """Whether rows, the first of which that says something counts, meet every key with something;
    None where a key that decides is in none of them."""
    is_decided = True
    for key, wanted in keys.items():
        said = next((text for row in rows if (text := text_of(row, key))), "")
        if said:
            if not matches(key, wanted, said):
                return False
        elif any(key in row for row in rows):
            return False
        else:
            is_decided = False
    return True if is_decided else None
