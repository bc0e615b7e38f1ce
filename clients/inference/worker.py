"""From a study in the archive to a SEG and an SR beside it."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydicom import Dataset

from clients.data import Reason, Unusable
from clients.data.cache import make_scratch
from clients.data.dataset import undecodable
from clients.data.volumes import read_volume
from clients.hospital import Hospital
from clients.inference.predictor import Predictor
from clients.inference.results import Results, write_results
from federation.config import ServiceRule
from federation.errors import IODeepError, PacsError, PacsUnreachable
from federation.iodeep.labels import Line
from federation.iodeep.manifest import VersionManifest
from federation.pacs import Gateway
from federation.pacs.attributes import text_of
from federation.pacs.matching import matches
from federation.selection import (
    ImageSeries,
    Model,
    ReleasedModels,
    Selection,
    select,
    series_in,
)
from federation.whole import append, make_private

LOG = "predictions.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a series, or of a study where it has none to predict on.

    state:      ``stored``; ``there``, where it was before; ``none``, where no network was chosen;
                or ``failed``
    detail:     why it is not stored, or what was noticed
    volumes_ml: of each structure that was found, by its name
    """

    study: str
    series: str = ""
    state: str
    detail: str = ""
    version: str = ""
    seg: str = ""
    sr: str = ""
    volumes_ml: dict[str, float] | None = None
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        return self.state in ("stored", "there")


class Worker:
    """Predicts on one study after another; networks stay ready. Not for several threads."""

    def __init__(
        self,
        hospital: Hospital,
        *,
        forced: VersionManifest | None = None,
        images: Gateway | None = None,
        rules: Sequence[ServiceRule] = (),
    ) -> None:
        """
        forced: the version to use, whatever suits
        images: where they are; in the hospital's own archive unless given
        rules:  which series, and with what; all of them, where there are none
        """
        self._hospital = hospital
        self._forced = forced
        self._images = images or hospital.images
        self._rules = rules
        self._predictors: dict[str, Predictor] = {}

    def predict(self, study: str, *, only: str | None = None) -> Iterator[Outcome]:
        """Every series of a study that a network is chosen for, or ``only`` one of them.

        What is there already is left alone. Each outcome is noted in ``work/predictions.jsonl``.
        Raises :class:`PacsUnreachable`; whatever else goes wrong is an outcome.
        """
        try:
            every = list(series_in(self._images, study))
        except PacsUnreachable:
            raise
        except IODeepError as error:
            yield self._noted(Outcome(study=study, state="failed", detail=str(error)))
            return
        models = ReleasedModels(self._hospital.registry, self._hospital.site.name)
        found = False
        problems = []
        for one in every:
            if only is not None and one.series != only:
                continue
            try:
                version, note = self._choose(one, models)
            except PacsUnreachable:
                raise
            except IODeepError as error:
                version, note = None, str(error)
            if version is None:
                problems.append(f"series {one.number or '-'}: {note}")
                continue
            found = True
            yield self._noted(self._outcome(one, version, note))
        if not found:
            detail = "; ".join(problems) or f"series {only} is not in it"
            yield self._noted(Outcome(study=study, state="none", detail=detail))

    def _choose(
        self, one: ImageSeries, models: ReleasedModels
    ) -> tuple[VersionManifest | None, str]:
        """The version for a series, and what is to be said of the choice."""
        forced = self._forced
        if self._rules:
            rule = next((rule for rule in self._rules if _matches(rule, one.header)), None)
            if rule is None or rule.skip:
                return None, "no rule is for it" if rule is None else "a rule leaves it alone"
            forced = self._hospital.named(Line.parse(rule.line)) if rule.line else None
        if forced is not None:
            return forced, _objection(
                select(one.facts, [forced.line], lambda _: Model(version=forced))
            )
        selection = select(one.facts, models.lines_for(one.facts.modality), models.of)
        chosen = selection.chosen
        return (chosen.version if chosen else None), selection.problem or ""

    def _outcome(self, one: ImageSeries, version: VersionManifest, note: str) -> Outcome:
        began = time.monotonic()
        try:
            state, seg, sr, volumes_ml = self._store(one, version, note)
        except PacsUnreachable:
            raise
        except (Unusable, IODeepError) as error:
            reason = f"{error.reason}: {error}" if isinstance(error, Unusable) else str(error)
            return Outcome(
                study=one.study,
                series=one.series,
                state="failed",
                detail=reason,
                version=version.uid,
                seconds=round(time.monotonic() - began, 3),
            )
        return Outcome(
            study=one.study,
            series=one.series,
            state=state,
            detail=note,
            version=version.uid,
            seg=seg,
            sr=sr,
            volumes_ml=volumes_ml,
            seconds=round(time.monotonic() - began, 3),
        )

    def _store(
        self, one: ImageSeries, version: VersionManifest, note: str
    ) -> tuple[str, str, str, dict[str, float] | None]:
        results = Results.of(version, one.series, one.instances)
        seg, sr = results.uid("seg"), results.uid("sr")
        wanted = {"seg": seg} if one.facts.is_projection else {"seg": seg, "sr": sr}
        missing = [
            uid
            for what, uid in wanted.items()
            if not _is_there(self._hospital.results, one.study, results.uid(f"{what} series"), uid)
        ]
        if not missing:
            return "there", seg, wanted.get("sr", ""), None
        predictor = self._predictor(version)
        scratch = make_scratch(self._hospital.site.work)
        with (
            undecodable(),
            tempfile.TemporaryDirectory(prefix="iodeep-fetch-", dir=scratch) as name,
        ):
            folder = Path(name)
            try:
                paths = self._images.fetch(folder, study=one.study, series=one.series)
            except PacsUnreachable:
                raise
            except (PacsError, ValueError) as error:
                raise Unusable(
                    Reason.NOT_RETRIEVED, "the archive did not give its images"
                ) from error
            volume = read_volume(paths)
            labels = predictor.predict(volume)
            written, volumes_ml = write_results(
                volume, labels, paths, version, results, folder, note=note
            )
            # The SR refers to the SEG, so it comes after it.
            new = [
                path for path, uid in zip(written, wanted.values(), strict=True) if uid in missing
            ]
            for path in new:
                self._hospital.results.store([path])
            self._hospital.results.confirm(new)
        names = {output.number: output.name for output in version.outputs}
        volumes = {names[number]: round(ml, 6) for number, ml in volumes_ml.items()}
        return "stored", seg, wanted.get("sr", ""), volumes

    def _predictor(self, version: VersionManifest) -> Predictor:
        if version.uid not in self._predictors:
            with self._hospital.registry.pull(version) as record:
                self._predictors = {version.uid: Predictor(version, record.tensors())}
        return self._predictors[version.uid]

    def _noted(self, outcome: Outcome) -> Outcome:
        entry = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(outcome)}
        work = self._hospital.site.work
        make_private(work)
        append(work / LOG, f"{json.dumps(entry)}\n".encode())
        return outcome


def _objection(selection: Selection) -> str:
    """What speaks against a network that was named by a person; empty where nothing does."""
    if selection.suited:
        return ""
    reasons = [one.reason for one in selection.unsuited] or [selection.problem or ""]
    return f"forced: {reasons[0]}"


def _matches(rule: ServiceRule, header: Dataset) -> bool:
    """Whether an image has every attribute that a rule names, as it wants it."""
    return all(matches(key, wanted, text_of(header, key)) for key, wanted in rule.match.items())


def _is_there(gateway: Gateway, study: str, series: str, instance: str) -> bool:
    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": instance}
    return bool(gateway.find("IMAGE", keys))
