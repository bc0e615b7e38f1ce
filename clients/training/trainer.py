"""Training one network on one site's examples, whatever its task."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv3d_weight_memory_format

from clients.training.augmentation import RandomChanges
from clients.training.losses import build_loss
from clients.training.metrics import Measurement
from clients.training.normalisation import estimate_statistics, freeze_statistics
from clients.training.pieces import Example, Piece, Pieces, cut_out
from clients.training.reproducible import reproducible
from clients.training.schedule import learning_rates, steps_per_round
from federation.config import Optimizer, TrainingTable
from federation.errors import ConfigError, DataError, ModelError
from federation.iodeep.architecture import Preprocessing

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """What one round of training was: distinct examples (slices, where the network takes those),
    optimiser steps, and the mean loss over the examples of all steps, as they were met."""

    examples: int
    steps: int
    loss: float


class Trainer(ABC):
    """Trains ``network`` in place as ``[training]`` says; its tasks evaluate it, each its own way.

    labels: how many labels there are beside 0; the network gives out one more score
    preprocessing: how the network takes examples; each as it is, without one
    device: CUDA when there is one, unless named

    Raises :class:`ConfigError` for a loss that the task has no use for.

    The same weights, examples and seed give the same weights again, bit for bit, on the same
    kind of processor, version of torch and number of threads. On CUDA that does not hold.
    """

    is_drawn: ClassVar[bool]
    """Whether a label is an image of its own, and not a class."""

    def __init__(
        self,
        network: nn.Module,
        settings: TrainingTable,
        *,
        labels: int,
        preprocessing: Preprocessing | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if settings.loss != "ce" and not self.is_drawn:
            raise ConfigError(
                f'loss "{settings.loss}" counts voxels, and a classification gives one class an '
                'image; use "ce"'
            )
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        # With channels last, 3D convolutions of few channels are a fifth faster on the CPU.
        self.network = convert_conv3d_weight_memory_format(
            network.to(self.device), torch.channels_last_3d
        )
        self.settings = settings
        self.labels = labels
        self._pieces = Pieces(preprocessing)
        self._loss = build_loss(settings.loss)

    def fit(
        self,
        examples: Sequence[Example],
        *,
        seed: int,
        round: int = 1,
        rounds: int = 1,
        on_step: Callable[[int, float], None] | None = None,
    ) -> FitResult:
        """Train for one round: as many epochs over ``examples``, or steps, as settings say.

        The optimiser starts anew; the learning rate goes on where ``round`` of ``rounds``,
        counted from 1, says. ``on_step`` hears the step, from 1, and its loss.

        Raises :class:`DataError` for no examples, labels beyond ``labels`` or sizes that
        differ within a batch, and :class:`ModelError` when the loss is not finite.
        """
        require(examples)
        pieces = self._pieces.of(examples)
        steps = steps_per_round(self.settings, len(pieces))
        rates = learning_rates(self.settings, len(pieces), round=round, rounds=rounds)
        with reproducible(seed=seed, threads=self.settings.threads, device=self.device):
            optimizer = _build_optimizer(self.network, self.settings.optimizer)
            order = torch.Generator().manual_seed(seed)
            changes = RandomChanges(
                self.settings.augmentation,
                seed=seed,
                dims=self._pieces.dims,
                is_drawn=self.is_drawn,
            )
            cut = self._pieces.cutter(seed=seed)
            self.network.train()
            if self.settings.normalisation == "frozen":
                freeze_statistics(self.network)
            total, seen = 0.0, 0
            batches = self._batches(examples, pieces, order, cut, changes)
            for step, rate in enumerate(rates, start=1):
                image, label = next(batches)
                loss = self._step(optimizer, rate, image, label)
                total += loss * len(image)
                seen += len(image)
                if on_step:
                    on_step(step, loss)
        return FitResult(examples=len(pieces), steps=steps, loss=total / seen)

    def epochs_of(self, examples: Sequence[Example]) -> float:
        """How often a round goes through ``examples``, whether settings say epochs or steps.

        Raises :class:`DataError` for no examples.
        """
        require(examples)
        if self.settings.steps is None:
            return self.settings.epochs or 1
        return self.settings.steps * self.settings.batch_size / len(self._pieces.of(examples))

    def estimate_statistics(
        self, examples: Sequence[Example], *, on_batch: Callable[[int], None] | None = None
    ) -> None:
        """Give batch normalisation the statistics of ``examples`` under the weights as they are.

        ``on_batch`` hears the batch, from 1. Raises :class:`DataError` for no examples.
        """
        require(examples)
        with reproducible(threads=self.settings.threads, device=self.device):
            estimate_statistics(self.network, self._in_order(examples, on_batch))

    @abstractmethod
    def evaluate(
        self,
        examples: Sequence[Example],
        *,
        least: int = 1,
        on_case: Callable[[int], None] | None = None,
    ) -> Measurement:
        """The task's metrics, and the loss, of the network as it is, one case at a time.

        least:   a metric of a label that fewer cases have is not measured
        on_case: hears the case, from 1

        Raises :class:`DataError` for no examples or labels beyond ``labels``.
        """

    @abstractmethod
    def scores_of(self, examples: Sequence[Example]) -> list[float]:
        """How well each case is done, 0 to 1: mean Dice over the labels that it has, or the
        probability of its class. NaN for a case without a label."""

    def _batches(
        self,
        examples: Sequence[Example],
        pieces: Sequence[Piece],
        order: torch.Generator,
        cut: Change,
        changes: Change,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch after epoch, each shuffled anew, cut and changed: (B, 1, D, H, W), or (B, 1, H, W)
        of slices, on the device."""
        size = self.settings.batch_size
        while True:
            shuffled = torch.randperm(len(pieces), generator=order).tolist()
            for first in range(0, len(shuffled), size):
                chosen = [cut_out(examples, pieces[n]) for n in shuffled[first : first + size]]
                taken = [cut(image, self._checked(label)) for image, label in chosen]
                if len({image.shape for image, _ in taken}) > 1:
                    raise DataError("examples of one batch differ in size; preprocess them to one")
                images, labels = zip(*(changes(*one) for one in taken), strict=True)
                yield torch.stack(images).to(self.device), torch.stack(labels).to(self.device)

    def _in_order(
        self, examples: Sequence[Example], on_batch: Callable[[int], None] | None
    ) -> Iterator[Tensor]:
        """All images once, cut: (B, 1, D, H, W), or (B, 1, H, W) of slices, on the device."""
        size = self.settings.batch_size
        cut = self._pieces.cutter(seed=0)  # the same patches for the same examples
        pieces = self._pieces.of(examples)
        for number, first in enumerate(range(0, len(pieces), size), start=1):
            chosen = [cut_out(examples, one) for one in pieces[first : first + size]]
            yield torch.stack([cut(*one)[0] for one in chosen]).to(self.device)
            if on_batch:
                on_batch(number)

    def _step(
        self, optimizer: torch.optim.Optimizer, rate: float, image: Tensor, label: Tensor
    ) -> float:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = self._loss(self.network(image), label)
        value = loss.item()
        if not math.isfinite(value):
            raise ModelError(
                f"training diverged: the loss became {value} at learning rate {rate:.2g}; "
                "nothing of this round can be used. Lower the learning rate"
            )
        torch.autograd.backward(loss)
        optimizer.step()
        return value

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """The network without dropout, and no gradients."""
        training = self.network.training
        self.network.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.network.train(training)

    def _checked(self, label: Tensor) -> Tensor:
        largest = int(label.max())
        if largest > self.labels:
            raise DataError(
                f"an example has label {largest}; the model's labels go from 1 to {self.labels}"
            )
        return label


def require(examples: Sequence[Example]) -> None:
    """Raises :class:`DataError` where there is nothing to learn from."""
    if not examples:
        raise DataError("there are no examples; expected at least one labelled case")


def _build_optimizer(network: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decay = settings.weight_decay
    match settings.name:
        case "adamw":
            return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(parameters, lr=settings.lr, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(
                parameters, lr=settings.lr, weight_decay=decay, momentum=settings.momentum
            )
