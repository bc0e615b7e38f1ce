"""An experiment: what to train, with whom, how. It travels."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import rfc8785
from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from federation.config.fields import Address, Fraction, Name, Probability
from federation.config.labels import LabelSource
from federation.config.reading import read_document, validate
from federation.iodeep.architecture import (
    NETWORK_OF_LAYERS,
    Architecture,
    Postprocessing,
    Preprocessing,
)
from federation.iodeep.labels import Line
from federation.iodeep.manifest import AGGREGATOR, Text
from federation.pacs.address import parse_address
from federation.task import TaskName
from federation.values import Value

POOLED = "pooled"  # the site of a centralised experiment


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
    """``[federation]``: who takes part, and when a round counts.

    sites: their names, which in a deployment are those that the aggregator approved
    mode:  ``simulation`` on one machine, or ``deployment`` among hospitals
    """

    sites: tuple[Name, ...]
    quorum: PositiveInt = 1
    deadline_s: PositiveFloat = 600
    mode: Literal["simulation", "deployment"] = "simulation"

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


def read_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment; ``overrides`` are ``key.inner=value`` with a TOML value or a word.

    Raises :class:`ConfigError` for a missing file, bad TOML, or any key or value.
    """
    document = read_document(path, overrides)
    return parse_experiment(document, name=str(path))


def parse_experiment(document: Mapping[str, Any], *, name: str = "experiment") -> Experiment:
    """An experiment from the mapping its TOML or JSON holds. Raises :class:`ConfigError`."""
    return validate(Experiment, document, name)
