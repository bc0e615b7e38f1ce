"""Training and evaluating a segmentation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clients.training.metrics import Evaluation, dice_per_label, mean_present, summarise
from clients.training.pieces import Example
from clients.training.reproducible import reproducible
from clients.training.trainer import Trainer, require


class Segmenter(Trainer):
    """A network that gives scores to each voxel."""

    is_drawn = True

    def evaluate(
        self,
        examples: Sequence[Example],
        *,
        least: int = 1,
        on_case: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Dice and loss of the network as it is, one case at a time.

        Raises :class:`DataError` for no examples or labels beyond ``labels``.
        """
        require(examples)
        dice, losses = [], []
        with reproducible(threads=self.settings.threads, device=self.device):
            for number, example in enumerate(examples, start=1):
                label = self._checked(example.label)
                scores = self._scores(example.image)
                losses.append(float(self._loss(scores, label[None])))
                prediction = scores.argmax(dim=1).to(torch.uint8)
                dice.append(dice_per_label(prediction, label, labels=self.labels))
                if on_case:
                    on_case(number)
        return summarise(dice, losses, least=least)

    def scores_of(self, examples: Sequence[Example]) -> list[float]:
        scores = []
        for example in examples:
            dice = dice_per_label(self.predict(example.image), example.label, labels=self.labels)
            scores.append(mean_present(dice))
        return scores

    def predict(self, image: Tensor) -> Tensor:
        """The most likely label of every voxel: float32 (1, D, H, W) → uint8 (1, D, H, W)."""
        with reproducible(threads=self.settings.threads, device=self.device):
            return self._scores(image).argmax(dim=1).to(torch.uint8)

    def _scores(self, image: Tensor) -> Tensor:
        """Scores of one image on the CPU, without dropout: (1, D, H, W) → (1, K, D, H, W)."""
        with self._judging():
            return self._pieces.scores(self.network, image.to(self.device))
