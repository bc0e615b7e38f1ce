"""A fit makes the network better, and the same seed makes it the same network."""

import pytest
import torch
from torch import Tensor, nn

from clients.training import FitResult, seed_for
from federation.errors import DataError, ModelError
from tests.clients.training.examples import Case, boxes, tiny_network, tiny_trainer

EVERYTHING = {
    "probability": 0.7,
    "rotate_degrees": 10,
    "scale": 0.1,
    "translate": 1,
    "flip": [0, 1, 2],
    "noise": 0.1,
    "intensity": 0.1,
}


def weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("loss", ["dice_ce", "dice", "ce"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_fit_lowers_the_loss(loss, optimizer):
    trainer = tiny_trainer(
        epochs=4, loss=loss, optimizer={"name": optimizer, "lr": 0.02, "momentum": 0.9}
    )
    cases = boxes(6)
    before = trainer.evaluate(cases)

    result = trainer.fit(cases, seed=1)

    after = trainer.evaluate(cases)
    assert after.loss < before.loss
    assert result == FitResult(examples=6, steps=12, loss=result.loss)


def test_fit_learns_boxes():
    trainer = tiny_trainer(epochs=25)
    trainer.fit(boxes(6), seed=1)

    evaluation = trainer.evaluate(boxes(4, seed=9))

    assert evaluation.cases == 4
    assert min(evaluation.dice) > 0.8
    assert evaluation.dice_mean == pytest.approx(sum(evaluation.dice) / 2)


def test_same_seed_same_weights_bit_for_bit_whatever_happened_before():
    fitted = []
    for seed in (3, 3, 4):
        torch.rand(len(fitted) + 1)  # torch's own random state must not matter
        trainer = tiny_trainer(tiny_network(dropout=0.2), epochs=2, augmentation=EVERYTHING)
        trainer.fit(boxes(5), seed=seed)
        fitted.append(weights(trainer.network))

    assert torch.equal(fitted[0], fitted[1])
    assert not torch.equal(fitted[0], fitted[2])


def test_fit_leaves_torch_as_it_was():
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    trainer = tiny_trainer(threads=threads + 1)
    seen = []

    trainer.fit(boxes(2), seed=1, on_step=lambda *_: seen.append(torch.get_num_threads()))

    assert set(seen) == {threads + 1}
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("settings", "steps"), [({"epochs": 3}, 6), ({"steps": 5}, 5), ({}, 2)])
def test_fit_makes_the_steps_it_was_given_and_tells_of_each(settings, steps):
    told: list[tuple[int, float]] = []
    result = tiny_trainer(**settings).fit(
        boxes(4), seed=1, on_step=lambda step, loss: told.append((step, loss))
    )

    assert [step for step, _ in told] == list(range(1, steps + 1))
    assert result.steps == steps
    assert result.loss == pytest.approx(sum(loss for _, loss in told) / steps)


def test_steps_are_those_of_epochs():
    by_epochs, by_steps = tiny_trainer(epochs=2), tiny_trainer(steps=4)
    for trainer in (by_epochs, by_steps):
        trainer.fit(boxes(3), seed=1)
    for one, other in zip(
        by_epochs.network.parameters(), by_steps.network.parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_a_diverging_fit_is_an_error():
    trainer = tiny_trainer(epochs=50, loss="ce", optimizer={"name": "sgd", "lr": 1e30})
    with pytest.raises(ModelError, match=r"diverged: the loss became .*Lower the learning rate"):
        trainer.fit(boxes(4), seed=1)


@pytest.mark.parametrize("action", ["fit", "evaluate"])
def test_cases_that_cannot_be_used_are_refused(action):
    trainer = tiny_trainer()
    options = {"seed": 1} if action == "fit" else {}
    case = boxes(1)[0]
    strange = Case(image=case.image, label=case.label + 1)

    with pytest.raises(DataError, match="no examples"):
        getattr(trainer, action)([], **options)
    with pytest.raises(DataError, match="label 3; the model's labels go from 1 to 2"):
        getattr(trainer, action)([strange], **options)


def test_sizes_that_differ_within_a_batch_are_refused():
    case = boxes(1)[0]
    smaller = Case(image=case.image[:, :, :8], label=case.label[:, :, :8])
    with pytest.raises(DataError, match="differ in size"):
        tiny_trainer().fit([case, smaller], seed=1)


def test_predict_gives_a_label_for_every_voxel_and_keeps_the_mode():
    trainer = tiny_trainer(tiny_network(dropout=0.5))
    trainer.network.train()

    first, again = (trainer.predict(boxes(1)[0].image) for _ in range(2))

    assert (first.shape, first.dtype) == ((1, 8, 12, 8), torch.uint8)
    assert int(first.max()) <= 2
    assert torch.equal(first, again)
    assert trainer.network.training


def test_evaluation_does_not_change_batch_statistics():
    network = nn.Sequential(nn.Conv3d(1, 3, 1), nn.BatchNorm3d(3))
    tiny_trainer(network).evaluate(boxes(2))
    assert int(network.state_dict()["1.num_batches_tracked"]) == 0


def test_seeds_of_messages_are_stable_and_distinct():
    assert seed_for(1, "A", 1) == 7264741226191969178
    seeds = {seed_for(s, site, r) for s in (1, 2) for site in "AB" for r in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
