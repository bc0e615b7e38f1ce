"""How many labelled studies a site has for a line, as far as its policy lets the aggregator know.

A count tells of persons once it is small, and what is left out tells it too: below the policy's
least number there is the same answer for none as for almost enough.
"""

from clients.data.cache import ExampleCache, make_scratch
from clients.data.dataset import table_for, take_census
from clients.data.labels import wanted_by
from clients.data.quarantine import Reason
from clients.data.split import read_split_key
from clients.hospital import Hospital
from clients.log import write_log
from clients.policy import check_line
from federation.config import PolicyTable, Site
from federation.errors import IODeepError
from federation.messages import CensusAnswer, CensusRequest, Code, code_of


def count_studies(site: Site, request: CensusRequest) -> CensusAnswer:
    """What the site tells of its data, out of queries and label objects.

    No image is fetched, but one of a series of which the archive does not answer the query.

    How long that took is not told: it grows with what there is.
    """
    try:
        labelled, unusable = _count(site, request)
    except IODeepError as error:
        code = code_of(error)
        write_log(site, "census", code, error)
        return CensusAnswer(site=site.name, studies=None, problem=code)
    return told(site.name, site.policy, labelled, unusable)


def told(name: str, policy: PolicyTable, labelled: int, unusable: int) -> CensusAnswer:
    """What may leave of so many labelled studies, and so many that cannot be used.

    That there are too few for a training is said where the number is; or where the policy alone
    says it, as it asks for more than what it would tell of.
    """
    least = policy.census.least
    if labelled < least:
        problem = Code.DATA if policy.min_studies >= least else None
        return CensusAnswer(site=name, studies=None, problem=problem)
    is_enough = labelled >= policy.min_studies
    is_clean = unusable <= policy.max_unusable * (labelled + unusable)
    problem = None if is_enough and is_clean else Code.DATA
    return CensusAnswer(site=name, studies=labelled, problem=problem)


def _count(site: Site, request: CensusRequest) -> tuple[int, int]:
    """Labelled studies and unusable ones, without those of patients who opted out."""
    check_line(site.policy, request.line)
    table = table_for(site, request.line, request.task)
    read_split_key(table.split.key)
    with Hospital(site) as hospital:
        hospital.registry.branches(request.line)  # a training needs the archive of models, too
        census = take_census(
            hospital.images,
            site.policy,
            table,
            wanted_by(table.labels, request.outputs),
            ExampleCache(site.work / "cache", site.policy.cache),
            scratch=make_scratch(site.work),
        )
    labelled = {series.study for series in census.labelled}
    left_out = {one.study for one in census.quarantined if one.reason is not Reason.OPTED_OUT}
    return len(labelled), len(left_out - labelled)
