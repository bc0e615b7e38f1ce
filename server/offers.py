"""A release on offer: sites are asked to use what the aggregator's archive says is released."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from flwr.app import MessageType, RecordDict
from flwr.serverapp import Grid
from pydantic import NonNegativeFloat, PositiveInt

from federation.config import Name, TrainingTable
from federation.errors import RegistryError, UpdateError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import Branch, Reference, ReleaseManifest, VersionManifest
from federation.messages import Code, ReleaseAnswer, ReleaseOffer, pack
from federation.registry import Entry, Registry
from federation.releases import read_releases, released
from federation.values import Value
from server.asking import Asking, is_refusal, unpack_answer
from server.delivery import deliver
from server.events import Observer
from server.questions import AnswerFacts, Findings

DEADLINE_S = 600.0


class SiteRelease(Value):
    """What became of the offer at a site.

    accepted:  whether the version is what the site uses from now on, or was already
    delivered: whether the site got the version for it
    software:  as of a census; seconds likewise
    problem:   why it is not accepted
    """

    accepted: bool
    delivered: bool = False
    software: str | None = None
    seconds: NonNegativeFloat | None = None
    problem: str | None = None


class Offer(Findings):
    """A release and what sites did with it, by site in the order in which they were asked."""

    FILE: ClassVar[str] = "offer.json"

    line: str
    number: PositiveInt
    version: Reference
    branch: Branch
    sites: dict[Name, SiteRelease]


def offer_release(
    registry: Registry,
    line: Line,
    grid: Grid,
    sites: Sequence[str] | None = None,
    *,
    deadline_s: float = DEADLINE_S,
    observers: tuple[Observer, ...] = (),
) -> Offer:
    """Offer the released version of a line to ``sites``, or to all that are connected.

    Who answers that it has not got the version is sent it, and asked once more. Raises
    :class:`RegistryError` where nothing is released, or is not whole here.
    """
    version = released(registry, line)
    release, entry = _document(registry, line)
    facts = AnswerFacts()
    asking = Asking(
        grid, deadline_s=deadline_s, observers=(facts, *observers), waiting=registry.release
    )
    asked = list(asking.connected if sites is None else sites)
    problems, lacking = _ask(asking, entry, version, asked, facts)
    delivered: set[str] = set()
    if lacking:
        with registry.pull(version) as record:
            _, undelivered = deliver(asking, record, lacking, version.round, TrainingTable())
        # Who stored the version and could not evaluate it has it all the same.
        again, still = _ask(asking, entry, version, lacking, facts)
        delivered = set(lacking) - set(still)
        why = {site: undelivered[site] for site in still if site in undelivered}
        problems = {site: said for site, said in problems.items() if site not in lacking}
        problems |= again | why
    return Offer(
        line=str(line),
        number=release.number,
        version=version.reference,
        branch=version.branch,
        sites={
            site: SiteRelease(
                accepted=site not in problems,
                delivered=site in delivered,
                software=facts.software.get(site),
                seconds=facts.seconds.get(site),
                problem=problems.get(site),
            )
            for site in asked
        },
    )


def _ask(
    asking: Asking, entry: Entry, version: VersionManifest, sites: Sequence[str], facts: AnswerFacts
) -> tuple[dict[str, str], list[str]]:
    """Offer a release document; why it is not accepted, and who says that the version is absent."""
    offer = ReleaseOffer(
        manifest=entry.manifest.canonical.decode(),
        signature=entry.signature.encode().hex() if entry.signature else None,
        study_date=entry.stamp.study_date,
        study_time=entry.stamp.study_time,
        content_date=entry.stamp.content_date,
        content_time=entry.stamp.content_time,
    )
    lacking: list[str] = []

    def accept(site: str, content: RecordDict) -> Mapping[str, float]:
        facts.see(site, content)
        if is_refusal(content, Code.VERSION_ABSENT):
            lacking.append(site)
        answer = unpack_answer(content, site, ReleaseAnswer)
        if answer.released != version.reference:
            raise UpdateError("it answers for another version than was offered")
        return answer.seconds

    return asking.ask(MessageType.QUERY, pack(offer), sites, version.round, accept), lacking


def _document(registry: Registry, line: Line) -> tuple[ReleaseManifest, Entry]:
    """The newest release document that counts, with its signature and times."""
    current = read_releases(registry, line).current
    for entry in registry.entries(line, current.branch):
        if entry.manifest == current:
            return current, entry
    raise RegistryError(f"release {current.number} of line {line} is gone from the archive")
