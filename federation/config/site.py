"""A site's document: where its archives are, what its data are, what it allows. It stays home."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from federation.config.experiment import Optimizer, TrainingTable
from federation.config.fields import Address, Bytes, Fraction, HostPort, Name, Probability
from federation.config.labels import LabelSource
from federation.config.reading import read_document, validate
from federation.errors import ConfigError
from federation.iodeep.labels import Line
from federation.pacs.address import parse_address
from federation.pacs.limits import Limits
from federation.pacs.matching import check_keys
from federation.values import Value


class Archives(Value):
    """``[archives]``: addresses; ``models`` and ``results`` are the same archive unless named.

    images:  read only
    models:  read and written
    results: of predictions, read and written
    limits:  of each of them
    """

    images: Address
    models: Address | None = None
    results: Address | None = None
    limits: Limits = Limits()

    @property
    def of_models(self) -> str:
        return self.models or self.images

    @property
    def of_results(self) -> str:
        return self.results or self.images


class Split(Value):
    """Train, validation and test, by patient.

    A fraction assigns each patient by a keyed hash of the Patient ID, so that newcomers never
    move the others; ``validation`` and ``test`` may name the Patient IDs instead. ``key`` is a
    file that stays at the site.
    """

    validation: Fraction | tuple[str, ...] = 0.15
    test: Fraction | tuple[str, ...] = 0.15
    key: Path


class DataLimits(Value):
    """``[data.NAME.limits]``: what is left out for its size.

    studies:         look into no more than so many
    least_instances: of an image series, as the archive counts them
    most_instances:  of an image series
    """

    studies: PositiveInt | None = None
    least_instances: PositiveInt = 1
    most_instances: PositiveInt | None = None


class DataTable(Value):
    """``[data.NAME]``: answers the needs of lines whose region is called NAME.

    query:   C-FIND keys that a study's image series must match, of studies or of series
    exclude: sets of such keys; a series that matches all keys of one of them is left out
    """

    query: dict[str, str] = {}
    exclude: tuple[dict[str, str], ...] = ()
    labels: LabelSource = LabelSource()
    limits: DataLimits = DataLimits()
    split: Split


class TrustTable(Value):
    """``[[policy.trust]]``: whose records are believed, for lines that match a pattern.

    lines:     patterns such as ``MR/hippocampus/*``
    signers:   files with public keys (PEM) whose models are believed
    releasers: whose release documents are; the signers' unless given
    unsigned:  accept records without a signature too
    """

    lines: Annotated[tuple[str, ...], Field(min_length=1)]
    signers: tuple[Path, ...] = ()
    releasers: tuple[Path, ...] | None = None
    unsigned: bool = False


class StoreTable(Value):
    """``[policy.store]``: the most that versions may take in the site's archive of models.

    versions: of all lines and branches there
    bytes:    of all versions and states there, such as "20 GB"
    """

    versions: PositiveInt | None = None
    bytes: Bytes | None = None


class CacheTable(Value):
    """``[policy.cache]``: decoded images in the work folder.

    bytes: of all of them, such as "50 GB"; what was not used for longest goes first
    days:  after so many without being used they go
    """

    bytes: Bytes = 50 * 10**9
    days: PositiveFloat | None = None


class OptOuts(Value):
    """``[policy.opt_out]``: patients who do not take part, whatever is asked for.

    file: keyed hashes of Patient IDs, one a line; `iodeep site opt-out` adds to it
    key:  a file with the secret that keys them; it stays at the site
    """

    file: Path
    key: Path


Window = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")]
"""A time of day in the site's own time, as "20:00-06:00"."""


class RoundsTable(Value):
    """``[policy.rounds]``: what the aggregator may ask for in a round of training.

    A round is a training, after it normalisation statistics where the experiment wants them, and an
    evaluation.

    strategies:  by name; any unless some are named
    epochs:      the most passes over the site's training cases
    minutes:     the longest that each of them may take; it stops there, and nothing is sent
    per_day:     the most trainings in a day of the site's own time, as many statistics, and twice
                 as many evaluations: a run evaluates what it begins with, too
    hours:       when training and statistics may begin; at any time unless some are named
    threads:     the most threads
    least_cases: means over fewer validation or test cases than these are not told
    approval:    the first training of a network that is new here waits for `iodeep site approve`
    dry_run:     train, and let nothing leave
    """

    strategies: tuple[str, ...] = ()
    epochs: PositiveFloat | None = None
    minutes: PositiveFloat | None = None
    per_day: PositiveInt | None = None
    hours: tuple[Window, ...] = ()
    threads: PositiveInt | None = None
    least_cases: PositiveInt = 1
    approval: bool = False
    dry_run: bool = False


class CensusTable(Value):
    """``[policy.census]``: what the aggregator is told of how much data there is.

    least:   fewer studies than these are not told
    per_day: the most censuses in a day of the site's own time
    """

    least: PositiveInt = 10
    per_day: PositiveInt = 24


class PolicyTable(Value):
    """``[policy]``: what the site allows. What no trust table covers is believed from nobody.

    min_studies:  usable ones, or there is no training
    max_unusable: the fraction of studies that may be unusable; beyond it there is no training
    releases:     what the aggregator releases is what the site uses too, where it is signed by
                  whom the trust table names for that
    """

    min_studies: PositiveInt = 1
    max_unusable: Probability = 1.0
    releases: bool = False
    rounds: RoundsTable = RoundsTable()
    census: CensusTable = CensusTable()
    opt_out: OptOuts | None = None
    store: StoreTable = StoreTable()
    cache: CacheTable = CacheTable()
    trust: tuple[TrustTable, ...] = ()


class FinetuneTable(Value):
    """``[finetune]``: how `iodeep site finetune` trains a network on the site's own cases.

    epochs:     at most so many passes over the training cases
    patience:   it stops after so many without a better result on validation
    layers:     ``all`` of the network, its ``head`` (the last layer), or what is learnt in its
                ``normalisation`` layers; the others stay as they are
    least_gain: by how much better than its parent a version must be on validation, in the task's
                headline metric, to be stored
    training:   as in an experiment; of epochs and steps there it knows nothing
    """

    epochs: PositiveInt = 60
    patience: PositiveInt = 10
    layers: Literal["all", "head", "normalisation"] = "all"
    least_gain: NonNegativeFloat = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    training: TrainingTable = TrainingTable(optimizer=Optimizer(lr=3e-4), schedule="cosine")

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, table: Any) -> Any:
        """What ``[finetune.training]`` does not say is as it is for fine-tuning."""
        training = table.get("training") if isinstance(table, Mapping) else None
        if not isinstance(training, Mapping):
            return table
        given = training.get("optimizer", {})
        optimizer = {"lr": 3e-4, **given} if isinstance(given, Mapping) else given
        return {
            **table,
            "training": {"schedule": "cosine", **training, "optimizer": optimizer},
        }

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.training.epochs is not None or self.training.steps is not None:
            raise ValueError("training.epochs and training.steps: give finetune.epochs instead")
        if self.training.normalisation not in ("average", "frozen"):
            raise ValueError(
                f'training.normalisation = "{self.training.normalisation}" is of a federation; '
                'alone it is "average" or "frozen"'
            )
        return self


class ServiceRule(Value):
    """``[[service.rules]]``: what becomes of series that match; the first rule that does counts.

    match: attributes of an image, as of a query, with ``*`` and ``?``
    line:  the network to use; the one that suits unless given
    skip:  leave them alone
    """

    match: dict[str, str] = {}
    line: str | None = None
    skip: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            check_keys("STUDY", self.match)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if self.line is not None:
            if self.skip:
                raise ValueError("skip and line do not go together")
            Line.parse(self.line)
        return self


class ServiceTable(Value):
    """``[service]``: `iodeep site serve` takes studies and predicts on them.

    ae_title, host, port: where it listens; port 0 is any free one
    cert, key: over TLS only, with this certificate and its key (PEM)
    tls:       whoever sends over TLS must have a certificate of this authority
    callers:   who may send, as ``AE@10.1.0.0/16``; everybody unless some are named
    quiet_s:   a study is whole when nothing of it came for so long
    bytes:     the most that may wait, such as "50 GB"
    rules:     which series; all unless there are some
    """

    ae_title: str = "IODEEP"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 11113
    cert: Path | None = None
    key: Path | None = None
    tls: Path | None = None
    callers: tuple[str, ...] = ()
    quiet_s: PositiveFloat = 10.0
    bytes: Bytes | None = None
    rules: tuple[ServiceRule, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.cert is None) != (self.key is None) or (self.tls and self.cert is None):
            raise ValueError("TLS needs both cert and key; tls says whose certificates to accept")
        return self


class AggregatorTable(Value):
    """``[aggregator]``: whose rounds the site takes part in; `iodeep site init` writes it.

    address: of the aggregator, as "federation.example.org:443"
    ca:      the authority that certifies it (PEM)
    key:     the private key that the site is known by there (OpenSSH); it stays at the site
    """

    address: HostPort
    ca: Path
    key: Path


class Site(Value):
    """A hospital's own document. Relative paths are beside the document.

    key:     the site's private key (PEM), which signs the records it writes itself
    audit:   the log of what the aggregator asked and the site answered
    work:    cache and temporary files; may be deleted at any time
    preview: draw one held-out slice with truth and prediction into ``work`` at evaluation
    """

    name: Name
    archives: Archives
    key: Path | None = None
    data: dict[Name, DataTable]
    policy: PolicyTable = PolicyTable()
    finetune: FinetuneTable = FinetuneTable()
    service: ServiceTable = ServiceTable()
    aggregator: AggregatorTable | None = None
    audit: Path = Path("audit.jsonl")
    work: Path = Path("work")
    preview: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.key is None and any(not table.unsigned for table in self.policy.trust):
            raise ValueError(
                "key is missing: where unsigned records are not accepted, the site must sign its "
                "own; make one with `iodeep key create FILE`"
            )
        return self

    def data_for(self, line: Line) -> DataTable:
        """The data that answer a line's needs: those named like its region."""
        try:
            return self.data[line.region.slug]
        except KeyError:
            raise ConfigError(
                f"site {self.name} has no data for line {line}: expected a table "
                f"[data.{line.region.slug}], seen {', '.join(sorted(self.data)) or 'none'}"
            ) from None


def read_site(path: Path, overrides: Sequence[str] = ()) -> Site:
    """Read a site's document; its relative paths become absolute. Raises ConfigError.

    overrides: as of :func:`read_experiment`
    """
    document = read_document(path, overrides)
    site = validate(Site, document, str(path))
    home = path.resolve().parent
    data = {
        name: table.model_copy(
            update={
                "split": table.split.model_copy(update={"key": home / table.split.key}),
                "labels": table.labels.model_copy(
                    update={"file": table.labels.file and home / table.labels.file}
                ),
            }
        )
        for name, table in site.data.items()
    }
    trust = tuple(
        table.model_copy(
            update={
                "signers": tuple(home / key for key in table.signers),
                "releasers": table.releasers and tuple(home / key for key in table.releasers),
            }
        )
        for table in site.policy.trust
    )
    return site.model_copy(
        update={
            "archives": _beside(home, site.archives),
            "work": home / site.work,
            "audit": home / site.audit,
            "aggregator": site.aggregator
            and site.aggregator.model_copy(
                update={"ca": home / site.aggregator.ca, "key": home / site.aggregator.key}
            ),
            "key": site.key and home / site.key,
            "data": data,
            "service": site.service.model_copy(
                update={
                    name: home / path
                    for name in ("cert", "key", "tls")
                    if (path := getattr(site.service, name)) is not None
                }
            ),
            "policy": site.policy.model_copy(
                update={"trust": trust, "opt_out": _opt_outs_beside(home, site.policy.opt_out)}
            ),
        }
    )


def _opt_outs_beside(home: Path, table: OptOuts | None) -> OptOuts | None:
    return table and OptOuts(file=home / table.file, key=home / table.key)


def _beside(home: Path, archives: Archives) -> Archives:
    """The same, with files that the addresses name relative to ``home``."""
    named = {
        "images": archives.images,
        "models": archives.models,
        "results": archives.results,
    }
    return archives.model_copy(
        update={key: str(parse_address(a).beside(home)) for key, a in named.items() if a}
    )
