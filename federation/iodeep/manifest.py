"""The manifest: the one JSON document that says what a record is and where it comes from.

Its canonical form (RFC 8785, ASCII only) decides the record's UIDs and digest. Clock times
are not in it, so the same content written again is the same record.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import rfc8785
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from federation.errors import CodecError, ConfigError
from federation.iodeep.architecture import Architecture, Postprocessing, Preprocessing
from federation.iodeep.labels import Concept, Line, find_concept
from federation.task import TaskName
from federation.values import Value

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 2**20
MAX_PARTS = 9998
MAX_NUMBER = 2**31 - 1  # of a series: Integer String (PS3.5 Section 6.2)

_SHOWN = 5  # problems of a manifest
_NAMESPACE = uuid.UUID("77e4b7c2-9879-4677-b1da-2ebbfc3c6156")
_UID = r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+$"  # PS3.5 Section 9.1

AGGREGATOR = "aggregator"
"""Who an evaluation over all sites is by."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Uid = Annotated[str, Field(pattern=_UID, max_length=64)]
Branch = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,15}$")]
Text = Annotated[str, Field(pattern=r"^[ -~]{1,64}$")]
# Few enough that a manifest with every site's metrics stays small, and small enough to be added
# up and written as JSON, whatever a site sends.
Metrics = Annotated[dict[Text, Annotated[float, Field(ge=-1e12, le=1e12)]], Field(max_length=128)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Counts = Annotated[dict[Text, Count], Field(max_length=128)]
Sentence = Annotated[str, Field(pattern=r"^[ -~]{1,256}$")]


class Part(Value):
    """One weight part: its length in bytes and digest."""

    bytes: NonNegativeInt
    sha256: Sha256


class Weights(Value):
    """The weights' digest (see :func:`federation.iodeep.weights.weights_digest`) and parts."""

    digest: Sha256
    parameters: NonNegativeInt
    parts: Annotated[tuple[Part, ...], Field(min_length=1, max_length=MAX_PARTS)]


class Reference(Value):
    """A record: the SOP Instance UID of its manifest, and the manifest's digest."""

    uid: Uid
    digest: Sha256


class Receipt(Value):
    """What one site put into a version: counts and digests, nothing of a patient."""

    site: Text
    examples: PositiveInt
    update_digest: Sha256
    metrics: dict[Text, float]


class Lineage(Value):
    """Where a version comes from."""

    parent: Reference | None = None
    config_digest: Sha256
    strategy: Text | None = None
    receipts: tuple[Receipt, ...] = ()


class OutputLabel(Value):
    """What one output value means: a name, coded where the dictionary knows its words."""

    number: PositiveInt
    name: Text
    concept: Concept | None = None
    modifier: Concept | None = None

    @classmethod
    def named(cls, number: int, name: str) -> Self:
        """``anterior hippocampus`` is Hippocampus with the modifier Anterior."""
        modifier, _, rest = name.partition(" ")
        for words, qualifier in ((name, None), (rest, modifier)):
            try:
                return cls(
                    number=number,
                    name=name,
                    concept=find_concept(words, anatomy=True),
                    modifier=find_concept(qualifier) if qualifier else None,
                )
            except ConfigError:
                continue
        return cls(number=number, name=name)


class Manifest(Value):
    """What every record says: which line, branch and round it belongs to."""

    schema_version: Literal[1] = 1
    kind: str
    line: Line
    branch: Branch
    round: Annotated[NonNegativeInt, Field(le=MAX_NUMBER)]

    @cached_property
    def canonical(self) -> bytes:
        """The canonical JSON (RFC 8785), ASCII.

        Raises :class:`ConfigError` where there is none.
        """
        try:
            text = rfc8785.dumps(self.model_dump(mode="json"))
        except (ValueError, RecursionError) as error:  # what rfc8785 and its encoding raise
            raise ConfigError(f"a manifest has no canonical form (RFC 8785): {error}") from error
        if not text.isascii():
            raise ConfigError(
                f"a manifest of line {self.line} holds characters that are not ASCII; "
                "write names and labels in ASCII"
            )
        return text

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("canonical", None)  # pydantic takes over what is cached
        return copied

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.canonical).hexdigest()

    @property
    def uid(self) -> str:
        """SOP Instance UID of the manifest's instance."""
        return uid_of(self.canonical.decode())

    @property
    def series_uid(self) -> str:
        return uid_of(self.canonical.decode() + "#series")

    @property
    def study_uid(self) -> str:
        return branch_uid(self.line, self.branch)

    def part_uid(self, number: int) -> str:
        """SOP Instance UID of weight part ``number``, counted from 1."""
        return uid_of(f"{self.canonical.decode()}#part{number}")

    @property
    def reference(self) -> Reference:
        return Reference(uid=self.uid, digest=self.digest)


class WeightsManifest(Manifest):
    """What a record with weights says of them."""

    weights: Weights


class VersionManifest(WeightsManifest):
    """A VERSION: a network with its weights, after a round.

    preprocessing:  None where the network came without one, as the original authors' do: it can be
                    looked at and exported, and no site trains it
    postprocessing: of what it predicts; where there is none the manifest does not speak of it
    """

    kind: Literal["VERSION"] = "VERSION"
    task: TaskName = "segmentation"
    architecture: Architecture
    preprocessing: Preprocessing | None
    postprocessing: Annotated[
        Postprocessing | None, Field(exclude_if=lambda declared: declared is None)
    ] = None
    outputs: tuple[OutputLabel, ...]
    lineage: Lineage


class StateManifest(WeightsManifest):
    """A STATE: what one side must remember of a round, in its own archive; it is never sent.

    of: the version that the round began with
    by: the site whose tensors these are
    """

    kind: Literal["STATE"] = "STATE"
    of: Reference
    by: Text


class Measured(Value):
    """Metrics of a version on labelled cases.

    metrics:     such as ``test_dice_mean``, ``test_dice_1`` or ``test_auc`` (see
                 :mod:`federation.task`); absent without such cases
    cases:       how many cases the metrics of each part are a mean over: ``test``, ``validation``
    quarantined: studies left out, by reason
    """

    metrics: Metrics
    cases: Counts
    quarantined: Counts = {}


class EvaluationManifest(Manifest):
    """An EVALUATION: metrics of a version, measured after it was written.

    by:      the site, or ``aggregator`` for the mean over sites
    sites:   what each site answered, where an aggregator measured
    missing: the sites whose answer does not count, and why
    """

    kind: Literal["EVALUATION"] = "EVALUATION"
    of: Reference
    by: Text
    measured: Measured
    sites: dict[Text, Measured] = {}
    missing: dict[Text, Sentence] = {}


class ReleaseManifest(Manifest):
    """A RELEASE: a version of this line is the one to use, from now on.

    Line, branch and round are the version's.

    of:       the version, whose series is ``series``
    number:   of the line's release documents, counted from 1; two that were written at the same
              time have the same, and are ordered by UID
    action:   whether the version was promoted, or is what was released before
    previous: the newest release document when this one was written
    reason:   for people
    """

    kind: Literal["RELEASE"] = "RELEASE"
    of: Reference
    series: Uid
    number: Annotated[PositiveInt, Field(le=MAX_NUMBER)]
    action: Literal["promote", "rollback"]
    previous: Reference | None = None
    reason: Sentence | None = None


RecordManifest = VersionManifest | StateManifest | EvaluationManifest
AnyManifest = RecordManifest | ReleaseManifest

_KINDS: Mapping[str, type[AnyManifest]] = {
    "VERSION": VersionManifest,
    "STATE": StateManifest,
    "EVALUATION": EvaluationManifest,
    "RELEASE": ReleaseManifest,
}


def parse_manifest(text: bytes) -> AnyManifest:
    """Read a canonical manifest from outside.

    Raises :class:`CodecError` for anything too long, malformed or not in canonical form.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise CodecError(
            f"a manifest of {len(text)} bytes is over the limit of {MAX_MANIFEST_BYTES}"
        )
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CodecError("a manifest is no JSON document") from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise CodecError(
            f"a manifest is not of schema version {SCHEMA_VERSION}, the one known here"
        )
    kind = _KINDS.get(str(document.get("kind")))
    if kind is None:
        raise CodecError(f"a manifest is of none of the known kinds {', '.join(_KINDS)}")
    try:
        manifest = kind.model_validate(document)
    except ValidationError as error:
        where = {".".join(str(step) for step in problem["loc"]) for problem in error.errors()}
        shown = ", ".join(ascii(each)[1:-1][:80] for each in sorted(where)[:_SHOWN])
        raise CodecError(f"a {kind.__name__} is invalid at: {shown}") from error
    try:
        canonical = manifest.canonical
    except ConfigError as error:
        raise CodecError(str(error)) from error
    if canonical != text:
        raise CodecError("a manifest is not in canonical form (RFC 8785), so its digest is void")
    return manifest


def branch_uid(line: Line, branch: str) -> str:
    """Study Instance UID of a branch."""
    return uid_of(f"{line.patient_id}/{branch}")


def uid_of(text: str) -> str:
    """A UID made from content (PS3.5 Annex B.2): ``2.25.`` and a name-based UUID."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, text).int}"
