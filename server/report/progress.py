"""A run as it goes, on stderr."""

from collections.abc import Iterable, Mapping, Sized
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from federation.samples.importer import Quarantined, Stored
from federation.task import TASKS
from server.events import Answered, Asked, Evaluated, Event, Published, Started

_DOING = {"train": "training", "evaluate": "evaluating", "query": "measuring"}


def show_import(outcomes: Iterable[Stored | Quarantined], cases: Mapping[str, Sized]) -> None:
    """Go through an import of ``cases`` by site, with a bar and a line for each left out."""
    console = Console(stderr=True)
    with _bar(console) as progress:
        task = progress.add_task("importing", total=sum(len(found) for found in cases.values()))
        for outcome in outcomes:
            progress.update(task, advance=1, description=f"importing into {outcome.case.site}")
            if isinstance(outcome, Quarantined):
                console.print(
                    f"[yellow]{outcome.case.site}: {outcome.case.name} is left out "
                    f"({outcome.problem}): {outcome.detail}[/yellow]",
                    highlight=False,
                    soft_wrap=True,
                )


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class LiveProgress:
    """One bar for the run, a line for each finished round, a warning for each site left out."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = _bar(self._console)
        self._task = self._progress.add_task("starting", total=None)
        self._rounds = 0
        self._sites: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Started(experiment=experiment, version=version, earlier=earlier):
                self._rounds = experiment.rounds
                sites = len(experiment.roster)
                exchanges = 3 if experiment.training.normalisation == "reestimate" else 2
                steps = sites * (1 + exchanges * experiment.rounds)
                done = sites * (1 + exchanges * version.round) if earlier else 0
                self._progress.update(self._task, total=steps, completed=done)
            case Asked(round=round, work=work, sites=sites):
                self._sites = sites
                self._describe(round, work, sites[0] if sites else "")
            case Answered():
                self._answered(event)
            case Published(version=version):
                digest = version.weights.digest[:12]
                self._progress.update(
                    self._task, description=f"round {version.round}: published {digest}"
                )
            case Evaluated():
                line = round_line(event, self._rounds)
                self._console.print(line, highlight=False, soft_wrap=True)

    def _answered(self, event: Answered) -> None:
        self._progress.advance(self._task)
        following = self._sites[self._sites.index(event.site) + 1 :]
        if following:
            self._describe(event.round, event.work, following[0])
        if event.problem:
            self._console.print(
                f"[yellow]round {event.round}: {event.site} does not count "
                f"({event.work}): {event.problem}[/yellow]",
                highlight=False,
                soft_wrap=True,
            )

    def _describe(self, round: int, work: str, site: str) -> None:
        self._progress.update(
            self._task, description=f"round {round}/{self._rounds}: {site} {_DOING[work]}"
        )


def round_line(event: Evaluated, rounds: int) -> str:
    """A round in one line: the task's metric on validation and test, and each site's on test."""
    task = TASKS[event.version.task]
    sites = "  ".join(
        f"{site} {_number(measured.metrics.get(f'test_{task.headline}'))}"
        for site, measured in event.evaluation.sites.items()
    )
    mean = event.evaluation.measured.metrics
    return (
        f"round {event.version.round:>3}/{rounds}  "
        f"validation {task.word} {_number(mean.get(f'validation_{task.headline}'))}  "
        f"test {_number(mean.get(f'test_{task.headline}'))}  ({sites})"
    )


def _number(value: float | None) -> str:
    return "  -  " if value is None else f"{value:.3f}"
