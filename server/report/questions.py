"""A census and an offer as tables, for people."""

from typing import Any

from federation.messages import REASONS, Code
from server.offers import Offer
from server.questions import Census, SiteCount


def census_table(census: Census) -> list[dict[str, Any]]:
    """A row for each site, and one for all: at least so many where somebody does not tell."""
    rows = [
        {
            "site": site,
            "labelled studies": _studies(count),
            "training": _training(count),
            "software": count.software,
            "seconds": count.seconds,
        }
        for site, count in census.sites.items()
    ]
    told = [count.studies for count in census.sites.values() if count.studies is not None]
    least = "" if len(told) == len(census.sites) else "at least "
    ready = sum(count.studies is not None and not count.problem for count in census.sites.values())
    total = {
        "site": "all",
        "labelled studies": f"{least}{sum(told)}",
        "training": f"could begin at {ready} of {len(rows)}, as far as they say",
        "software": None,
        "seconds": None,
    }
    return [*rows, total]


def _studies(count: SiteCount) -> str | None:
    if count.studies is not None:
        return str(count.studies)
    answered_low = count.no_answer is None and count.problem in (None, Code.DATA)
    return "fewer than it tells of" if answered_low else None


def _training(count: SiteCount) -> str:
    if count.no_answer is not None:
        return f"no answer: {count.no_answer}"
    if count.problem is not None:
        return f"could not begin: {REASONS[count.problem]}"
    return "it does not say" if count.studies is None else "could begin"


def offer_table(offer: Offer) -> list[dict[str, Any]]:
    """A row for each site."""
    return [
        {
            "site": site,
            "accepted": answer.accepted,
            "version": "sent for it" if answer.delivered else None,
            "why not": answer.problem,
            "software": answer.software,
            "seconds": answer.seconds,
        }
        for site, answer in offer.sites.items()
    ]
