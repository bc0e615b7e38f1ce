"""`iodeep site census`: what a site has to train on, printed and drawn."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.census.overview import Overview, Sampled, take_overview
from clients.census.picture import draw_samples
from clients.census.verdict import Verdict, judge
from clients.data.cache import ExampleCache, make_scratch
from clients.data.dataset import table_for
from clients.data.quarantine import Quarantined
from clients.hospital import Hospital
from federation.commands.output import print_json, print_table, short
from federation.commands.progress import steps_done
from federation.config import DataTable, Site
from federation.errors import ConfigError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import VersionManifest

_UIDS_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Census:
    """Of one table: what was asked, what was found, and whether that is enough."""

    name: str
    version: VersionManifest | None
    overview: Overview
    verdicts: list[Verdict]
    picture: Path | None

    @property
    def is_enough(self) -> bool:
        return all(verdict.is_met for verdict in self.verdicts)


def run_census(
    site: Site, model: str | None, sample: int, picture: Path | None, *, as_json: bool
) -> bool:
    """Print what each table finds, or that of a line; whether it is enough for a training."""
    with Hospital(site) as hospital:
        found = [
            _take(hospital, name, table, version, sample, picture)
            for name, table, version in _tables(hospital, model)
        ]
    if as_json:
        print_json([_as_json(census) for census in found])
    else:
        for census in found:
            _print(census)
    return all(census.is_enough for census in found)


def _tables(
    hospital: Hospital, model: str | None
) -> Iterator[tuple[str, DataTable, VersionManifest | None]]:
    site = hospital.site
    if model is not None:
        line = Line.parse(model)
        version = hospital.newest(line)
        yield line.region.slug, table_for(site, line, version.task), version
        return
    if not site.data:
        raise ConfigError(f"site {site.name} has no table [data.NAME]; name what it can train on")
    for name, table in site.data.items():
        yield name, table, None


def _take(
    hospital: Hospital,
    name: str,
    table: DataTable,
    version: VersionManifest | None,
    sample: int,
    picture: Path | None,
) -> _Census:
    site = hospital.site
    with steps_done(f"{name}: studies") as studies, steps_done(f"{name}: sample") as sampled:
        overview = take_overview(
            hospital.images,
            table,
            site.policy,
            ExampleCache(site.work / "cache", site.policy.cache),
            version.outputs if version else (),
            version.preprocessing if version else None,
            sample=sample,
            progress=studies,
            sampling=sampled,
            scratch=make_scratch(site.work),
        )
    drawn = picture or site.work / f"census-{name}.png"
    if overview.sample:
        names = _names(table, version) if table.labels.task == "segmentation" else {}
        draw_samples(overview.sample, names, drawn)
    return _Census(
        name=name,
        version=version,
        overview=overview,
        verdicts=list(judge(overview, site.policy, has_network=version is not None)),
        picture=drawn if overview.sample else None,
    )


def _names(table: DataTable, version: VersionManifest | None) -> Mapping[int, str]:
    own = {number: name for name, number in table.labels.map.items()}
    return own | {one.number: one.name for one in (version.outputs if version else ())}


# --- printing -----------------------------------------------------------------------------


def _print(census: _Census) -> None:
    overview = census.overview
    print_table(f"[data.{census.name}]", [_counts(overview)])
    if overview.left_out:
        rows = [
            {
                "left out": reason,
                "series": len(entries),
                "for example": entries[0].detail,
                "in studies": " ".join(_some_studies(entries)),
            }
            for reason, entries in overview.reasons.items()
        ]
        print_table("", rows)
    if overview.sample:
        numbers = sorted({number for one in overview.sample for number in one.volumes_mm3})
        print_table("", [_shown(one, numbers) for one in overview.sample])
    rows = [
        {
            "": "ok" if verdict.is_met else "not ok",
            "what": verdict.what,
            "asked": verdict.asked,
            "seen": verdict.seen,
            "what to do": "" if verdict.is_met else verdict.advice,
        }
        for verdict in census.verdicts
    ]
    print_table("", rows)
    if census.picture is not None:
        print_table("", [{"picture": census.picture}])


def _counts(overview: Overview) -> dict[str, Any]:
    parts = overview.parts or {}
    return {
        "studies": overview.studies,
        "opted out": overview.opted_out,
        "labelled series": len(overview.labelled),
        "patients": overview.patients,
        **{f"class {number}": count for number, count in overview.classes.items()},
        **{str(part): count for part, count in parts.items()},
    }


def _shown(one: Sampled, numbers: Sequence[int]) -> dict[str, Any]:
    return {
        "study": short(one.study),
        "voxels": " x ".join(map(str, one.shape)),
        "mm": " x ".join(f"{value:.3g}" for value in one.spacing_mm),
        "axes": one.axes,
        "values (1, 50, 99 %)": "  ".join(f"{value:.4g}" for value in one.values),
        **{f"label {n}, ml": one.volumes_mm3.get(n, 0.0) / 1000 for n in numbers},
    }


def _some_studies(entries: Sequence[Quarantined]) -> list[str]:
    studies = sorted({entry.study for entry in entries})
    more = [f"and {len(studies) - _UIDS_SHOWN} more"] if len(studies) > _UIDS_SHOWN else []
    return studies[:_UIDS_SHOWN] + more


def _as_json(census: _Census) -> dict[str, Any]:
    overview = census.overview
    return {
        "table": census.name,
        "version": census.version.uid if census.version else None,
        "is_enough": census.is_enough,
        **{key.replace(" ", "_"): value for key, value in _counts(overview).items()},
        "left_out": [
            {
                "reason": str(reason),
                "series": len(entries),
                "entries": [
                    {"study": one.study, "series": one.series, "detail": one.detail}
                    for one in entries
                ],
            }
            for reason, entries in overview.reasons.items()
        ],
        "sample": [
            {
                "study": one.study,
                "series": one.series,
                "shape": one.shape,
                "spacing_mm": one.spacing_mm,
                "axes": one.axes,
                "values": one.values,
                "volumes_mm3": one.volumes_mm3,
                "cut_off": one.cut_off,
            }
            for one in overview.sample
        ],
        "verdicts": [
            {
                "what": verdict.what,
                "asked": verdict.asked,
                "seen": verdict.seen,
                "is_met": verdict.is_met,
                "advice": verdict.advice,
            }
            for verdict in census.verdicts
        ],
        "picture": str(census.picture) if census.picture else None,
    }
