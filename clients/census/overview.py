"""Counts of what a data table finds, and what a sample of it holds. All of it stays at the site."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from clients.data.cache import ExampleCache, OutByObjects
from clients.data.census import LabelledSeries
from clients.data.dataset import SeriesRead, read_series, take_census, undecodable
from clients.data.labels import wanted_by
from clients.data.opt_outs import opted_out
from clients.data.preprocessing import check_whole, part_cut_off
from clients.data.quarantine import Quarantined, Reason, Unusable
from clients.data.split import Part, count_parts
from clients.data.volumes import Volume
from federation.config import DataTable, PolicyTable
from federation.iodeep.architecture import Preprocessing
from federation.iodeep.manifest import OutputLabel
from federation.pacs import Gateway

Progress = Callable[[int, int], None]

_PERCENTILES = (1, 50, 99)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sampled:
    """One labelled series, fetched and read.

    axes:       where the volume's axes (slices, rows, columns) run to, as "SPR"
    values:     the 1st, 50th and 99th percentile
    volumes_mm3: of each output label
    cut_off:    which part of the labelled voxels the network's input leaves out, 0 without such
    image, labels: the slice with most labelled voxels, (rows, columns); the middle one where there
                are none, as of a series with a class
    """

    study: str
    series: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axes: str
    values: tuple[float, float, float]
    volumes_mm3: Mapping[int, float]
    cut_off: float
    image: NDArray[np.float32]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """What a table finds.

    studies:  that answer the query, opted out ones not among them
    labelled: series with labels, as far as these say
    parts:    patients to train on, validate and test; None without the split's key
    left_out: what cannot be used, those that the sample found among them
    opted_out: studies of patients who do not take part
    """

    studies: int
    patients: int
    labelled: Sequence[LabelledSeries]
    parts: Mapping[Part, int] | None
    left_out: Sequence[Quarantined]
    opted_out: int
    sample: Sequence[Sampled]

    @property
    def reasons(self) -> Mapping[Reason, Sequence[Quarantined]]:
        """What is left out, the most frequent reason first."""
        grouped: defaultdict[Reason, list[Quarantined]] = defaultdict(list)
        for entry in self.left_out:
            grouped[entry.reason].append(entry)
        return dict(sorted(grouped.items(), key=lambda item: (-len(item[1]), item[0])))

    @property
    def classes(self) -> Mapping[int, int]:
        """How many series have each class; of none where labels are drawn."""
        found = (one.image_class for one in self.labelled)
        return dict(sorted(Counter(one for one in found if one is not None).items()))

    @property
    def usable_studies(self) -> int:
        """Labelled ones, without those of the sample that cannot be read."""
        unusable = {entry.series for entry in self.left_out}
        return len({one.study for one in self.labelled if one.image_series not in unusable})


def take_overview(
    gateway: Gateway,
    table: DataTable,
    policy: PolicyTable,
    cache: ExampleCache,
    outputs: Sequence[OutputLabel] = (),
    preprocessing: Preprocessing | None = None,
    *,
    sample: int,
    progress: Progress | None = None,
    sampling: Progress | None = None,
    scratch: Path | None = None,
) -> Overview:
    """Count what a site's table finds, and read ``sample`` of its series.

    outputs, preprocessing: of the network that they shall suit; without, what the table names
    scratch: a folder for what is fetched, meanwhile; the system's own unless given

    Label objects are fetched, but those that ``cache`` remembers; images only of the sample.
    Raises :class:`ConfigError` for a list of opt-outs or of classes that cannot be read, and
    :class:`PacsError` where the archive refuses a query.
    """
    wanted = wanted_by(table.labels, outputs)
    census = take_census(gateway, policy, table, wanted, cache, progress=progress, scratch=scratch)
    is_out = opted_out(policy.opt_out)
    labelled = list(census.labelled)
    opted = sum(one.reason is Reason.OPTED_OUT for one in census.quarantined)
    sampled: list[Sampled] = []
    left_out = [one for one in census.quarantined if one.reason is not Reason.OPTED_OUT]
    chosen = _spread(census.labelled, sample)
    for done, series in enumerate(chosen, start=1):
        try:
            with undecodable():
                read = read_series(gateway, series, wanted, opted_out=is_out, scratch=scratch)
                sampled.append(_looked_at(series, read, preprocessing))
        except OutByObjects:
            labelled.remove(series)
            opted += 1
        except Unusable as problem:
            left_out.append(
                Quarantined.because_of(problem, study=series.study, series=series.image_series)
            )
        if sampling is not None:
            sampling(done, len(chosen))
    studies = {one.study for one in labelled} | {one.study for one in left_out}
    return Overview(
        studies=len(studies),
        patients=len({one.patient_ids for one in labelled}),
        labelled=labelled,
        parts=count_parts((one.patient_ids for one in labelled), table.split),
        left_out=left_out,
        opted_out=opted,
        sample=sampled,
    )


def _spread(labelled: Sequence[LabelledSeries], count: int) -> list[LabelledSeries]:
    """So many of them, evenly out of all."""
    count = min(count, len(labelled))
    return [labelled[index * len(labelled) // count] for index in range(count)]


def _looked_at(
    series: LabelledSeries, read: SeriesRead, preprocessing: Preprocessing | None
) -> Sampled:
    volume, labels = read.volume, read.labels
    if series.image_class is not None and preprocessing is not None:
        check_whole(volume, preprocessing)
    cut_off = 0.0 if preprocessing is None else part_cut_off(labels, volume, preprocessing)
    return _sampled(series, volume, labels, cut_off)


def _sampled(
    series: LabelledSeries, volume: Volume, labels: NDArray[np.uint8], cut_off: float
) -> Sampled:
    numbers, counts = np.unique(labels, return_counts=True)
    voxel_mm3 = float(np.prod(volume.spacing_mm))
    depth, height, width = volume.voxels.shape
    drawn = (labels != 0).sum(axis=(1, 2))
    level = int(drawn.argmax()) if drawn.any() else depth // 2
    low, middle, high = (float(value) for value in np.percentile(volume.voxels, _PERCENTILES))
    return Sampled(
        study=series.study,
        series=series.image_series,
        shape=(depth, height, width),
        spacing_mm=volume.spacing_mm,
        axes="".join(nibabel.aff2axcodes(volume.affine)),  # type: ignore[no-untyped-call]
        values=(low, middle, high),
        volumes_mm3={
            int(number): int(count) * voxel_mm3
            for number, count in zip(numbers, counts, strict=True)
            if number
        },
        cut_off=cut_off,
        image=volume.voxels[level].copy(),
        labels=labels[level].copy(),
    )
