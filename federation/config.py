"""The two documents: an experiment, which travels, and a site's, which stays home.

TOML becomes a frozen value once, at the edge; everything below receives values.
An unknown key is an error that names the nearest valid one.
"""

import difflib
import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

import rfc8785
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from federation.errors import ConfigError
from federation.iodeep.architecture import (
    NETWORK_OF_LAYERS,
    Architecture,
    Postprocessing,
    Preprocessing,
)
from federation.iodeep.labels import Line
from federation.iodeep.manifest import AGGREGATOR, Text
from federation.pacs.address import parse_address
from federation.pacs.limits import Limits
from federation.pacs.matching import check_keys
from federation.sizes import parse_size
from federation.task import TaskName
from federation.values import Value

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
T = TypeVar("T", bound=Value)

POOLED = "pooled"  # the site of a centralised experiment


def _address(text: str) -> str:
    try:
        parse_address(text)
    except ConfigError as error:  # pydantic says where it stands in the document
        raise ValueError(str(error)) from None
    return text


Address = Annotated[str, AfterValidator(_address)]
"""Where an archive is, in the notation of :mod:`federation.pacs.address`."""


# --- what both documents speak of ----------------------------------------------------------


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class LabelSource(Value):
    """What holds labels, and which name there means which output label.

    source: for segmentation ``SEG`` or ``RTSTRUCT``, for classification ``SR`` or ``CSV``; or both
            in order of preference
    file:   of ``CSV``: its columns are ``label`` and one of ``series``, ``study`` (UIDs) and
            ``patient_id``
    map:    what the site calls an output label, by its number: a segment's label, its coded
            meaning, or a code as "SCT:10200004"; an SR's value, or a row's ``label``. What has the
            network's own code, or name, needs no entry. 0, for classification, is none of them
    """

    source: Annotated[
        tuple[Literal["SEG", "RTSTRUCT", "SR", "CSV"], ...],
        BeforeValidator(_several),
        Field(min_length=1),
    ] = ("SEG", "RTSTRUCT")
    file: Path | None = None
    map: dict[str, NonNegativeInt] = {}

    @property
    def task(self) -> TaskName:
        """The task that such labels are for."""
        return "segmentation" if {"SEG", "RTSTRUCT"} & set(self.source) else "classification"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.task == "segmentation" and {"SR", "CSV"} & set(self.source):
            raise ValueError(
                "SEG and RTSTRUCT draw labels, SR and CSV name an image's class: a table has "
                "sources of one kind"
            )
        if ("CSV" in self.source) != (self.file is not None):
            raise ValueError('source = "CSV" and file = "labels.csv" go together')
        if self.task == "segmentation" and 0 in self.map.values():
            raise ValueError("map gives a segment the label 0, which is background; from 1 on")
        return self


# --- an experiment: what to train, with whom, how ---------------------------------------


def _without_gaps(labels: dict[int, str]) -> dict[int, str]:
    if sorted(labels) != list(range(1, len(labels) + 1)):
        raise ValueError("labels are numbered 1, 2, 3 … without gaps")
    return labels


Labels = Annotated[dict[PositiveInt, Text], AfterValidator(_without_gaps)]
"""What a network's outputs mean: ASCII, 1 to 64 characters each."""


_STACKED = frozenset({"CT", "MR", "PT"})
"""Modalities whose series are volumes."""


class StartTable(Value):
    """``[model.start]``: the trained version of the line that a run begins with.

    archive: where it is
    version: ``released``, ``BRANCH:ROUND``, a branch, or a UID, which is what a run notes
    signers: files with public keys (PEM), one of which must have signed it; anybody unless given
    """

    archive: Address
    version: str = "released"
    signers: tuple[Path, ...] = ()


class ModelTable(Value):
    """``[model]``: the line, what its outputs mean, the network, what it takes, and what becomes
    of what it predicts.

    task:   ``segmentation``, a label for each voxel, or ``classification``, one for each image
    labels: beside 0, which is background, or the class of what is none of these
    start:  a version whose network this is; without one it has learnt nothing
    """

    line: str
    task: TaskName = "segmentation"
    labels: Labels
    architecture: Architecture
    preprocessing: Preprocessing | None = None
    postprocessing: Annotated[
        Postprocessing | None, Field(exclude_if=lambda declared: declared is None)
    ] = None
    start: Annotated[StartTable | None, Field(exclude_if=lambda given: given is None)] = None

    @model_validator(mode="before")
    @classmethod
    def _gather_arguments(cls, table: Any) -> Any:
        """``[model.architecture]`` holds the network's name and its arguments side by side."""
        if isinstance(table, Mapping) and isinstance(table.get("architecture"), Mapping):
            arguments = dict(table["architecture"])
            if "arguments" not in arguments and "network" in arguments:
                network = arguments.pop("network")
                return {**table, "architecture": {"network": network, "arguments": arguments}}
        return table

    @model_validator(mode="after")
    def _check(self) -> Self:
        line = Line.parse(self.line)
        if self.preprocessing is None and self.architecture.network != NETWORK_OF_LAYERS:
            raise ValueError("[model.preprocessing] is missing: how volumes become the input")
        declared = self.postprocessing or Postprocessing()
        named = {*declared.largest, *declared.filled}
        if self.postprocessing is not None and self.task != "segmentation":
            raise ValueError("[model.postprocessing] is of labels of voxels: of a segmentation")
        if unknown := sorted(named - set(self.labels)):
            raise ValueError(f"postprocessing names label {unknown[0]}, which labels does not have")
        if self.preprocessing is None or self.task != "classification":
            return self
        if self.preprocessing.fit == "patches":
            raise ValueError(
                'fit = "patches" and task = "classification" do not go together: the class is the '
                'whole image\'s, and a patch may lack what it is about; use fit = "crop"'
            )
        if self.preprocessing.takes_slices and line.modality in _STACKED:
            raise ValueError(
                f"{line.modality} series are stacks of slices, and a class is of the whole series; "
                "give size and spacing_mm three axes, and the network spatial_dims = 3"
            )
        return self


class FederationTable(Value):
    """``[federation]``: who takes part, and when a round counts."""

    sites: tuple[Name, ...]
    quorum: PositiveInt = 1
    deadline_s: PositiveFloat = 600
    mode: Literal["simulation"] = "simulation"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.sites or len(set(self.sites)) != len(self.sites):
            raise ValueError("sites must be named, each once")
        if self.quorum > len(self.sites):
            raise ValueError(f"quorum {self.quorum} is more than the {len(self.sites)} sites")
        return self


class SimulatedTable(Value):
    """``[simulation.tables.SITE]``: the data table of a simulated site, whose archive has images.

    query:  as of a site's own table
    labels: likewise; a relative path of ``file`` is beside where the command is typed
    """

    query: dict[str, str] = {}
    labels: LabelSource = LabelSource()
    validation: Fraction = 0.15
    test: Fraction = 0.15


class SimulationTable(Value):
    """``[simulation]``: what a federation on one machine may use of it.

    archives:  addresses of archives that run already, by site or ``aggregator``; whoever is not
               named gets an embedded one. Relative paths are beside where the command is typed
    workers:   sites that work at the same time, each in a process; as many as there are cores
               for ``training.threads`` unless given. 1 works within the process
    memory_gb: of all workers together; three quarters of what is free unless given
    tables:    by site, how it finds its labelled images where its archive holds them already; an
               experiment without ``data`` has one for each site, and an archive of its own
    """

    archives: dict[Name, Address] = {}
    workers: PositiveInt | None = None
    memory_gb: PositiveFloat | None = None
    tables: dict[Name, SimulatedTable] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        addresses = [str(parse_address(address)) for address in self.archives.values()]
        if len(set(addresses)) != len(addresses):
            raise ValueError("each site needs an archive of its own; one address stands twice")
        return self


class StrategyTable(Value):
    """``[strategy]``: how updates become the next version.

    name: ``fedavg``; or, to measure a federation by, ``centralised`` (one site that has the data
          of all, and makes their steps together) or ``local`` (each site alone)
    max_update_ratio bounds an update: the L2 norm of its change over that of the version it
    started from. It is there to stop nonsense, not to shape learning.
    """

    name: Literal["fedavg", "centralised", "local"] = "fedavg"
    max_update_ratio: PositiveFloat = 10.0


class Optimizer(Value):
    """An optimiser of torch by name; ``lr`` is what the schedule starts from."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    momentum: Probability = 0.0


class Augmentation(Value):
    """``[training.augmentation]``: random changes of a training example; 0 leaves one out.

    probability:    of each change, for each example
    rotate_degrees: largest rotation about each axis
    scale:          largest relative change of size
    translate:      largest shift, voxels
    flip:           axes that may be mirrored
    noise:          largest standard deviation of added Gaussian noise, in units of the
                    normalised intensity
    intensity:      largest relative change of contrast, and largest shift
    """

    probability: Probability = 0.5
    rotate_degrees: NonNegativeFloat = 0.0
    scale: Fraction = 0.0
    translate: NonNegativeFloat = 0.0
    flip: tuple[Literal[0, 1, 2], ...] = ()
    noise: NonNegativeFloat = 0.0
    intensity: NonNegativeFloat = 0.0


class TrainingTable(Value):
    """``[training]``: what every site does in a round.

    epochs:   passes over a site's examples (1); or else
    steps:    optimiser steps, however many examples a site has
    schedule: of the learning rate over all steps of all rounds, or ``constant``
    loss:     ``ce`` for classification, which knows no other
    threads:  torch threads; part of the result, as sums depend on it
    normalisation: what becomes of the statistics that batch normalisation keeps: ``average``
              pools the sites'; ``frozen`` leaves the starting version's; ``reestimate`` measures
              them anew at the sites with each round's weights, in one more exchange; ``local``
              lets each site go on with its own, kept in its own archive with the layers'
              weights (FedBN), while the version holds the average for those who have none
    """

    epochs: PositiveInt | None = None
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 2
    optimizer: Optimizer = Optimizer()
    schedule: Literal["constant", "cosine"] = "constant"
    loss: Literal["dice_ce", "dice", "ce"] = "dice_ce"
    augmentation: Augmentation = Augmentation()
    threads: PositiveInt = 1
    normalisation: Literal["average", "frozen", "reestimate", "local"] = "average"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("a round is so many epochs or so many steps; give one of them")
        return self


class Experiment(Value):
    """A federated experiment: everything that decides its result, and how it is carried."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    rounds: PositiveInt
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: str | None = None
    model: ModelTable
    federation: FederationTable
    simulation: SimulationTable = SimulationTable()
    strategy: StrategyTable = StrategyTable()
    training: TrainingTable = TrainingTable()

    @model_validator(mode="after")
    def _check_archives(self) -> Self:
        named = (*self.federation.sites, POOLED, AGGREGATOR)
        if unknown := sorted(self.simulation.archives.keys() - set(named)):
            raise ValueError(
                f"simulation.archives names {unknown[0]!r}; expected a site or {AGGREGATOR!r}"
            )
        if unknown := sorted(self.simulation.tables.keys() - set(named[:-1])):
            raise ValueError(f"simulation.tables names {unknown[0]!r}; expected a site")
        return self

    @model_validator(mode="before")
    @classmethod
    def _choose_loss(cls, document: Any) -> Any:
        """The loss that a task has unless another is named."""
        model, training = (
            document.get(table, {}) if isinstance(document, Mapping) else None
            for table in ("model", "training")
        )
        if not isinstance(model, Mapping) or not isinstance(training, Mapping):
            return document
        if model.get("task") != "classification" or "loss" in training:
            return document
        return {**document, "training": {**training, "loss": "ce"}}

    @model_validator(mode="after")
    def _check_loss(self) -> Self:
        if self.model.task == "classification" and self.training.loss != "ce":
            raise ValueError(
                f'training.loss = "{self.training.loss}" counts voxels, and classification gives '
                'one class an image; use "ce", or leave it out'
            )
        return self

    @property
    def line(self) -> Line:
        return Line.parse(self.model.line)

    @property
    def roster(self) -> tuple[str, ...]:
        """Who trains and evaluates: the sites, or the one that has all their data."""
        return (POOLED,) if self.strategy.name == "centralised" else self.federation.sites

    @property
    def quorum(self) -> int:
        """How many of the roster a round needs."""
        return min(self.federation.quorum, len(self.roster))

    @property
    def site_training(self) -> TrainingTable:
        """What each of the roster does in a round."""
        steps = self.training.steps
        if self.strategy.name != "centralised" or steps is None:
            return self.training
        return self.training.model_copy(update={"steps": steps * len(self.federation.sites)})

    def alone(self) -> dict[str, "Experiment"]:
        """The experiments of a ``local`` one, by site: a federation of that site alone."""
        return {
            site: self.model_copy(
                update={
                    "federation": self.federation.model_copy(
                        update={"sites": (site,), "quorum": 1}
                    ),
                    "simulation": self.simulation.model_copy(
                        update={
                            "archives": {
                                name: address
                                for name, address in self.simulation.archives.items()
                                if name == site
                            },
                            "tables": {
                                name: table
                                for name, table in self.simulation.tables.items()
                                if name == site
                            },
                        }
                    ),
                }
            )
            for site in self.federation.sites
        }

    @property
    def digest(self) -> str:
        """SHA-256 over what decides the result: not where data lies, nor how it is carried."""
        decides = self.model_dump(
            mode="json",
            include={
                "rounds": True,
                "seed": True,
                "model": True,
                "strategy": True,
                "training": True,
                "federation": {"sites"},
            },
        )
        if self.model.start is not None:
            decides["model"]["start"] = self.model.start.version
        return hashlib.sha256(rfc8785.dumps(decides)).hexdigest()


# --- a site: where its archive is, what its data are, what it allows --------------------


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


def _bytes(value: Any) -> Any:
    try:
        return parse_size(value) if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(str(error)) from None


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

    versions: of one branch
    bytes:    of all versions and states there, such as "20 GB"
    """

    versions: PositiveInt | None = None
    bytes: Annotated[PositiveInt, BeforeValidator(_bytes)] | None = None


class CacheTable(Value):
    """``[policy.cache]``: decoded images in the work folder.

    bytes: of all of them, such as "50 GB"; what was not used for longest goes first
    days:  after so many without being used they go
    """

    bytes: Annotated[PositiveInt, BeforeValidator(_bytes)] | None = None
    days: PositiveFloat | None = None


class OptOuts(Value):
    """``[policy.opt_out]``: patients who do not take part, whatever is asked for.

    file: keyed hashes of Patient IDs, one a line; `iodeep site opt-out` adds to it
    key:  a file with the secret that keys them; it stays at the site
    """

    file: Path
    key: Path


class PolicyTable(Value):
    """``[policy]``: what the site allows. What no trust table covers is believed from nobody.

    min_studies:  usable ones, or there is no training
    max_unusable: the fraction of studies that may be unusable; beyond it there is no training
    """

    min_studies: PositiveInt = 1
    max_unusable: Probability = 1.0
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
    bytes: Annotated[PositiveInt, BeforeValidator(_bytes)] | None = None
    rules: tuple[ServiceRule, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.cert is None) != (self.key is None) or (self.tls and self.cert is None):
            raise ValueError("TLS needs both cert and key; tls says whose certificates to accept")
        return self


class Site(Value):
    """A hospital's own document. Relative paths are beside the document.

    key:     the site's private key (PEM), which signs the records it writes itself
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


# --- reading ------------------------------------------------------------------------------


def read_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment; ``overrides`` are ``key.inner=value`` with a TOML value or a word.

    Raises :class:`ConfigError` for a missing file, bad TOML, or any key or value.
    """
    document = _read_toml(path)
    for override in overrides:
        _apply(document, override)
    return parse_experiment(document, name=str(path))


def parse_experiment(document: Mapping[str, Any], *, name: str = "experiment") -> Experiment:
    """An experiment from the mapping its TOML or JSON holds. Raises :class:`ConfigError`."""
    return _validate(Experiment, document, name)


def read_site(path: Path, overrides: Sequence[str] = ()) -> Site:
    """Read a site's document; its relative paths become absolute. Raises ConfigError.

    overrides: as of :func:`read_experiment`
    """
    document = _read_toml(path)
    for override in overrides:
        _apply(document, override)
    site = _validate(Site, document, str(path))
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


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; expected a TOML document there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from error


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is no override; expected key=value, as rounds=5")
    try:
        value: JsonValue = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word: data=phantom, training.loss=dice
    *parents, last = key.split(".")
    table = document
    for parent in parents:
        inner = table.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a table")
        table = inner
    table[last] = value


def _validate(kind: type[T], document: Mapping[str, Any], name: str) -> T:
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        problems = [_explain(kind, problem) for problem in error.errors()]
        raise ConfigError(f"{name}: " + "; ".join(problems)) from None


def _explain(kind: type[BaseModel], problem: Any) -> str:
    path = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *parents, unknown = problem["loc"]
        nearest = difflib.get_close_matches(str(unknown), _keys_at(kind, parents), n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return f"unknown key {path!r}{hint}"
    if problem["type"] == "missing":
        return f"key {path!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    seen = problem["input"]
    shown = f" (seen: {seen!r})" if isinstance(seen, str | int | float | bool) else ""
    return f"{path or 'document'}: {message}{shown}"


def _keys_at(kind: type[BaseModel], parents: Sequence[str | int]) -> list[str]:
    """The valid keys of the table at ``parents``, found by walking the document's types."""
    current: Any = kind
    for step in parents:
        field = current.model_fields.get(step) if _is_table(current) else None
        candidates = _tables_in(field.annotation) if field else []
        if field is None or not candidates:
            continue  # a key of a dict such as [data.NAME]: stay with its values' type
        current = candidates[0]
    return list(current.model_fields) if _is_table(current) else []


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _tables_in(annotation: Any) -> list[type[BaseModel]]:
    if _is_table(annotation):
        return [cast(type[BaseModel], annotation)]
    return [t for inner in getattr(annotation, "__args__", ()) for t in _tables_in(inner)]
