"""The labelled studies that a site's document speaks of."""

import shlex
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from clients.data.census import Census, LabelledSeries, find_labelled_series
from clients.data.labels import SegmentationHeader, read_labels
from clients.data.quarantine import Reason, Unusable, count_reasons
from clients.data.split import Part, part_of, read_split_key
from clients.data.volumes import read_volume
from clients.doctor.finding import Finding, Subject
from federation.config import DataTable, Site, Split
from federation.errors import ConfigError, PacsError
from federation.pacs import Gateway

LOOKED_INTO = 50
"""Studies, or as many as the policy asks for: a minute is not enough for all of an archive."""

_DATA = Subject(about="data")
_NAMES_SHOWN = 8

_ADVICE = {
    Reason.NO_PATIENT_ID: "give these studies a Patient ID: without it they have no part",
    Reason.NO_SEGMENTATION: "store a DICOM SEG that refers to the images, in the same study",
    Reason.SEVERAL_SEGMENTATIONS: "leave one SEG of these segments in each study",
    Reason.IMAGES_ABSENT: "store the images that the SEGs refer to",
    Reason.NOT_RETRIEVED: "have the archive allow C-GET (or WADO-RS) of SEGs to us, or C-MOVE",
    Reason.SEGMENTATION_UNDECODABLE: "store BINARY or LABELMAP SEGs",
    Reason.SEGMENT_MISSING: "name in labels.map what the segments are called there",
}


def examine_data(site: Site, gateway: Gateway) -> Iterator[Finding]:
    """Whether the images' archive has what each data table asks for, and gives it."""
    if not site.data:
        yield _DATA.warned("studies", "no table [data.NAME]", "name what the site can train on")
    for name, table in site.data.items():
        yield from _examine(f"[data.{name}]", table, site.policy.min_studies, gateway)


def _examine(name: str, table: DataTable, least: int, gateway: Gateway) -> Iterator[Finding]:
    headers: dict[str, SegmentationHeader | Unusable] = {}
    most = max(LOOKED_INTO, least)
    try:
        census = find_labelled_series(gateway, table, known=headers, most=most)
    except PacsError as error:
        advice = "have it allow C-FIND, and C-GET of SEGs, to us"
        yield _DATA.failed("studies", f"{name}: {error}", advice)
        return
    except ConfigError as error:
        yield _DATA.failed("studies", f"{name}: {error}", "correct its query")
        return
    yield _studies(name, table, least, most, census, _names(headers), gateway.address)
    if census.labelled:
        yield _example(name, table, census.labelled[0], gateway)


def _studies(
    name: str,
    table: DataTable,
    least: int,
    most: int,
    census: Census,
    names: Sequence[str],
    address: str,
) -> Finding:
    labelled = {series.study for series in census.labelled}
    looked_into = len(labelled | {entry.study for entry in census.quarantined})
    if not looked_into:
        return _DATA.failed(
            "studies",
            f"{name}: no study there has images that answer its query",
            "compare its query with what a study there says: "
            f"iodeep pacs find {shlex.quote(address)} STUDY",
        )
    reasons = count_reasons(census.quarantined)
    left_out = "".join(f", {count} {reason}" for reason, count in reasons.items())
    seen = f"{name}: {len(labelled)} labelled among {looked_into} studies{left_out}"
    if Reason.SEGMENT_MISSING in reasons:
        seen += f"; labels.map names {_listed(table.labels.map)}, SEGs there {_listed(names)}"
    if len(labelled) < least:
        seen += f"; the policy asks for {least}"
        if looked_into >= most:
            return _DATA.warned("studies", seen, f"there may be more: only {most} were looked into")
        advice = "label more, widen its query, or lower min_studies"
        if reasons:
            advice = _ADVICE[max(reasons, key=lambda reason: reasons[reason])]
        return _DATA.failed("studies", seen, advice)
    parts = _parts(census, table.split)
    if parts is not None:
        seen += "; {} patients to train on, {} to validate, {} to test".format(*parts)
        if not parts[0]:
            advice = "add patients, or lower the fractions that are held out: none is left to train"
            return _DATA.failed("studies", seen, advice)
    return _DATA.passed("studies", seen)


def _parts(census: Census, split: Split) -> tuple[int, ...] | None:
    """How many patients train, validate and test; None without the key that decides it."""
    try:
        key = read_split_key(split.key)
    except ConfigError:
        return None
    patients = {series.patient_id for series in census.labelled}
    counts = Counter(part_of(patient, split, key) for patient in patients)
    return tuple(counts[part] for part in (Part.TRAIN, Part.VALIDATION, Part.TEST))


def _example(name: str, table: DataTable, series: LabelledSeries, gateway: Gateway) -> Finding:
    """One of them, fetched and read as for training."""
    with tempfile.TemporaryDirectory(prefix="iodeep-doctor-") as folder:
        images, segs = Path(folder, "images"), Path(folder, "seg")
        images.mkdir()
        segs.mkdir()
        try:
            paths = gateway.fetch(images, study=series.study, series=series.image_series)
            (seg,) = gateway.fetch(
                segs, study=series.study, series=series.seg_series, instance=series.seg_instance
            )
            volume = read_volume(paths)
            read_labels(seg, volume, table.labels.map)
        except (PacsError, ConfigError) as error:
            return _DATA.failed(
                "example",
                f"{name}: what it has does not come: {error}",
                "have the archive allow C-GET (or WADO-RS) of images to us, or C-MOVE",
            )
        except Unusable as problem:
            return _DATA.warned(
                "example",
                f"{name}: the first labelled study cannot be used ({problem.reason}): {problem}",
                "look whether others are like it: such studies are left out",
            )
    size = " x ".join(map(str, volume.voxels.shape))
    return _DATA.passed("example", f"{name}: one fetched and read, {size} voxels")


def _names(headers: Mapping[str, SegmentationHeader | Unusable]) -> list[str]:
    """What segments are called, the most frequent first."""
    read = [header for header in headers.values() if isinstance(header, SegmentationHeader)]
    names = [segment.label or segment.meaning for header in read for segment in header.segments]
    return [name for name, _ in Counter(names).most_common()]


def _listed(names: Iterable[str]) -> str:
    every = [repr(name) for name in names]
    more = [f"{len(every) - _NAMES_SHOWN} more"] if len(every) > _NAMES_SHOWN else []
    return ", ".join(every[:_NAMES_SHOWN] + more) or "none"
