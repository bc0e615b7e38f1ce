"""A site's labelled data for one line: census, decoding, cache and split in one call."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from clients.data.cache import (
    Example,
    ExampleCache,
    OutByObjects,
    Whose,
    example_key,
    make_scratch,
)
from clients.data.census import Census, LabelledSeries, find_labelled_series
from clients.data.identities import Identities, read_patient_ids
from clients.data.labels import Wanted, read_labels, read_list, wanted_by
from clients.data.opt_outs import OptedOut, opted_out
from clients.data.preprocessing import (
    check_whole,
    class_label,
    preprocess_image,
    preprocess_labels,
    spacing_after,
)
from clients.data.quarantine import (
    Quarantined,
    Reason,
    Unusable,
    count_reasons,
    write_quarantine,
)
from clients.data.split import Part, part_of_hashes, patient_hash, read_split_key
from clients.data.volumes import Volume, read_volume
from federation.config import DataTable, PolicyTable, Site
from federation.errors import ConfigError, DataError, IODeepError, PacsError, PacsUnreachable
from federation.iodeep.architecture import Preprocessing
from federation.iodeep.labels import Line
from federation.iodeep.manifest import OutputLabel
from federation.pacs.gateway import Gateway
from federation.task import TaskName

QUARANTINE = "quarantine.jsonl"

Progress = Callable[[int, int], None]


class Examples(Sequence[Example]):
    """Examples in a fixed order, each mapped from the cache when it is asked for."""

    def __init__(self, cache: ExampleCache, keys: Sequence[str]) -> None:
        self._cache = cache
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> "Examples": ...

    def __getitem__(self, index: int | slice) -> "Example | Examples":
        if isinstance(index, slice):
            return Examples(self._cache, self._keys[index])
        return self._cache.read(self._keys[index])

    def __repr__(self) -> str:
        return f"Examples({len(self)})"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledData:
    """What a site trains, validates and tests on, and what it left out.

    studies:     with an example
    unusable:    without one, because of what they are; those of patients who opted out do not count
    quarantined: series by reason, opted out ones among them

    No patient is in two parts; validation and test may be empty (see
    :func:`clients.data.split.part_of`).
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    studies: int
    unusable: int
    quarantined: Mapping[Reason, int]


def load_examples(
    gateway: Gateway,
    site: Site,
    line: Line,
    preprocessing: Preprocessing,
    outputs: Sequence[OutputLabel] = (),
    *,
    task: TaskName = "segmentation",
    run: str = "",
    progress: Progress | None = None,
) -> LabelledData:
    """The site's examples for ``line``, out of the archive or the cache in ``site.work``.

    outputs:  the network's: an example must have a segment of each of them, or be of one class
    task:     the network's; the site's labels must be for it
    run:      names what the examples are for: within one run, studies are asked about again only
              where something came or went. Without a name, all of them are
    progress: called with the number of series done and their total

    Order depends on the objects' UIDs alone. Studies left out are counted by reason and listed
    in ``work/quarantine.jsonl``. Raises :class:`DataError` with fewer usable studies, or more
    unusable ones, than the site's policy allows, or none to train on;
    :class:`~federation.errors.ConfigError` without data for the line or a split key, and
    :class:`~federation.errors.PacsError`.
    """
    table = table_for(site, line, task)
    split_key = read_split_key(table.split.key)
    wanted = wanted_by(table.labels, outputs)
    cache = ExampleCache(site.work / "cache", site.policy.cache)
    source = _Source(
        gateway=gateway,
        cache=cache,
        scratch=make_scratch(site.work),
        wanted=wanted,
        preprocessing=preprocessing,
        split_key=split_key,
        opted_out=opted_out(site.policy.opt_out),
    )
    cache.remove_opted_out(source.opted_out)
    census = take_census(
        gateway, site.policy, table, wanted, cache, run=run, scratch=source.scratch
    )
    built: list[tuple[LabelledSeries, str, Whose]] = []
    out: list[Whose] = []
    quarantined = list(census.quarantined)
    for done, series in enumerate(census.labelled, start=1):
        key = example_key(series, wanted, preprocessing)
        try:
            built.append((series, key, _ensure_cached(source, key, series)))
        except Unusable as problem:
            if isinstance(problem, OutByObjects):
                out.append(problem.whose)
            quarantined.append(_left_out(series, problem))
        if progress is not None:
            progress(done, len(census.labelled))
    # Objects tell of links that the archive does not, so a patient's part and whether they take
    # part are known when all of them are.
    patients = Identities()
    for whose in (*out, *(whose for _, _, whose in built)):
        patients.link(whose.split)
    gone = {one for whose in out for one in patients.linked(whose.split[0])}
    parts: dict[Part, list[str]] = {part: [] for part in Part}
    studies: set[str] = set()
    for series, key, whose in built:
        if gone.isdisjoint(whose.split):
            hashes = patients.linked(whose.split[0])
            parts[part_of_hashes(hashes, table.split, split_key)].append(key)
            studies.add(series.study)
        else:
            cache.remove(key)
            quarantined.append(_left_out(series, OutByObjects(whose)))
    write_quarantine(site.work / QUARANTINE, quarantined)
    data = LabelledData(
        train=Examples(cache, parts[Part.TRAIN]),
        validation=Examples(cache, parts[Part.VALIDATION]),
        test=Examples(cache, parts[Part.TEST]),
        studies=len(studies),
        unusable=len(
            {entry.study for entry in quarantined if entry.reason is not Reason.OPTED_OUT} - studies
        ),
        quarantined=count_reasons(quarantined),
    )
    _refuse_too_few(data, site, line)
    return data


def table_for(site: Site, line: Line, task: TaskName) -> DataTable:
    """The site's table for a line, whose modality is asked for unless the query names another.

    Raises :class:`ConfigError` where there is none, or its labels are for another task.
    """
    table = site.data_for(line)
    if table.labels.task != task:
        fitting = {"segmentation": '"SEG" or "RTSTRUCT"', "classification": '"SR" or "CSV"'}
        raise ConfigError(
            f"the labels of [data.{line.region.slug}] come from {', '.join(table.labels.source)} "
            f"and are for {table.labels.task}, {line} is for {task}: that needs labels.source = "
            f"{fitting[task]}"
        )
    return table.model_copy(update={"query": {"Modality": line.modality, **table.query}})


def take_census(
    gateway: Gateway,
    policy: PolicyTable,
    table: DataTable,
    wanted: Wanted,
    cache: ExampleCache,
    *,
    run: str = "",
    progress: Progress | None = None,
    scratch: Path | None = None,
) -> Census:
    """What a table finds, as far as the policy and the table's limits go.

    run:     as of :func:`load_examples`
    scratch: as of :func:`find_labelled_series`

    No label object is fetched that ``cache`` remembers. Raises as :func:`find_labelled_series`,
    and :class:`ConfigError` for a list of opt-outs that cannot be read.
    """
    headers = cache.read_headers(wanted.names)
    known = len(headers)
    content = f"{table.model_dump_json()}{json.dumps(wanted.as_json)}"  # it may name patients
    content += read_list(table.labels.file).digest if table.labels.file else ""
    asked = hashlib.sha256(content.encode()).hexdigest()
    named = f"{run} {asked}" if run else ""
    studies = cache.read_studies(named) if named else {}
    before = dict(studies)
    try:
        return find_labelled_series(
            gateway,
            table,
            wanted,
            known=headers,
            examined=studies,
            opted_out=opted_out(policy.opt_out),
            most=table.limits.studies,
            progress=progress,
            scratch=scratch,
        )
    finally:
        if len(headers) > known:
            cache.write_headers(headers)
        if named and studies != before:
            cache.write_studies(named, studies)


def _left_out(series: LabelledSeries, problem: Unusable) -> Quarantined:
    return Quarantined.because_of(problem, study=series.study, series=series.image_series)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """What examples are made with."""

    gateway: Gateway
    cache: ExampleCache
    scratch: Path
    wanted: Wanted
    preprocessing: Preprocessing
    split_key: bytes = field(repr=False)
    opted_out: OptedOut

    def whose(self, patient_ids: Collection[str]) -> Whose:
        return Whose(
            split=tuple(sorted({patient_hash(one, self.split_key) for one in patient_ids})),
            opt_out=self.opted_out.hashes(patient_ids),
        )


def _ensure_cached(source: _Source, key: str, series: LabelledSeries) -> Whose:
    """Build the example unless it is there, and say whose it is.

    One that does not name the patient whom the archive has it under is built anew. Raises
    :class:`Unusable` where it cannot be built.
    """
    cache = source.cache
    known, whose = source.whose(series.patient_ids), cache.whose(key)
    if whose is not None and whose.is_known_by(known) and cache.verify(key):
        return whose
    problem = cache.verdict(key)
    if isinstance(problem, OutByObjects) and not source.opted_out.has_any(
        problem.whose.opt_out or ()
    ):
        problem = None
    if problem is not None:
        raise problem
    cache.remove(key)
    try:
        example, whose = _build(source, key, series)
    except Unusable as why:
        if why.reason is not Reason.NOT_RETRIEVED:
            cache.remember(key, why)
        raise
    cache.write(example, whose)
    return whose


def _build(source: _Source, key: str, series: LabelledSeries) -> tuple[Example, Whose]:
    """Fetch, decode and preprocess one example."""
    preprocessing = source.preprocessing
    with undecodable():
        read = read_series(
            source.gateway,
            series,
            source.wanted,
            opted_out=source.opted_out,
            whose=source.whose,
            scratch=source.scratch,
        )
        if series.image_class is None:
            label = preprocess_labels(read.labels, read.volume, preprocessing)
        else:
            check_whole(read.volume, preprocessing)
            label = class_label(series.image_class)
        example = Example(
            key=key,
            image=preprocess_image(read.volume, preprocessing),
            label=label,
            spacing_mm=spacing_after(read.volume, preprocessing),
        )
    return example, source.whose(read.patient_ids)


@contextmanager
def undecodable() -> Iterator[None]:
    """What nobody foresaw in one example, its memory among it, is that example's end alone.

    Nothing of the error's text is passed on: it may hold anything that was in the objects.
    """
    try:
        yield
    except IODeepError:
        raise
    except Exception as error:
        raise Unusable(
            Reason.IMAGE_UNDECODABLE,
            f"an image that could not be decoded: {type(error).__name__}",
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SeriesRead:
    """A series' volume and, on its grid, its labels (D, H, W); no voxel has one where the series
    has a class.

    patient_ids: all that the archive and the objects give of its patient; they stay in memory
    """

    volume: Volume
    labels: NDArray[np.uint8]
    patient_ids: frozenset[str] = field(repr=False)


def read_series(
    gateway: Gateway,
    series: LabelledSeries,
    wanted: Wanted,
    *,
    opted_out: Callable[[str], bool] | None = None,
    whose: Callable[[Collection[str]], Whose] | None = None,
    scratch: Path | None = None,
) -> SeriesRead:
    """Fetch and read a series and its labels.

    opted_out: whether a patient, by ID, does not take part; the objects may tell of more IDs than
               the archive does
    whose:     what is kept of such a patient's IDs
    scratch:   a folder for what is fetched, meanwhile; the system's own unless given

    Raises :class:`Unusable` where they cannot be had or name several patients, and
    :class:`PacsUnreachable`.
    """
    with tempfile.TemporaryDirectory(prefix="iodeep-fetch-", dir=scratch) as folder:
        try:
            images, objects = fetch_series(gateway, series, Path(folder))
        except PacsUnreachable:
            raise
        except (PacsError, ConfigError, ValueError) as error:
            raise Unusable(Reason.NOT_RETRIEVED, "the archive did not give its objects") from error
        patient_ids = read_patient_ids(images, objects, series.patient_ids)
        if opted_out is not None and any(map(opted_out, patient_ids)):
            raise OutByObjects(Whose(split=()) if whose is None else whose(patient_ids))
        volume = read_volume(images)
        if series.image_class is None:
            labels = read_labels(objects, volume, wanted)
        else:
            labels = np.zeros(volume.voxels.shape, np.uint8)
        return SeriesRead(volume=volume, labels=labels, patient_ids=patient_ids)


def fetch_series(
    gateway: Gateway, series: LabelledSeries, folder: Path
) -> tuple[list[Path], list[Path]]:
    """The files of a series, and of what labels it. Raises :class:`PacsError`."""
    images, objects = folder / "images", folder / "labels"
    images.mkdir()
    objects.mkdir()
    paths = gateway.fetch(images, study=series.study, series=series.image_series)
    labels = [
        path
        for one in series.labels
        for path in gateway.fetch(
            objects, study=series.study, series=one.series, instance=one.instance
        )
    ]
    return paths, labels


def _refuse_too_few(data: LabelledData, site: Site, line: Line) -> None:
    reasons = ", ".join(f"{count} {reason}" for reason, count in data.quarantined.items())
    left_out = f"; left out: {reasons}" if reasons else ""
    if data.studies < site.policy.min_studies:
        raise DataError(
            f"site {site.name} has {data.studies} usable studies for {line}, its policy asks for "
            f"{site.policy.min_studies}{left_out}"
        )
    every = data.studies + data.unusable
    if every and data.unusable / every > site.policy.max_unusable:
        raise DataError(
            f"{data.unusable} of {every} studies of site {site.name} are unusable for {line}, its "
            f"policy allows {site.policy.max_unusable:.1%} (max_unusable){left_out}"
        )
    if not data.train:
        raise DataError(
            f"site {site.name} has no example to train on for {line}: {len(data.validation)} "
            f"validate and {len(data.test)} test{left_out}"
        )
