"""Whether what a census found is enough, and suits the network."""

from collections.abc import Iterator
from dataclasses import dataclass

from clients.census.overview import Overview
from clients.data.split import Part
from federation.config import PolicyTable

_NOTICEABLE = 0.001  # of the labelled voxels


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One condition of a training: what is asked for, what is there, and what to do."""

    what: str
    asked: str
    seen: str
    is_met: bool
    advice: str = ""


def judge(
    overview: Overview, policy: PolicyTable, *, has_network: bool = True
) -> Iterator[Verdict]:
    """What training will ask for, as far as a census can tell; of a network's input, where there
    is one."""
    usable = overview.usable_studies
    yield Verdict(
        what="usable studies",
        asked=f"at least {policy.min_studies} (min_studies)",
        seen=str(usable),
        is_met=usable >= policy.min_studies,
        advice=(
            "label more, widen the query, or lower min_studies"
            if overview.studies
            else "no study answers the query: leave keys out of it, one after another"
        ),
    )
    unusable = len({entry.study for entry in overview.left_out})
    share = unusable / overview.studies if overview.studies else 0.0
    yield Verdict(
        what="unusable studies",
        asked=f"at most {policy.max_unusable:.1%} (max_unusable)",
        seen=f"{unusable}, {share:.1%}",
        is_met=share <= policy.max_unusable,
        advice="look at the reasons, or narrow the query to studies that have labels",
    )
    if overview.parts is not None:
        yield Verdict(
            what="patients to train on",
            asked="at least 1",
            seen=str(overview.parts[Part.TRAIN]),
            is_met=overview.parts[Part.TRAIN] > 0,
            advice="add patients, or lower the fractions held out",
        )
    cut = [one for one in overview.sample if one.cut_off > _NOTICEABLE]
    if has_network and overview.sample and not overview.classes:
        worst = max(one.cut_off for one in overview.sample)
        yield Verdict(
            what="labels within the network's input",
            asked="all of them",
            seen=f"cut off in {len(cut)} of {len(overview.sample)} sampled, at most {worst:.1%}",
            is_met=not cut,
            advice="these voxels are not trained on: choose a network with a larger input",
        )
