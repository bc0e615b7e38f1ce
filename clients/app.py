"""The Flower ClientApp: what a hospital does when the aggregator asks.

Every message may be a process of its own: what a site keeps lies in its archive and in its
work folder. Nothing is ever raised into Flower, which would send the error's text to the
aggregator; an answer is a value or a :class:`~federation.messages.Refusal`, and the text
stays in the site's own log.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.audit import (
    CENSUS,
    EVALUATION,
    REQUESTS,
    STATISTICS,
    TRAINING,
    Incoming,
    Journal,
    Reply,
    subject_of,
)
from clients.counting import count_studies
from clients.evaluation import counts_of, measure
from clients.hospital import Hospital
from clients.log import write_log
from clients.offers import accept_release
from clients.own_layers import keep_own, trainer_with_own
from clients.policy import (
    Approvals,
    Deadline,
    Waiting,
    check_epochs,
    check_hours,
    check_line,
    check_rate,
    check_room,
    check_strategy,
    check_threads,
)
from clients.preview import write_preview
from clients.training import Segmenter, seed_for
from federation.config import Site, TrainingTable, read_site
from federation.errors import CodecError, ConfigError, PolicyError, SignatureError, UpdateError
from federation.iodeep.codec import Record
from federation.iodeep.header import Stamp
from federation.iodeep.manifest import VersionManifest, parse_manifest
from federation.iodeep.numbers import norm_of_change
from federation.iodeep.signature import Signature
from federation.iodeep.statistics import is_statistic
from federation.iodeep.weights import join, read_part, weights_digest
from federation.messages import (
    CensusRequest,
    Code,
    EvaluateAnswer,
    EvaluateRequest,
    Refusal,
    ReleaseOffer,
    StatisticsAnswer,
    StatisticsRequest,
    TrainAnswer,
    TrainRequest,
    code_of,
    kind_of,
    outline,
    pack,
    repack,
    unpack,
    unpack_parts,
    unpack_tensors,
)
from federation.networks import tensors_of
from federation.quiet import keep_libraries_quiet
from federation.timing import Stopwatch

_TYPES = ("train", "query", "evaluate")


class SiteApp(ClientApp):
    """Flower's; but a message of a type that has no function here is noted and refused, too."""

    def __call__(self, message: Message, context: Context) -> Message:
        if message.metadata.message_type in _TYPES:
            return super().__call__(message, context)
        return _answer(message, context, _refuse)


app = SiteApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Pull the version from the site's archive, train on its data, answer with the update."""
    return _answer(message, context, _train)


@app.query()
def query(message: Message, context: Context) -> Message:
    """What is asked that is neither training nor evaluation, by the kind of the request."""
    work = _QUERIES.get(kind_of(message.content), _measure_statistics)
    return _answer(message, context, work)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Store the version that came in the site's archive, evaluate it, answer with metrics."""
    return _answer(message, context, _evaluate)


def _train(site: Site, content: RecordDict, journal: Journal) -> Reply:
    request = unpack(content, TrainRequest)
    settings, allowed = request.training, site.policy.rounds
    check_line(site.policy, request.line)
    check_strategy(allowed, request.strategy)
    check_threads(allowed, settings)
    check_hours(allowed, journal.now())
    check_rate(site.policy, TRAINING, journal.begun_today)
    stopwatch = Stopwatch()
    with Hospital(site) as hospital, ExitStack() as stack:
        with stopwatch.on("archive"):
            record = stack.enter_context(_start_of(hospital, request))
            version, start = record.version, record.tensors()
            _check_approval(site, version, record.signature, request.strategy, settings, journal)
            trainer = trainer_with_own(hospital, version, start, settings)
        with stopwatch.on("data"):
            data = hospital.labelled_data(version)
            hospital.release()
        check_epochs(allowed, trainer.epochs_of(data.train))
        _begin(site, TRAINING, journal)
        with stopwatch.on("training"):
            result = trainer.fit(
                data.train,
                seed=seed_for(request.seed, site.name, request.round),
                round=request.round,
                rounds=request.rounds,
                on_step=Deadline(allowed, TRAINING),
            )
        update = tensors_of(trainer.network)
        norm = norm_of_change(update, start)
        if settings.normalisation == "local":
            with stopwatch.on("archive"):
                keep_own(hospital, version, request.round, trainer, update)
    answer = TrainAnswer(
        site=site.name,
        round=request.round,
        start=request.start,
        examples=result.examples,
        metrics={"loss": result.loss},
        quarantined=counts_of(data.quarantined),
        seconds=stopwatch.seconds,
    )
    facts = {"examples": result.examples, "norm": norm if math.isfinite(norm) else None}
    return Reply(value=answer, tensors=update, facts=facts)


def _measure_statistics(site: Site, content: RecordDict, journal: Journal) -> Reply:
    request, allowed = unpack(content, StatisticsRequest), site.policy.rounds
    check_line(site.policy, request.line)
    check_threads(allowed, request.training)
    check_hours(allowed, journal.now())
    check_rate(site.policy, STATISTICS, journal.begun_today)
    stopwatch = Stopwatch()
    with Hospital(site) as hospital:
        with stopwatch.on("archive"), _start_of(hospital, request) as record:
            version = record.version
            _check_approval(site, version, record.signature, None, request.training, journal)
        with stopwatch.on("data"):
            data = hospital.labelled_data(version)
        trainer = trainer_with_own(hospital, version, unpack_tensors(content), request.training)
    _begin(site, STATISTICS, journal)
    with stopwatch.on("training"):
        trainer.estimate_statistics(data.train, on_batch=Deadline(allowed, STATISTICS))
    answer = StatisticsAnswer(
        site=site.name,
        round=request.round,
        examples=len(data.train),
        seconds=stopwatch.seconds,
    )
    tensors = tensors_of(trainer.network)
    statistics = {name: tensor for name, tensor in tensors.items() if is_statistic(name)}
    return Reply(value=answer, tensors=statistics, facts={"examples": len(data.train)})


def _evaluate(site: Site, content: RecordDict, journal: Journal) -> Reply:
    request = unpack(content, EvaluateRequest)
    version = parse_manifest(request.manifest.encode())
    if not isinstance(version, VersionManifest):
        raise CodecError(f"a {version.kind} came; only a VERSION can be evaluated")
    allowed = site.policy.rounds
    check_line(site.policy, version.line)
    check_threads(allowed, request.training)
    check_rate(site.policy, EVALUATION, journal.begun_today)
    stamp = Stamp(
        study_date=request.study_date,
        study_time=request.study_time,
        content_date=request.content_date,
        content_time=request.content_time,
    )
    signature = Signature.decode(bytes.fromhex(request.signature)) if request.signature else None
    stopwatch = Stopwatch()
    with Hospital(site) as hospital:
        hospital.trust.check(version, signature)
        _check_approval(site, version, signature, request.strategy, request.training, journal)
        with stopwatch.on("archive"):
            parts = unpack_parts(content)
            check_room(site.policy.store, hospital.registry, version)
            published = hospital.registry.publish(
                version, [[part] for part in parts], stamp, signature
            )
            # The archive has given back these very bytes: no need to pull them once more.
            tensors = join([read_part(part) for part in parts])
            trainer = trainer_with_own(hospital, version, tensors, request.training)
        with stopwatch.on("data"):
            data = hospital.labelled_data(version)
            hospital.release()
        _begin(site, EVALUATION, journal)
        with stopwatch.on("evaluation"):
            measured = measure(
                trainer,
                data,
                least_cases=allowed.least_cases,
                on_case=Deadline(allowed, EVALUATION),
            )
        with stopwatch.on("archive"):
            hospital.record(version, measured)
        if site.preview and data.test and isinstance(trainer, Segmenter):
            write_preview(site.work, data.test[0], trainer)
    answer = EvaluateAnswer(
        site=site.name,
        stored=published.reference,
        weights_digest=version.weights.digest,
        measured=measured,
        seconds=stopwatch.seconds,
    )
    return Reply(value=answer, facts={"cases": dict(measured.cases)})


def _count_studies(site: Site, content: RecordDict, journal: Journal) -> Reply:
    request = unpack(content, CensusRequest)
    check_rate(site.policy, CENSUS, journal.begun_today)
    _begin(site, CENSUS, journal)
    return Reply(value=count_studies(site, request))


def _accept_release(site: Site, content: RecordDict, _: Journal) -> Reply:
    return Reply(value=accept_release(site, unpack(content, ReleaseOffer)))


def _refuse(site: Site, _content: RecordDict, _journal: Journal) -> Reply:
    raise UpdateError(f"a message came to {site.name} that is none of {', '.join(_TYPES)}")


Work = Callable[[Site, RecordDict, Journal], Reply]

_QUERIES: Mapping[str, Work] = {
    StatisticsRequest.__name__: _measure_statistics,
    CensusRequest.__name__: _count_studies,
    ReleaseOffer.__name__: _accept_release,
}


def _begin(site: Site, work: str, journal: Journal) -> None:
    """Note that work begins. Messages that came at the same time were all let through before one of
    them was noted, so it is counted once more. Raises :class:`PolicyError`."""
    journal.note_begin(work)
    check_rate(site.policy, work, lambda _: journal.begun_today(work) - 1)


def _check_approval(
    site: Site,
    version: VersionManifest,
    signature: Signature | None,
    strategy: str | None,
    settings: TrainingTable,
    journal: Journal,
) -> None:
    """Whether somebody at the site has approved the network, where the policy asks for that."""
    if site.policy.rounds.approval:
        asked = Waiting.of(version, signature, strategy, settings, journal.now())
        Approvals.beside(site.audit).check(asked)


def _start_of(
    hospital: Hospital, request: TrainRequest | StatisticsRequest
) -> AbstractContextManager[Record]:
    """The version that a round begins with, out of the site's own archive."""
    return hospital.registry.open(request.line, request.branch, request.start_round, request.start)


def _answer(message: Message, context: Context, work: Work) -> Message:
    """Do the work and reply; whatever goes wrong becomes a refusal with a code.

    All that comes and all that leaves passes here, and is in the site's audit log: where that
    cannot be written nothing is done, and nothing leaves.
    """
    keep_libraries_quiet()
    site: Site | None = None
    journal: Journal | None = None
    decision = "allowed"
    asked = message.content if message.has_content() else RecordDict()  # Flower knows of errors
    try:
        document = context.node_config.get("site")
        if not isinstance(document, str):
            raise ConfigError("the node config names no site document; start it with site=PATH")
        site = read_site(Path(document))
        opened = Journal(site, _incoming(message, asked), _local_time)
        opened.note_in()
        journal = opened
        journal.check_new()
        reply = work(site, asked, journal)
        if site.policy.rounds.dry_run and isinstance(reply.value, _OF_ROUNDS):
            reply, decision = _dry(site, reply), "refused"
    except Exception as error:
        reply = _refusal(site, message, error)
        decision = "refused" if isinstance(error, PolicyError | SignatureError) else "failed"
    content = pack(reply.value, reply.tensors)
    if journal is not None:
        try:
            head = journal.note_out(reply, outline(content), decision)
            value = reply.value.model_copy(update={"audit": str(head)})
            content = repack(content, value)
        except Exception as error:
            content = pack(_refusal(site, message, error).value)
    return Message(content, reply_to=message)


_OF_ROUNDS = (TrainAnswer, StatisticsAnswer, EvaluateAnswer)


def _dry(site: Site, reply: Reply) -> Reply:
    """What leaves in place of an answer under a dry run; the log says what would have."""
    weights = weights_digest(reply.tensors) if reply.tensors is not None else None
    refusal = Refusal(site=site.name, code=Code.DRY_RUN)
    return Reply(value=refusal, facts={**reply.facts, "weights": weights})


def _refusal(site: Site | None, message: Message, error: Exception) -> Reply:
    code = code_of(error)
    write_log(site, message.metadata.message_type, code, error)
    return Reply(value=Refusal(site=site.name if site else "unknown", code=code))


def _incoming(message: Message, content: RecordDict) -> Incoming:
    metadata = message.metadata
    return Incoming(
        message=metadata.message_id,
        run=metadata.run_id,
        group=metadata.group_id,
        type=metadata.message_type,
        outline=outline(content),
        subject=_subject(content),
    )


def _subject(content: RecordDict) -> dict[str, Any]:
    """What a message is about, as far as it can be read: whether it counts is seen later.

    Whatever is in it, that it came is noted.
    """
    try:
        return subject_of(unpack(content, REQUESTS[kind_of(content)]))
    except Exception:
        return {}


def _local_time() -> datetime:
    return datetime.now().astimezone()
