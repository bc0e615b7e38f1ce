"""What a network is for, and the metrics by which people judge it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TaskName = Literal["segmentation", "classification"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task's metrics: their keys, without the part before, as in ``test_dice_mean``.

    word:      what the first of ``overall`` is called in titles
    overall:   the metrics of all labels together, and what each is called in a table; the first is
               the one that tables, curves and the choice of the best round look at
    per_label: the key of one label's metric
    """

    name: TaskName
    word: str
    overall: Mapping[str, str]
    per_label: str

    @property
    def headline(self) -> str:
        """The key of the metric that stands for all others."""
        return next(iter(self.overall))

    def columns(self, labels: Mapping[int, str]) -> dict[str, str]:
        """Every metric's key but the loss, and what it is called, given the labels' names."""
        return {
            **self.overall,
            **{self.per_label.format(number): name for number, name in sorted(labels.items())},
        }


TASKS: Mapping[TaskName, Task] = {
    "segmentation": Task(
        name="segmentation",
        word="Dice",
        overall={"dice_mean": "mean Dice"},
        per_label="dice_{}",
    ),
    "classification": Task(
        name="classification",
        word="AUC",
        overall={"auc": "AUC", "accuracy": "accuracy"},
        per_label="auc_{}",
    ),
}
