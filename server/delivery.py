"""A version on its way to sites: each stores it, reads it back, and evaluates it."""

from collections.abc import Callable, Mapping, Sequence

from flwr.app import MessageType, RecordDict

from federation.config import TrainingTable
from federation.errors import UpdateError
from federation.iodeep.codec import Record
from federation.iodeep.manifest import Measured
from federation.messages import Code, EvaluateAnswer, EvaluateRequest, pack, pack_parts
from server.asking import Asking, is_refusal, unpack_answer


def deliver(
    asking: Asking,
    record: Record,
    sites: Sequence[str],
    round: int,
    training: TrainingTable,
    *,
    strategy: str | None = None,
    on_stored: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Send a version to sites; what they measured, and why the others' answers do not count.

    Whoever is among the first has given a receipt for this very version.

    strategy:  by name; what is meant to become of their contributions to come
    on_stored: is called with each site that has the version now, also by a dry run, in which
               nothing that was measured leaves
    """
    version = record.version
    request = EvaluateRequest(
        manifest=version.canonical.decode(),
        signature=record.signature.encode().hex() if record.signature else None,
        study_date=record.stamp.study_date,
        study_time=record.stamp.study_time,
        content_date=record.stamp.content_date,
        content_time=record.stamp.content_time,
        strategy=strategy,
        training=training,
    )
    content = pack(request, pack_parts([part.view() for part in record.parts]))
    answers: dict[str, Measured] = {}

    def accept(site: str, content: RecordDict) -> Mapping[str, float]:
        if is_refusal(content, Code.DRY_RUN):
            on_stored(site)
        answer = unpack_answer(content, site, EvaluateAnswer)
        receipt = (answer.stored, answer.weights_digest)
        if receipt != (version.reference, version.weights.digest):
            raise UpdateError("its receipt is for another version than was sent")
        on_stored(site)
        answers[site] = answer.measured
        return answer.seconds

    problems = asking.ask(MessageType.EVALUATE, content, sites, round, accept)
    return answers, problems
