"""A census: how many labelled studies the sites of an experiment have, before anything starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from flwr.app import MessageType, RecordDict
from flwr.serverapp import Grid
from pydantic import NonNegativeFloat, NonNegativeInt

from federation.config import Experiment, Name
from federation.fresh import outputs_of
from federation.messages import CensusAnswer, CensusRequest, Code, pack, software_of
from federation.values import Value
from server.asking import Asking, unpack_answer
from server.events import Answered, Event, Observer
from server.report.folder import write_whole


class SiteCount(Value):
    """What a site answered, or that it did not.

    studies:   labelled ones; None where it does not tell
    problem:   why a training could not begin there, as far as it tells
    software:  the release that wrote the answer, whatever else is wrong with that
    seconds:   from asking to the answer
    no_answer: why there is none that counts
    """

    studies: NonNegativeInt | None = None
    problem: Code | None = None
    software: str | None = None
    seconds: NonNegativeFloat | None = None
    no_answer: str | None = None


class Findings(Value):
    """What came of a question to sites, in a file of the run's folder."""

    FILE: ClassVar[str]

    def write(self, folder: Path) -> None:
        """Into ``FILE`` of a run's folder, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / self.FILE, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What :meth:`write` wrote."""
        return cls.model_validate_json((folder / cls.FILE).read_bytes())


class Census(Findings):
    """What the roster of an experiment has for its line, by site in roster order."""

    FILE: ClassVar[str] = "census.json"

    line: str
    sites: dict[Name, SiteCount]


def take_census(experiment: Experiment, grid: Grid, observers: tuple[Observer, ...] = ()) -> Census:
    """Ask the roster, each until the experiment's deadline."""
    request = CensusRequest(
        line=experiment.line,
        task=experiment.model.task,
        outputs=outputs_of(experiment.model.labels),
    )
    facts = AnswerFacts()
    answers: dict[str, CensusAnswer] = {}

    def accept(site: str, content: RecordDict) -> Mapping[str, float]:
        facts.see(site, content)
        answers[site] = unpack_answer(content, site, CensusAnswer)
        return {}

    asking = Asking(
        grid,
        deadline_s=experiment.federation.deadline_s,
        observers=(facts, *observers),
    )
    problems = asking.ask(MessageType.QUERY, pack(request), experiment.roster, 0, accept)
    return Census(
        line=str(experiment.line),
        sites={
            site: SiteCount(
                studies=answers[site].studies if site in answers else None,
                problem=answers[site].problem if site in answers else None,
                software=facts.software.get(site),
                seconds=facts.seconds.get(site),
                no_answer=problems.get(site),
            )
            for site in experiment.roster
        },
    )


class AnswerFacts:
    """Of each site's last answer: which release of the software wrote it, and when it came."""

    def __init__(self) -> None:
        self.software: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def see(self, site: str, content: RecordDict) -> None:
        """Note the release that an answer names; it may be any text."""
        self.software[site] = ascii(software_of(content))[1:-1][:32]

    def __call__(self, event: Event) -> None:
        """As an observer: note how long an answer took, where it counts."""
        if isinstance(event, Answered) and "transfer" in event.seconds:
            waited = (s for what, s in event.seconds.items() if what != "aggregation")
            self.seconds[event.site] = round(sum(waited), 3)
