"""What a site lets the aggregator ask for in a round: ``[[policy.trust]]``, ``[policy.rounds]``.

Each check raises :class:`~federation.errors.PolicyError` with the code of its rule.
"""

import time
from collections.abc import Callable
from datetime import datetime

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
    """Whether a training may begin; a window's beginning belongs to it, and its end does not.

    A window whose end is not after its beginning goes over midnight; one of a whole day begins
    and ends at the same time.
    """
    clock = f"{now:%H:%M}"
    if allowed.hours and not any(_is_in(window, clock) for window in allowed.hours):
        raise PolicyError(
            f"it is {clock} here; policy.rounds.hours allows a training to begin in "
            f"{', '.join(allowed.hours)}",
            Code.HOURS,
        )


def _is_in(window: str, clock: str) -> bool:
    """Times of day as HH:MM, which are in order as texts."""
    begin, end = window.split("-")
    if begin < end:
        return begin <= clock < end
    return clock >= begin or clock < end


def check_rate(allowed: RoundsTable, trained: Callable[[], int]) -> None:
    """``trained`` counts the trainings that have begun today, where there is a limit to them."""
    if allowed.per_day is not None and (count := trained()) >= allowed.per_day:
        raise PolicyError(
            f"{count} trainings have begun here today; policy.rounds.per_day allows "
            f"{allowed.per_day}",
            Code.RATE,
        )


class Deadline:
    """The end of a training's time: called after each step, it stops one that is over it."""

    def __init__(self, allowed: RoundsTable, clock: Callable[[], float] = time.monotonic) -> None:
        self._minutes = allowed.minutes
        self._clock = clock
        self._begin = clock()

    def __call__(self, step: int, _: float) -> None:
        if self._minutes is not None and self._clock() - self._begin > 60 * self._minutes:
            raise PolicyError(
                f"training had not ended after step {step}; policy.rounds.minutes allows "
                f"{self._minutes:g} minutes. Nothing of it was sent",
                Code.TIME,
            )
