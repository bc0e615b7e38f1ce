"""What a site lets the aggregator ask for: ``[[policy.trust]]``, ``[policy.rounds]``; how often.

Each check raises :class:`~federation.errors.PolicyError` with the code of its rule.
"""

import time
from collections.abc import Callable
from datetime import datetime

from clients.audit import CENSUS, EVALUATION
from federation.config import PolicyTable, RoundsTable, TrainingTable
from federation.errors import PolicyError
from federation.iodeep.labels import Line
from federation.messages import Code
from federation.trust import Rule


def check_line(policy: PolicyTable, line: Line) -> None:
    """Whether somebody's records of a line would be believed here."""
    if not any(Rule(lines=table.lines).covers(line) for table in policy.trust):
        raise PolicyError(
            f"no [[policy.trust]] covers line {line}; name it there to take part", Code.LINE
        )


def check_strategy(allowed: RoundsTable, strategy: str) -> None:
    if allowed.strategies and strategy not in allowed.strategies:
        raise PolicyError(
            f"strategy {strategy!r:.80} is asked for; policy.rounds.strategies allows "
            f"{', '.join(allowed.strategies)}",
            Code.STRATEGY,
        )


def check_threads(allowed: RoundsTable, settings: TrainingTable) -> None:
    if allowed.threads is not None and settings.threads > allowed.threads:
        raise PolicyError(
            f"{settings.threads} threads are asked for; policy.rounds.threads allows "
            f"{allowed.threads}",
            Code.SETTINGS,
        )


def check_epochs(allowed: RoundsTable, epochs: float) -> None:
    """``epochs``: passes over the site's training cases, however the settings give them."""
    if allowed.epochs is not None and epochs > allowed.epochs:
        raise PolicyError(
            f"{epochs:.4g} epochs are asked for; policy.rounds.epochs allows {allowed.epochs:g}",
            Code.SETTINGS,
        )


def check_hours(allowed: RoundsTable, now: datetime) -> None:
    """Whether work on the training cases may begin; a window's beginning belongs to it, and its
    end does not.

    A window whose end is not after its beginning goes over midnight; one of a whole day begins
    and ends at the same time.
    """
    clock = f"{now:%H:%M}"
    if allowed.hours and not any(_is_in(window, clock) for window in allowed.hours):
        raise PolicyError(
            f"it is {clock} here; policy.rounds.hours allows it to begin in "
            f"{', '.join(allowed.hours)}",
            Code.HOURS,
        )


def _is_in(window: str, clock: str) -> bool:
    """Times of day as HH:MM, which are in order as texts."""
    begin, end = window.split("-")
    if begin < end:
        return begin <= clock < end
    return clock >= begin or clock < end


def check_rate(policy: PolicyTable, work: str, begun: Callable[[str], int]) -> None:
    """``begun`` counts what has begun today of a kind of work, where there is a limit to it."""
    key, most = _most_of(policy, work)
    if most is not None and (count := begun(work)) >= most:
        raise PolicyError(
            f"of {work}, {count} have begun here today; {key} allows {most}", Code.RATE
        )


def _most_of(policy: PolicyTable, work: str) -> tuple[str, int | None]:
    """How much of a kind of work a day has, and which key says so."""
    if work == CENSUS:
        return "policy.census.per_day", policy.census.per_day
    most = policy.rounds.per_day
    if work == EVALUATION and most is not None:
        most *= 2  # a run evaluates what it begins with, too
    return "policy.rounds.per_day", most


class Deadline:
    """The end of the time for work of a kind: called after each step of it (of the optimiser; or a
    batch, or a case), it stops what is over it."""

    def __init__(
        self, allowed: RoundsTable, work: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._minutes = allowed.minutes
        self._work = work
        self._clock = clock
        self._begin = clock()

    def __call__(self, step: int, _: float = 0.0) -> None:
        if self._minutes is not None and self._clock() - self._begin > 60 * self._minutes:
            raise PolicyError(
                f"{self._work} had not ended after step {step}; policy.rounds.minutes allows "
                f"{self._minutes:g} minutes. Nothing of it was sent",
                Code.TIME,
            )
