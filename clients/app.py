"""The Flower ClientApp: what a hospital does when the aggregator asks.

Every message may be a process of its own: what a site keeps lies in its archive and in its
work folder. Nothing is ever raised into Flower, which would send the error's text to the
aggregator; an answer is a value or a :class:`~federation.messages.Refusal`, and the text
stays in the site's own log.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.evaluation import counts_of, measure, trainer_for
from clients.hospital import Hospital
from clients.log import write_log
from clients.policy import check_room
from clients.preview import write_preview
from clients.training import Segmenter, Trainer, names_of_layers, seed_for
from federation.config import Site, TrainingTable, read_site
from federation.errors import CodecError, ConfigError
from federation.iodeep.codec import Record, describe_weights
from federation.iodeep.header import Stamp
from federation.iodeep.manifest import (
    StateManifest,
    VersionManifest,
    parse_manifest,
)
from federation.iodeep.signature import Signature
from federation.iodeep.statistics import is_statistic
from federation.iodeep.weights import Tensor, join, read_part
from federation.messages import (
    EvaluateAnswer,
    EvaluateRequest,
    Refusal,
    StatisticsAnswer,
    StatisticsRequest,
    TrainAnswer,
    TrainRequest,
    code_of,
    kind_of,
    pack,
    unpack,
    unpack_parts,
    unpack_tensors,
)
from federation.networks import tensors_of
from federation.quiet import keep_libraries_quiet
from federation.timing import Stopwatch

app = ClientApp()


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


def _train(site: Site, content: RecordDict) -> RecordDict:
    request = unpack(content, TrainRequest)
    stopwatch = Stopwatch()
    with Hospital(site) as hospital:
        with stopwatch.on("archive"), _start_of(hospital, request) as record:
            version = record.version
            trainer = _trainer(hospital, version, record.tensors(), request.training)
        with stopwatch.on("data"):
            data = hospital.labelled_data(version)
            hospital.release()
        with stopwatch.on("training"):
            result = trainer.fit(
                data.train,
                seed=seed_for(request.seed, site.name, request.round),
                round=request.round,
                rounds=request.rounds,
            )
        update = tensors_of(trainer.network)
        if request.training.normalisation == "local":
            with stopwatch.on("archive"):
                _keep_own(hospital, version, request.round, trainer, update)
    answer = TrainAnswer(
        site=site.name,
        round=request.round,
        start=request.start,
        examples=result.examples,
        metrics={"loss": result.loss},
        quarantined=counts_of(data.quarantined),
        seconds=stopwatch.seconds,
    )
    return pack(answer, update)


def _measure_statistics(site: Site, content: RecordDict) -> RecordDict:
    request = unpack(content, StatisticsRequest)
    stopwatch = Stopwatch()
    with Hospital(site) as hospital:
        with stopwatch.on("archive"), _start_of(hospital, request) as record:
            version = record.version
        with stopwatch.on("data"):
            data = hospital.labelled_data(version)
        trainer = _trainer(hospital, version, unpack_tensors(content), request.training)
    with stopwatch.on("training"):
        trainer.estimate_statistics(data.train)
    answer = StatisticsAnswer(
        site=site.name,
        round=request.round,
        examples=len(data.train),
        seconds=stopwatch.seconds,
    )
    tensors = tensors_of(trainer.network)
    return pack(answer, {name: t for name, t in tensors.items() if is_statistic(name)})


def _evaluate(site: Site, content: RecordDict) -> RecordDict:
    request = unpack(content, EvaluateRequest)
    version = parse_manifest(request.manifest.encode())
    if not isinstance(version, VersionManifest):
        raise CodecError(f"a {version.kind} came; only a VERSION can be evaluated")
    stamp = Stamp(
        study_date=request.study_date,
        study_time=request.study_time,
        content_date=request.content_date,
        content_time=request.content_time,
    )
    signature = Signature.decode(bytes.fromhex(request.signature)) if request.signature else None
    stopwatch = Stopwatch()
    with Hospital(site) as hospital:
        with stopwatch.on("archive"):
            parts = unpack_parts(content)
            check_room(site.policy.store, hospital.registry, version)
            published = hospital.registry.publish(
                version, [[part] for part in parts], stamp, signature
            )
            # The archive has given back these very bytes: no need to pull them once more.
            tensors = join([read_part(part) for part in parts])
            trainer = _trainer(hospital, version, tensors, request.training)
        with stopwatch.on("data"):
            data = hospital.labelled_data(version)
            hospital.release()
        with stopwatch.on("evaluation"):
            measured = measure(trainer, data)
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
    return pack(answer)


_QUERIES: Mapping[str, Callable[[Site, RecordDict], RecordDict]] = {
    StatisticsRequest.__name__: _measure_statistics,
}


def _start_of(
    hospital: Hospital, request: TrainRequest | StatisticsRequest
) -> AbstractContextManager[Record]:
    """The version that a round begins with, out of the site's own archive."""
    return hospital.registry.open(request.line, request.branch, request.start_round, request.start)


def _trainer(
    hospital: Hospital,
    version: VersionManifest,
    tensors: Mapping[str, Tensor],
    settings: TrainingTable,
) -> Trainer:
    """What trains a version's network for its task, with these weights, or the site's own where it
    keeps some for itself."""
    registry = hospital.registry
    own = None
    if settings.normalisation == "local":
        own = registry.state(version.line, version.branch, version.round, hospital.site.name)
    if own is None:
        return trainer_for(version, tensors, settings)
    with registry.pull(own) as record:
        return trainer_for(version, {**tensors, **record.tensors()}, settings)


def _keep_own(
    hospital: Hospital,
    start: VersionManifest,
    round: int,
    trainer: Trainer,
    update: Mapping[str, Tensor],
) -> None:
    """Remember the normalisation layers of a round in the site's own archive."""
    names = names_of_layers(trainer.network)
    if not names:
        return
    weights, parts = describe_weights({name: update[name] for name in names})
    state = StateManifest(
        line=start.line,
        branch=start.branch,
        round=round,
        of=start.reference,
        by=hospital.site.name,
        weights=weights,
    )
    hospital.registry.publish(state, parts)


def _answer(
    message: Message, context: Context, work: Callable[[Site, RecordDict], RecordDict]
) -> Message:
    """Do the work and reply; whatever goes wrong becomes a refusal with a code."""
    keep_libraries_quiet()
    site: Site | None = None
    try:
        document = context.node_config.get("site")
        if not isinstance(document, str):
            raise ConfigError("the node config names no site document; start it with site=PATH")
        site = read_site(Path(document))
        content = work(site, message.content)
    except Exception as error:
        code = code_of(error)
        write_log(site, message.metadata.message_type, code, error)
        content = pack(Refusal(site=site.name if site else "unknown", code=code))
    return Message(content, reply_to=message)
