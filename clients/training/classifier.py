"""Training and evaluating a classification of whole images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clients.training.metrics import ClassEvaluation, classification
from clients.training.pieces import Example
from clients.training.reproducible import reproducible
from clients.training.trainer import Trainer, require


class Classifier(Trainer):
    """A network that gives scores to an image; examples' labels are classes, uint8 (1,)."""

    is_drawn = False

    def evaluate(
        self,
        examples: Sequence[Example],
        *,
        least: int = 1,
        on_case: Callable[[int], None] | None = None,
    ) -> ClassEvaluation:
        """Accuracy, AUC and loss of the network as it is, one case at a time.

        Raises :class:`DataError` for no examples or classes beyond ``labels``.
        """
        require(examples)
        probabilities, truths, losses = [], [], []
        with reproducible(threads=self.settings.threads, device=self.device):
            for number, example in enumerate(examples, start=1):
                label = self._checked(example.label)
                scores = self._scores(example.image)
                losses.append(float(self._loss(scores, label[None])))
                probabilities.append(scores.softmax(dim=1))
                truths.append(int(label))
                if on_case:
                    on_case(number)
        return classification(torch.cat(probabilities), torch.tensor(truths), losses, least=least)

    def scores_of(self, examples: Sequence[Example]) -> list[float]:
        return [float(self.predict(one.image)[int(one.label)]) for one in examples]

    def predict(self, image: Tensor) -> Tensor:
        """The probability of each class: float32 (1, D, H, W) → float32 (K,)."""
        with reproducible(threads=self.settings.threads, device=self.device):
            return self._scores(image).softmax(dim=1)[0]

    def _scores(self, image: Tensor) -> Tensor:
        """Scores of one image on the CPU, without dropout: (1, D, H, W) → (1, K)."""
        with self._judging():
            return self._pieces.class_scores(self.network, image.to(self.device))
