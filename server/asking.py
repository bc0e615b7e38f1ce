"""Sites asked over Flower's Grid: messages out, answers back, in roster order until a deadline."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from httpx import HTTPError

from federation.errors import IODeepError, UpdateError
from federation.flower.waiting import waiting_until
from federation.messages import (
    CensusAnswer,
    Code,
    EvaluateAnswer,
    Refusal,
    ReleaseAnswer,
    StatisticsAnswer,
    TrainAnswer,
    head_of,
    kind_of,
    unpack,
)
from federation.timing import Stopwatch
from server.events import Answered, Asked, Event, Observer

_POLL_S = 0.5

_log = logging.getLogger(__name__)

Answer = TypeVar(
    "Answer", TrainAnswer, StatisticsAnswer, EvaluateAnswer, CensusAnswer, ReleaseAnswer
)
Accept = Callable[[str, RecordDict], Mapping[str, float]]
"""Takes a site's answer, and returns the seconds that the site says it spent on it."""


class Asking:
    """Asks sites of a grid, one question at a time."""

    def __init__(
        self,
        grid: Grid,
        *,
        deadline_s: float,
        roster: Sequence[str] = (),
        quorum: int = 0,
        observers: Sequence[Observer] = (),
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """How sites are asked.

        quorum:  before asking it waits, until the deadline, for so many of the roster to be
                 connected: who has lost the connection is back after a minute or two
        waiting: is called when all messages are out, before it waits for answers
        """
        self._grid = grid
        self._deadline_s = deadline_s
        self._roster = roster
        self._quorum = quorum
        self._observers = observers
        self._waiting = waiting

    @property
    def connected(self) -> tuple[str, ...]:
        """The names of the sites that are there to be asked, sorted."""
        return tuple(sorted(node.name for node in self._grid.get_nodes()))

    def ask(
        self, work: str, content: RecordDict, sites: Sequence[str], round: int, accept: Accept
    ) -> dict[str, str]:
        """Ask sites, and give their answers to ``accept`` in roster order, one at a time.

        Returns why the others' do not count: not connected, not in time, refused by the site,
        or refused by ``accept`` with an :class:`UpdateError`. An answer that cannot be read,
        whatever is wrong with it, is one site's failure and not the others'.
        """
        self._tell(Asked(round=round, work=work, sites=tuple(sites)))
        nodes = self._nodes_of(sites)
        messages = {
            site: Message(content, nodes[site], work, ttl=self._deadline_s, group_id=str(round))
            for site in sites
            if site in nodes
        }
        deadline = time.monotonic() + self._deadline_s
        pushed = dict(zip(messages, self._grid.push_messages(messages.values()), strict=True))
        self._waiting()
        problems: dict[str, str] = {}
        for site in sites:
            stopwatch = Stopwatch()
            audit = None
            try:
                if site not in pushed:
                    raise UpdateError("it is not connected")
                reply = self._await(pushed[site], deadline)
                audit = head_of(reply.content)
                with stopwatch.on("aggregation"):
                    spent = accept(site, reply.content)
                elapsed = reply.metadata.created_at - messages[site].metadata.created_at
                stopwatch.seconds |= spent
                stopwatch.seconds["transfer"] = max(0.0, elapsed - sum(spent.values()))
            except UpdateError as error:
                problems[site] = ascii(str(error))[1:-1][:256]  # it goes into a manifest
            except (IODeepError, OSError, HTTPError):
                raise  # not the site's doing
            except Exception as error:
                _log.warning("the answer of %s", site, exc_info=error)
                problems[site] = f"its answer cannot be read ({type(error).__name__})"
            self._tell(
                Answered(
                    round=round,
                    work=work,
                    site=site,
                    problem=problems.get(site),
                    seconds=stopwatch.seconds,
                    audit=audit,
                )
            )
        return problems

    def _nodes_of(self, sites: Sequence[str]) -> dict[str, int]:
        """The nodes of those sites that are connected."""
        deadline = time.monotonic() + self._deadline_s
        while True:
            nodes = {node.name: node.node_id for node in self._grid.get_nodes()}
            there = sum(name in nodes for name in self._roster)
            if there >= self._quorum or time.monotonic() > deadline:
                return {name: node for name, node in nodes.items() if name in sites}
            time.sleep(_POLL_S)

    def _await(self, identifier: str, deadline: float) -> Message:
        """A reply with content. Raises :class:`UpdateError` where none comes in time."""
        while True:
            with waiting_until(deadline):
                replies = [*self._grid.pull_messages([identifier])]
            for reply in replies:
                if reply.has_error():
                    raise UpdateError(_reason(reply.error))
                return reply
            if time.monotonic() > deadline:
                raise UpdateError("no answer came before the deadline")
            time.sleep(_POLL_S)

    def _tell(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)


def _reason(error: Error) -> str:
    """Why Flower has an error in the place of an answer."""
    match error.code:
        case ErrorCode.MESSAGE_UNAVAILABLE | ErrorCode.REPLY_MESSAGE_UNAVAILABLE:
            return "no whole answer came before the deadline"
        case ErrorCode.NODE_UNAVAILABLE:
            return "its connection was lost"
        case _:
            return f"its client failed ({error.reason:.80})"


def unpack_answer(content: RecordDict, site: str, kind: type[Answer]) -> Answer:
    """A site's answer. Raises :class:`UpdateError` for a refusal or anything unexpected."""
    if kind_of(content) == Refusal.__name__:
        refusal = unpack(content, Refusal)
        raise UpdateError(f"{refusal.reason} ({refusal.code})")
    answer = unpack(content, kind)
    if answer.site != site:
        raise UpdateError("it answers in another site's name")
    return answer


def is_refusal(content: RecordDict, code: Code) -> bool:
    """Whether a site answers with this very no."""
    return kind_of(content) == Refusal.__name__ and unpack(content, Refusal).code is code
