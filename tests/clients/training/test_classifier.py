"""Accuracy and AUC by hand, and a network that learns classes."""

import math
import warnings

import pytest
import torch

from clients.training import Classifier
from clients.training.metrics import classification
from federation.config import TrainingTable
from federation.errors import ConfigError, DataError
from federation.iodeep.architecture import Architecture, Preprocessing
from federation.networks import build_network
from tests.clients.training.examples import Case

TINY = {
    "out_channels": 2, "init_features": 4, "growth_rate": 4, "block_config": [1], "bn_size": 2,
    "norm": "INSTANCE",
}  # fmt: skip


def probabilities(*of_one: float) -> torch.Tensor:
    return torch.tensor([[1 - p, p] for p in of_one])


def test_accuracy_and_auc_by_hand() -> None:
    found = classification(
        probabilities(0.1, 0.6, 0.4, 0.9), torch.tensor([0, 0, 1, 1]), [1.0, 2.0, 3.0, 4.0]
    )
    assert found.accuracy == 0.5
    assert found.auc == found.of_class[0] == 0.75  # of four pairs, 0.6 before 0.4 is wrong
    assert (found.cases, found.loss) == (4, 2.5)
    assert dict(found.metrics) == {"auc": 0.75, "accuracy": 0.5, "auc_1": 0.75, "loss": 2.5}


def test_ties_count_half() -> None:
    found = classification(probabilities(0.5, 0.5), torch.tensor([0, 1]), [1.0])
    assert found.auc == 0.5


def test_a_class_that_few_cases_have_or_few_have_not_has_no_area() -> None:
    scores, truth = probabilities(0.1, 0.6, 0.4, 0.9), torch.tensor([0, 1, 1, 1])
    assert classification(scores, truth, [1.0]).auc == 1.0
    few = classification(scores, truth, [1.0], least=2)
    assert math.isnan(few.auc)
    assert math.isnan(few.of_class[0])
    assert few.accuracy == 0.75


def test_auc_of_three_classes_is_the_mean_of_each_against_the_others() -> None:
    scores = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3], [0.1, 0.2, 0.7]])
    found = classification(scores, torch.tensor([0, 1, 1, 2]), [1.0])
    assert found.of_class == (1.0, 1.0)
    assert found.auc == 1.0
    absent = classification(scores, torch.tensor([0, 1, 1, 1]), [1.0])
    assert absent.of_class == pytest.approx((1.0, math.nan), nan_ok=True)
    assert absent.auc == 1.0


def test_there_is_no_auc_of_one_class_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = classification(probabilities(0.1, 0.9), torch.tensor([1, 1]), [1.0])
    assert math.isnan(found.auc)
    assert math.isnan(found.of_class[0])
    assert found.accuracy == 0.5


def cases(dims: int, number: int, *, seed: int) -> list[Case]:
    """Noise (1, 12, 12, 12), or (1, 1, 12, 12), with a bright box in every other."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 12 if dims == 3 else 1, 12, 12)
    made = []
    for index in range(number):
        image = 0.1 * torch.randn(shape, generator=generator)
        y, x = torch.randint(0, 6, (2,), generator=generator).tolist()
        image[:, :6, y : y + 6, x : x + 6] += index % 2
        made.append(Case(image=image, label=torch.tensor([index % 2], dtype=torch.uint8)))
    return made


def classifier(dims: int = 3, **settings: object) -> Classifier:
    table = TrainingTable.model_validate(
        {"loss": "ce", "batch_size": 4, "optimizer": {"lr": 0.02}, **settings}
    )
    network = build_network(
        Architecture(network="monai.DenseNet", arguments={**TINY, "spatial_dims": dims})
    )
    taken = Preprocessing(spacing_mm=(1,) * dims, size=(12,) * dims)
    return Classifier(network, table, labels=1, preprocessing=taken, device="cpu")


@pytest.mark.parametrize("dims", [2, 3])
def test_training_learns_classes_and_repeats_bit_for_bit(dims: int) -> None:
    augmentation = {"flip": [0, 1], "noise": 0.1, "rotate_degrees": 10}
    losses = []
    for _ in range(2):
        trained = classifier(dims, steps=40, augmentation=augmentation)
        result = trained.fit(cases(dims, 16, seed=1), seed=5)
        evaluation = trained.evaluate(cases(dims, 12, seed=2))
        losses.append((result.loss, evaluation.loss))
    assert evaluation.auc > 0.9
    assert result.examples == 16
    assert losses[0] == losses[1]


def test_a_prediction_is_a_probability_of_each_class() -> None:
    (case,) = cases(3, 1, seed=0)
    predicted = classifier().predict(case.image)
    assert predicted.shape == (2,)
    assert float(predicted.sum()) == pytest.approx(1)


def test_statistics_are_measured_on_images_with_classes() -> None:
    classifier(batch_size=2).estimate_statistics(cases(3, 3, seed=0))


def test_losses_that_count_voxels_are_refused() -> None:
    with pytest.raises(ConfigError, match='"dice_ce" counts voxels'):
        classifier(loss="dice_ce")


def test_a_class_beyond_the_labels_is_refused() -> None:
    image = torch.zeros((1, 12, 12, 12))
    beyond = [Case(image=image, label=torch.tensor([2], dtype=torch.uint8))]
    for work in (classifier().evaluate, lambda found: classifier().fit(found, seed=0)):
        with pytest.raises(DataError, match="label 2"):
            work(beyond)
