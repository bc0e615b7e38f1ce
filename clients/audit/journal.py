"""Messages in a site's audit log: what was asked, what was decided, what left.

Counts, digests and codes. Never anything of a patient, nor a UID of a study.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from federation.audit import AuditLog, Head
from federation.config import Site
from federation.errors import PolicyError
from federation.iodeep.signature import SigningKey
from federation.iodeep.weights import Tensor
from federation.messages import Code, Outline, Refusal
from federation.values import Value

IN, OUT = "in", "out"
TRAINING, STATISTICS, EVALUATION, CENSUS = "training", "statistics", "evaluation", "census"
"""Work of which there is so much a day: the event says that some begins."""

LOOK_BACK_BYTES = 8 * 2**20
"""How far back a message is looked for that was answered before: some ten thousand messages."""

_MAX_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a site would answer.

    facts: what the audit log says of it besides, such as ``examples`` and ``norm``
    """

    value: Value
    tensors: Mapping[str, Tensor] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Incoming:
    """A message as Flower names it, and what it is about.

    subject: its line, branch, round and version, where they can be read
    """

    message: str
    run: int
    group: str
    type: str
    outline: Outline
    subject: Mapping[str, Any]


class Journal:
    """The entries of one site about one message."""

    def __init__(self, site: Site, incoming: Incoming, now: Callable[[], datetime]) -> None:
        """``now`` gives the site's own time, with its zone."""
        key = SigningKey.read(site.key) if site.key else None
        self._log = AuditLog(site.audit, key, now=now)
        self._incoming = incoming
        self._id = _shown(incoming.message)
        self.now = now

    def note_in(self) -> None:
        """The message came. Raises :class:`AuditError` where that cannot be written."""
        incoming, seen = self._incoming, self._incoming.outline
        self._log.append(
            IN,
            message=self._id,
            run=str(incoming.run),  # up to 2⁶⁴, which JSON has not
            group=_shown(incoming.group),
            type=_shown(incoming.type),
            kind=_shown(seen.kind),
            software=_shown(seen.software),
            digest=seen.digest,
            bytes=seen.bytes,
            **incoming.subject,
        )

    def check_new(self) -> None:
        """Whether the message was not answered before. Raises :class:`PolicyError`.

        The last 8 MiB of the log are looked at, some ten thousand messages.
        """
        if self._log.has(OUT, most_bytes=LOOK_BACK_BYTES, message=self._id):
            raise PolicyError("this message was answered before", Code.REPLAYED)

    def note_begin(self, work: str) -> None:
        """Work of a kind begins; it counts for the day, however it ends."""
        self._log.append(work, message=self._id, **self._incoming.subject)

    def begun_today(self, work: str) -> int:
        """How much of a kind of work has begun on this day of the site's own time."""
        now = self.now()
        count = 0
        for entry in self._log.newest():
            day = entry.at.astimezone(now.tzinfo).date()
            if day < now.date():
                break
            count += entry.event == work and day == now.date()
        return count

    def note_out(self, reply: Reply, leaves: Outline, decision: str) -> Head:
        """An answer leaves; the head of the log goes with it.

        leaves:   of the answer before it has the head
        decision: ``allowed``; ``refused``, by the policy; or ``failed``
        """
        value = reply.value
        facts = {
            "message": self._id,
            "decision": decision,
            "kind": leaves.kind,
            "code": str(value.code) if isinstance(value, Refusal) else None,
            "version": self._incoming.subject.get("version"),
            "weights": leaves.weights,
            "digest": leaves.digest,
            "bytes": leaves.bytes,
        }
        return self._log.append(OUT, **{**facts, **reply.facts})


def _shown(text: str) -> str:
    """What a stranger wrote, so that it is short, and of printable ASCII."""
    return ascii(text)[1:-1][:_MAX_CHARACTERS]
