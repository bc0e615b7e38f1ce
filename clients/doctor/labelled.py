"""The labelled studies that a site's document speaks of."""

from collections.abc import Iterator

from clients.data.census import find_labelled_series
from clients.data.quarantine import count_reasons
from clients.doctor.finding import Finding, Subject
from federation.config import DataTable, Site
from federation.errors import PacsError
from federation.pacs import Gateway

LOOKED_INTO = 50
"""Studies, or as many as the policy asks for: a minute is not enough for all of an archive."""

_DATA = Subject(about="data")


def examine_data(site: Site, gateway: Gateway) -> Iterator[Finding]:
    """Whether the images' archive has what each data table asks for."""
    if not site.data:
        yield _DATA.warned("studies", "no table [data.NAME]", "name what the site can train on")
    for name, table in site.data.items():
        try:
            yield _studies(f"[data.{name}]", table, site.policy.min_studies, gateway)
        except PacsError as error:
            yield _DATA.failed("studies", f"[data.{name}] {error}", "let it allow C-FIND to us")


def _studies(name: str, table: DataTable, least: int, gateway: Gateway) -> Finding:
    most = max(LOOKED_INTO, least)
    census = find_labelled_series(gateway, table, most=most)
    labelled = len({series.study for series in census.labelled})
    others = {entry.study for entry in census.quarantined}
    looked_into = len({series.study for series in census.labelled} | others)
    seen = f"{name} {labelled} labelled studies among the {looked_into} looked into"
    reasons = count_reasons(census.quarantined)
    if reasons:
        seen += f" ({', '.join(f'{count} {reason}' for reason, count in reasons.items())})"
    if labelled >= least:
        return _DATA.passed("studies", seen)
    if looked_into >= most:
        return _DATA.warned(
            "studies", f"{seen}; the policy asks for {least}", "the others were not looked into"
        )
    return _DATA.failed(
        "studies",
        f"{seen}; the policy asks for {least}",
        "compare query and labels.map with what a study there says: "
        f"iodeep pacs find {gateway.address} STUDY",
    )
