"""The labelled studies that a site's document speaks of."""

import shlex
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from clients.data.census import Census, Examined, LabelledSeries, find_labelled_series
from clients.data.dataset import fetch_series
from clients.data.labels import LabelHeader, read_labels, wanted_by
from clients.data.opt_outs import opted_out
from clients.data.quarantine import Reason, Unusable, count_reasons
from clients.data.split import Part, count_parts
from clients.data.volumes import read_volume
from clients.doctor.finding import Finding, Subject
from federation.config import DataTable, PolicyTable, Site
from federation.errors import ConfigError, PacsError
from federation.pacs import Gateway

LOOKED_INTO = 50
"""Studies, or as many as the policy asks for: a minute is not enough for all of an archive."""

_DATA = Subject(about="data")
_NAMES_SHOWN = 8

_ADVICE = {
    Reason.NO_PATIENT_ID: "give these studies a Patient ID: without it they have no part",
    Reason.NO_LABELS: "store a SEG or RTSTRUCT (for classes, an SR) that refers to the images, in "
    "the same study; or add rows to the CSV",
    Reason.SEVERAL_LABELS: "leave one SEG of these segments in each study",
    Reason.PREDICTION: "have somebody accept or correct what the network proposed",
    Reason.IMAGES_ABSENT: "store the images that the SEGs refer to",
    Reason.NOT_RETRIEVED: "have the archive allow C-GET (or WADO-RS) of SEGs to us, or C-MOVE",
    Reason.LABELS_UNDECODABLE: "look at one of these SEGs with another program: it may be damaged",
    Reason.SEGMENT_MISSING: "name in labels.map what the segments are called there",
}


def examine_data(site: Site, gateway: Gateway) -> Iterator[Finding]:
    """Whether the images' archive has what each data table asks for, and gives it."""
    if not site.data:
        yield _DATA.warned("studies", "no table [data.NAME]", "name what the site can train on")
    for name, table in site.data.items():
        yield from _Table(name, table, site.policy, gateway).examine()


class _Table:
    """A table ``[data.NAME]`` of a site, and the archive that shall answer it."""

    def __init__(self, name: str, table: DataTable, policy: PolicyTable, gateway: Gateway) -> None:
        self._name = f"[data.{name}]"
        self._table = table
        self._wanted = wanted_by(table.labels)
        self._policy = policy
        self._least = policy.min_studies
        self._gateway = gateway

    def examine(self) -> Iterator[Finding]:
        headers: dict[str, LabelHeader | Unusable] = {}
        studies: dict[str, Examined] = {}
        most = max(LOOKED_INTO, self._least)
        try:
            census = find_labelled_series(
                self._gateway,
                self._table,
                self._wanted,
                known=headers,
                examined=studies,
                opted_out=opted_out(self._policy.opt_out),
                most=most,
            )
        except PacsError as error:
            advice = "have it allow C-FIND, and C-GET of SEGs, to us"
            yield _DATA.failed("studies", f"{self._name}: {error}", advice)
            return
        except ConfigError as error:
            advice = "correct its query, or its list of labels"
            yield _DATA.failed("studies", f"{self._name}: {error}", advice)
            return
        looked_into = studies.keys() | {entry.study for entry in census.quarantined}
        yield self._studies(census, _names(headers), there_may_be_more=len(looked_into) >= most)
        if census.labelled:
            yield self._example(census.labelled[0])

    def _studies(self, census: Census, names: Sequence[str], *, there_may_be_more: bool) -> Finding:
        labelled = {series.study for series in census.labelled}
        matching = labelled | {entry.study for entry in census.quarantined}
        reasons = count_reasons(census.quarantined)
        left_out = "".join(f", {count} {reason}" for reason, count in reasons.items())
        seen = f"{self._name}: {len(labelled)} labelled among {len(matching)} studies{left_out}"
        if Reason.SEGMENT_MISSING in reasons:
            wanted = _listed(self._table.labels.map)
            seen += f"; labels.map names {wanted}, SEGs there {_listed(names)}"
        if not matching:
            seen = f"{self._name}: no images there answer its query"
        if len(labelled) < self._least:
            seen += f"; the policy asks for {self._least} studies"
            if there_may_be_more:
                advice = (
                    "nothing, if there are more than the first ones, which were looked into; or "
                    "narrow its query with keys of studies, as StudyDescription or StudyDate"
                )
                return _DATA.warned("studies", seen, advice)
            return _DATA.failed("studies", seen, self._advice(reasons, any_there=bool(matching)))
        parts = count_parts((one.patient_ids for one in census.labelled), self._table.split)
        if parts is not None:
            seen += (
                f"; {parts[Part.TRAIN]} patients to train on, {parts[Part.VALIDATION]} to "
                f"validate, {parts[Part.TEST]} to test"
            )
            if not parts[Part.TRAIN]:
                advice = "add patients, or lower the fractions held out: none is left to train on"
                return _DATA.failed("studies", seen, advice)
        return _DATA.passed("studies", seen)

    def _advice(self, reasons: Mapping[Reason, int], *, any_there: bool) -> str:
        if not any_there:
            return (
                "compare its query with what a study there says: "
                f"iodeep pacs find {shlex.quote(self._gateway.address)} STUDY"
            )
        common = sorted(reasons, key=lambda reason: -reasons[reason])
        known = [_ADVICE[reason] for reason in common if reason in _ADVICE]
        return known[0] if known else "label more, widen its query, or lower min_studies"

    def _example(self, series: LabelledSeries) -> Finding:
        """One of them, fetched and read as for training."""
        with tempfile.TemporaryDirectory(prefix="iodeep-doctor-") as folder:
            try:
                images, objects = fetch_series(self._gateway, series, Path(folder))
                volume = read_volume(images)
                if series.image_class is None:
                    read_labels(objects, volume, self._wanted)
            except (PacsError, ConfigError) as error:
                return _DATA.failed(
                    "example",
                    f"{self._name}: what it has does not come: {error}",
                    "have the archive allow C-GET (or WADO-RS) of images to us, or C-MOVE",
                )
            except Unusable as problem:
                return _DATA.warned(
                    "example",
                    f"{self._name}: the first labelled study cannot be used ({problem.reason}): "
                    f"{problem}",
                    "look whether others are like it: such studies are left out",
                )
        size = " x ".join(map(str, volume.voxels.shape))
        return _DATA.passed("example", f"{self._name}: one fetched and read, {size} voxels")


def _names(headers: Mapping[str, LabelHeader | Unusable]) -> list[str]:
    """What segments are called, the most frequent first."""
    read = [header for header in headers.values() if isinstance(header, LabelHeader)]
    names = [segment.label or segment.meaning for header in read for segment in header.segments]
    return [name for name, _ in Counter(names).most_common()]


def _listed(names: Iterable[str]) -> str:
    every = [repr(name) for name in names]
    more = [f"{len(every) - _NAMES_SHOWN} more"] if len(every) > _NAMES_SHOWN else []
    return ", ".join(every[:_NAMES_SHOWN] + more) or "none"
