"""What travels through Flower, both ways.

A message's content is one JSON value (a class below) and, where tensors travel, one
ArrayRecord. Tensors are raw bytes with safetensors' dtype names, so that bfloat16 passes;
their lengths are checked before anything is built from them. An answer never holds an
exception's text, a UID of a study, or a value of a single case.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from federation.config import Name, TrainingTable
from federation.errors import (
    AuditError,
    CodecError,
    ConfigError,
    DataError,
    IODeepError,
    ModelError,
    PacsError,
    PacsUnreachable,
    PolicyError,
    RegistryError,
    SignatureError,
    SoftwareError,
    UpdateError,
)
from federation.iodeep.labels import Line
from federation.iodeep.manifest import (
    MAX_NUMBER,
    Branch,
    Count,
    Counts,
    Measured,
    Metrics,
    OutputLabel,
    Reference,
    Sha256,
    Text,
)
from federation.iodeep.weights import Tensor
from federation.software import software
from federation.task import TaskName
from federation.values import Value

MAX_JSON_CHARACTERS = 4 * 2**20

Round = Annotated[PositiveInt, Field(le=MAX_NUMBER)]
StartRound = Annotated[NonNegativeInt, Field(le=MAX_NUMBER)]
Seconds = Annotated[dict[Text, Annotated[float, Field(ge=0, le=1e9)]], Field(max_length=16)]
SignatureText = Annotated[str, Field(pattern=r"^[0-9a-f]{192}$")]
HeadText = Annotated[str, Field(pattern=r"^[0-9]{1,15}:[0-9a-f]{64}$")]
"""The head of a site's audit log when it answered, which it cannot take back."""

_RECORD = "iodeep"
_ARRAYS = "arrays"
_SERIALIZATION = "iodeep.raw"
_HEAD = TypeAdapter(HeadText)


# --- the aggregator asks ------------------------------------------------------------------


class TrainRequest(Value):
    """Train from a version that the site has; make its contribution to ``round``.

    start:    the version, which lies on ``branch`` of ``line`` as round ``start_round``
    strategy: by name; what becomes of the contribution
    """

    line: Line
    branch: Branch
    start: Reference
    start_round: StartRound
    round: Round
    rounds: Round
    seed: NonNegativeInt
    strategy: Text
    training: TrainingTable


class StatisticsRequest(Value):
    """Measure normalisation statistics under the weights that come as arrays, by name.

    start: the version whose network it is, on ``branch`` of ``line`` as round ``start_round``
    """

    line: Line
    branch: Branch
    start: Reference
    start_round: StartRound
    round: Round
    training: TrainingTable


class EvaluateRequest(Value):
    """Store the version that comes with this message, and evaluate it.

    manifest:  canonical JSON; the parts' bytes are the arrays ``1``, ``2`` …
    signature: as :meth:`federation.iodeep.signature.Signature.encode` gives it, hex
    strategy:  by name; what is meant to become of contributions
    """

    manifest: str
    signature: SignatureText | None = None
    study_date: str
    study_time: str
    content_date: str
    content_time: str
    strategy: Text | None = None
    training: TrainingTable


class CensusRequest(Value):
    """Say how many labelled studies there are for a line, and whether a training could begin."""

    line: Line
    task: TaskName
    outputs: tuple[OutputLabel, ...]


class ReleaseOffer(Value):
    """Release a version that the site has: store this release document.

    manifest:  of the RELEASE, canonical JSON
    signature: as of :class:`EvaluateRequest`
    """

    manifest: str
    signature: SignatureText | None = None
    study_date: str
    study_time: str
    content_date: str
    content_time: str


# --- a site answers -----------------------------------------------------------------------


class TrainAnswer(Value):
    """An update: the trained weights are the arrays, by name.

    seconds: where the site's time went: ``archive``, ``data``, ``training``, ``evaluation``
    """

    site: Name
    round: PositiveInt
    start: Reference
    examples: Count
    metrics: Metrics
    quarantined: Counts = {}
    seconds: Seconds = {}
    audit: HeadText | None = None


class StatisticsAnswer(Value):
    """Normalisation statistics over the site's training data: the arrays, by name."""

    site: Name
    round: PositiveInt
    examples: Annotated[Count, Field(ge=1)]
    seconds: Seconds = {}
    audit: HeadText | None = None


class EvaluateAnswer(Value):
    """The storage receipt of a version, and its metrics on the site's own data.

    seconds: where the site's time went
    """

    site: Name
    stored: Reference
    weights_digest: Sha256
    measured: Measured
    seconds: Seconds = {}
    audit: HeadText | None = None


class CensusAnswer(Value):
    """What a site has for a line.

    studies: with images and labels that its query finds; None where they are fewer than the site
             tells of
    problem: why a training could not begin; None where it could, or where that would tell how many
    """

    site: Name
    studies: Count | None
    problem: "Code | None" = None
    seconds: Seconds = {}
    audit: HeadText | None = None


class ReleaseAnswer(Value):
    """A release document was stored: the version is what the site uses from now on."""

    site: Name
    released: Reference
    seconds: Seconds = {}
    audit: HeadText | None = None


class Code(StrEnum):
    """Why a site does not do what it was asked."""

    REQUEST = "request-not-understood"
    DOCUMENT = "site-document"
    DATA = "data"
    ARCHIVE_UNREACHABLE = "archive-unreachable"
    ARCHIVE = "archive"
    VERSION_ABSENT = "version-absent"
    VERSION_DAMAGED = "version-damaged"
    SIGNATURE = "signature-not-trusted"
    POLICY = "policy"
    LINE = "line-not-allowed"
    STRATEGY = "strategy-not-allowed"
    SETTINGS = "settings-not-allowed"
    RATE = "rounds-used-up"
    HOURS = "outside-hours"
    TIME = "took-too-long"
    ROOM = "no-room"
    APPROVAL = "awaits-approval"
    DRY_RUN = "dry-run"
    REPLAYED = "answered-before"
    SOFTWARE = "another-release-of-the-software"
    MODEL = "model"
    AUDIT = "audit-log"
    INTERNAL = "internal"


REASONS: Mapping[Code, str] = {
    Code.REQUEST: "the request does not follow this version of the message schema",
    Code.DOCUMENT: "the site's document does not answer this line",
    Code.DATA: "the site has too few usable labelled studies",
    Code.ARCHIVE_UNREACHABLE: "the site's archive cannot be reached",
    Code.ARCHIVE: "the site's archive refused or failed",
    Code.VERSION_ABSENT: "the version is not in the site's archive",
    Code.VERSION_DAMAGED: "the version is damaged, or not what its digests say",
    Code.SIGNATURE: "the version is not signed by whom the site trusts",
    Code.POLICY: "the site's policy does not allow it",
    Code.LINE: "the site's policy does not allow this line",
    Code.STRATEGY: "the site's policy does not allow this strategy",
    Code.SETTINGS: "the site's policy does not allow these settings of training",
    Code.RATE: "the site has done this as often today as its policy allows",
    Code.HOURS: "the site's policy does not allow it at this time of day",
    Code.TIME: "it took longer than the site's policy allows",
    Code.ROOM: "the site's policy allows no further version in its archive",
    Code.APPROVAL: "the line is new to the site, and somebody there has to approve it",
    Code.DRY_RUN: "the site trained, and its policy lets nothing leave: a dry run",
    Code.REPLAYED: "the site has answered this very message before",
    Code.SOFTWARE: "the site runs another release of this software than the aggregator",
    Code.MODEL: "the network cannot be built, or its training diverged",
    Code.AUDIT: "the site's own audit log was changed, or cannot be written",
    Code.INTERNAL: "an unexpected error, written to the site's own log",
}


class Refusal(Value):
    """A site's no: a code with its fixed reason."""

    site: Name
    code: Code
    audit: HeadText | None = None

    @property
    def reason(self) -> str:
        return REASONS[self.code]


_CODES: tuple[tuple[type[IODeepError], Code], ...] = (
    (SoftwareError, Code.SOFTWARE),
    (UpdateError, Code.REQUEST),
    (ConfigError, Code.DOCUMENT),
    (DataError, Code.DATA),
    (PacsUnreachable, Code.ARCHIVE_UNREACHABLE),
    (PacsError, Code.ARCHIVE),
    (RegistryError, Code.VERSION_ABSENT),
    (SignatureError, Code.SIGNATURE),
    (CodecError, Code.VERSION_DAMAGED),
    (ModelError, Code.MODEL),
    (AuditError, Code.AUDIT),
)


def code_of(error: Exception) -> Code:
    """The code that stands for an error; its text stays at the site."""
    if isinstance(error, PolicyError):
        return Code(error.code)
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL)


# --- records ------------------------------------------------------------------------------

T = TypeVar("T", bound=Value)


def pack(value: Value, arrays: Mapping[str, Tensor] | None = None) -> RecordDict:
    """A message's content: one JSON value, and tensors where there are any."""
    text = value.model_dump_json()
    record = ConfigRecord({"kind": type(value).__name__, "software": software(), "json": text})
    content = RecordDict({_RECORD: record})
    if arrays is not None:
        content[_ARRAYS] = ArrayRecord(
            {
                name: Array(tensor.dtype, tensor.shape, _SERIALIZATION, bytes(tensor.data))
                for name, tensor in arrays.items()
            }
        )
    return content


def unpack(content: RecordDict, kind: type[T]) -> T:
    """The JSON value of a content.

    Raises :class:`UpdateError` where it is no ``kind``, and :class:`SoftwareError` where another
    release of this software wrote it: the one before the last point of its number differs.
    """
    found = kind_of(content)
    theirs = software_of(content)
    if theirs and _series(theirs) != _series(software()):
        raise SoftwareError(
            f"a message of IODeep Federation {ascii(theirs)[1:-1][:32]} came, "
            f"and here is {software()}; sites and the aggregator need the same release up to its "
            "last number"
        )
    if found != kind.__name__:
        raise UpdateError(f"a {found} came; expected a {kind.__name__}")
    text = content.config_records[_RECORD].get("json")
    if not isinstance(text, str) or len(text) > MAX_JSON_CHARACTERS:
        raise UpdateError(f"a {kind.__name__} is over {MAX_JSON_CHARACTERS} characters, or no text")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        where = {".".join(str(step) for step in problem["loc"]) for problem in error.errors()}
        raise UpdateError(f"a {kind.__name__} is invalid at: {', '.join(sorted(where))}") from None


def repack(content: RecordDict, value: Value) -> RecordDict:
    """The same tensors, not copied, beside another value."""
    return RecordDict({**content, **pack(value)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """What there is to say of a content, whether or not it can be understood.

    weights: as :func:`federation.iodeep.weights.weights_digest` gives it; None without tensors
    digest:  SHA-256 over the lines ``json SHA-256`` and, with tensors, ``arrays WEIGHTS``
    bytes:   of the JSON text and of all tensors
    """

    kind: str
    software: str
    weights: str | None
    digest: str
    bytes: int


def outline(content: RecordDict) -> Outline:
    """Look at a content as it came: nothing in it is believed, and no tensor is copied."""
    text = _text_of(content).encode("utf-8", "surrogatepass")
    lines = f"json {sha256(text).hexdigest()}\n"
    size, weights = len(text), None
    arrays = content.array_records.get(_ARRAYS)
    if arrays is not None:
        of_arrays = sha256()
        for name, array in sorted(arrays.items()):
            shape = ",".join(str(length) for length in array.shape)
            seen = f"{name} {array.dtype} [{shape}] {sha256(array.data).hexdigest()}\n"
            of_arrays.update(seen.encode("utf-8", "surrogatepass"))
            size += len(array.data)
        weights = of_arrays.hexdigest()
        lines += f"arrays {weights}\n"
    return Outline(
        kind=kind_of(content),
        software=software_of(content),
        weights=weights,
        digest=sha256(lines.encode()).hexdigest(),
        bytes=size,
    )


def head_of(content: RecordDict) -> str | None:
    """The head of its audit log that an answer names, whatever else it says; None without one."""
    text = _text_of(content)
    try:
        document = json.loads(text) if len(text) <= MAX_JSON_CHARACTERS else None
        return _HEAD.validate_python(document["audit"]) if isinstance(document, dict) else None
    except (ValueError, KeyError, RecursionError):
        return None


def _text_of(content: RecordDict) -> str:
    record = content.config_records.get(_RECORD)
    text = record.get("json") if record else None
    return text if isinstance(text, str) else ""


def kind_of(content: RecordDict) -> str:
    """The name of the value that a content holds; empty where it is none of ours."""
    record = content.config_records.get(_RECORD)
    kind = record.get("kind") if record else None
    return kind if isinstance(kind, str) else ""


def software_of(content: RecordDict) -> str:
    """The release that wrote a content; empty where it does not say."""
    record = content.config_records.get(_RECORD)
    release = record.get("software") if record else None
    return release if isinstance(release, str) else ""


def _series(release: str) -> str:
    return release.rpartition(".")[0]


def unpack_tensors(content: RecordDict) -> dict[str, Tensor]:
    """The tensors of a content. Raises :class:`UpdateError` where bytes, dtype, shape differ."""
    record = content.array_records.get(_ARRAYS)
    if record is None:
        raise UpdateError("a message came without its tensors")
    tensors = {}
    for name, array in record.items():
        if array.stype != _SERIALIZATION:
            raise UpdateError(f"tensor {name!r:.80} is serialised as {array.stype!r:.40}")
        try:
            tensors[name] = Tensor(
                dtype=array.dtype, shape=tuple(array.shape), pieces=(memoryview(array.data),)
            )
        except CodecError as error:
            raise UpdateError(f"tensor {name!r:.80}: {error}") from None
    return tensors


def pack_parts(parts: list[memoryview]) -> dict[str, Tensor]:
    """Weight parts as tensors of bytes, named by number, to be sent whole."""
    return {
        str(number): Tensor(dtype="U8", shape=(part.nbytes,), pieces=(part,))
        for number, part in enumerate(parts, start=1)
    }


def unpack_parts(content: RecordDict) -> list[memoryview]:
    """Weight parts in order, each the bytes of a safetensors file."""
    tensors = unpack_tensors(content)
    if set(tensors) != {str(number) for number in range(1, len(tensors) + 1)}:
        raise UpdateError(f"{len(tensors)} weight parts came that are not numbered from 1")
    return [tensors[str(number)].data for number in range(1, len(tensors) + 1)]
